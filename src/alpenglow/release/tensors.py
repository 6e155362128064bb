"""Safetensors files written one tensor at a time.

The safetensors library writes a file from tensors that are all in memory; a release should need the
memory of one. The format is a length (u64, little endian), a JSON header of dtypes, shapes and byte
ranges, and the bytes (https://github.com/huggingface/safetensors, "Format"). Read back with the
library itself: `alpenglow.release.verify`.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import xxhash

from alpenglow.release.error import ReleaseError

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_CODES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Written:
    """What a set of files holds."""

    files: dict[str, str]
    """Tensor name -> file name."""
    hashes: dict[str, str]
    """Tensor name -> xxh3-64 of its bytes as written, in hex."""
    nbytes: int
    """Bytes of all tensors."""
    parameters: int


def cast(tensor: torch.Tensor, dtype: torch.dtype, name: str) -> torch.Tensor:
    """Change the dtype; refuses what is not finite afterwards.

    Raises:
        ReleaseError: names the tensor and its largest value.
    """
    out = tensor.to(dtype).contiguous()
    if bool(torch.isfinite(out).all()):
        return out
    if not bool(torch.isfinite(tensor).all()):
        raise ReleaseError(f"{name}: holds values that are not finite; release an earlier step")
    largest = float(tensor.abs().max())
    limit = torch.finfo(dtype).max
    raise ReleaseError(
        f"{name}: its largest value {largest:.6g} overflows {dtype} (largest {limit:.6g}); "
        "set dtype to bf16 or fp32"
    )


def as_bytes(tensor: torch.Tensor) -> memoryview:
    """Return the bytes of a contiguous CPU tensor (no copy)."""
    return tensor.detach().reshape(-1).view(torch.uint8).numpy().data


def plan(shapes: Shapes, itemsize: int, shard_bytes: int) -> list[list[str]]:
    """Share tensors among files, in order; a file holds at most `shard_bytes` or one tensor."""
    files: list[list[str]] = []
    filled = 0
    for name, shape in shapes.items():
        nbytes = math.prod(shape) * itemsize
        if not files or filled + nbytes > shard_bytes:
            files.append([])
            filled = 0
        files[-1].append(name)
        filled += nbytes
    return files


def write_model(
    folder: Path,
    shapes: Shapes,
    get: Callable[[str], torch.Tensor],
    dtype: torch.dtype,
    *,
    shard_bytes: int,
    done: Callable[[int, int], None] = lambda _done, _total: None,
) -> Written:
    """Write `model.safetensors`, or numbered shards with their index above `shard_bytes`.

    Args:
        folder: where; must exist.
        shapes: every tensor by the name that it has in the file, in order.
        get: gives a tensor by that name; called once for each, in order, so that one at a time is
            in memory.
        dtype: of every tensor in the file.
        shard_bytes: largest size of one file.
        done: told (tensors written, tensors in all) after each.

    Raises:
        ReleaseError: a tensor of another shape, or one that `dtype` cannot hold.
    """
    groups = plan(shapes, dtype.itemsize, shard_bytes)
    many = len(groups) > 1
    total = sum(math.prod(shape) for shape in shapes.values())
    files: dict[str, str] = {}
    hashes: dict[str, str] = {}
    for number, names in enumerate(groups, 1):
        file = f"model-{number:05d}-of-{len(groups):05d}.safetensors" if many else _ONE_FILE
        with (folder / file).open("wb") as out:
            out.write(_header({name: shapes[name] for name in names}, dtype))
            for name in names:
                tensor = cast(get(name), dtype, name)
                if tuple(tensor.shape) != tuple(shapes[name]):
                    shape = tuple(tensor.shape)
                    raise ReleaseError(f"{name}: shape {shape}, the model has {shapes[name]}")
                data = as_bytes(tensor)
                hashes[name] = xxhash.xxh3_64_hexdigest(data)
                files[name] = file
                out.write(data)
                done(len(files), len(shapes))
            out.flush()
            os.fsync(out.fileno())
    if many:
        index = {
            "metadata": {"total_size": total * dtype.itemsize, "total_parameters": total},
            "weight_map": files,
        }
        (folder / f"{_ONE_FILE}.index.json").write_text(json.dumps(index, indent=2) + "\n")
    return Written(files, hashes, total * dtype.itemsize, total)


_ONE_FILE = "model.safetensors"


def _header(shapes: Shapes, dtype: torch.dtype) -> bytes:
    # transformers refuses a file whose metadata does not say which framework wrote it.
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        end = offset + math.prod(shape) * dtype.itemsize
        entries[name] = {"dtype": _CODES[dtype], "shape": [*shape], "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // 8) * 8)  # the bytes after it begin at a multiple of 8
    return struct.pack("<Q", len(text)) + text
