"""Tensors as a release holds them: dtypes, casts that are checked, the layout of safetensors files.

The format is a length (u64, little endian), a JSON header of dtypes, shapes and byte ranges, and
the bytes (https://github.com/huggingface/safetensors, "Format"): with the shapes known, every
tensor's place is known before a byte is written. `alpenglow.release.tensor_writer` writes them.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from alpenglow.release.error import ReleaseError

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
CHUNK = 1 << 19
"""Elements cast, checked and hashed at a time: 1 MiB of fp16, which stays in a core's cache."""
ONE_FILE = "model.safetensors"
_CODES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
# Bits of the exponent: all of them are set in infinities and NaNs, and in nothing else (IEEE 754).
_EXPONENTS = {torch.float32: 0x7F800000, torch.float16: 0x7C00, torch.bfloat16: 0x7F80}

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Place:
    """Where a tensor lies."""

    name: str
    shape: tuple[int, ...]
    offset: int
    """From the file's begin."""
    nbytes: int


@dataclass(frozen=True)
class File:
    """One safetensors file before it is written."""

    name: str
    header: bytes
    places: tuple[Place, ...]

    @property
    def nbytes(self) -> int:
        """Size of the file."""
        return len(self.header) + sum(place.nbytes for place in self.places)


def lay_out(shapes: Shapes, dtype: torch.dtype, shard_bytes: int) -> list[File]:
    """Share tensors among files, in order; a file holds at most `shard_bytes` or one tensor.

    Args:
        shapes: every tensor by the name that it has in the file.
        dtype: of all of them.
        shard_bytes: most bytes of tensors in a file.
    """
    groups: list[list[str]] = []
    filled = 0
    for name, shape in shapes.items():
        nbytes = math.prod(shape) * dtype.itemsize
        if not groups or filled + nbytes > shard_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += nbytes
    files = []
    for number, names in enumerate(groups, 1):
        several = f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        files.append(_file(ONE_FILE if len(groups) == 1 else several, names, shapes, dtype))
    return files


def _file(file: str, names: list[str], shapes: Shapes, dtype: torch.dtype) -> File:
    # transformers refuses a file whose metadata does not say which framework wrote it.
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    places = []
    offset = 0
    for name in names:
        nbytes = math.prod(shapes[name]) * dtype.itemsize
        ends = [offset, offset + nbytes]
        entries[name] = {"dtype": _CODES[dtype], "shape": [*shapes[name]], "data_offsets": ends}
        places.append((name, offset, nbytes))
        offset += nbytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // 8) * 8)  # the bytes after it begin at a multiple of 8
    header = struct.pack("<Q", len(text)) + text
    base = len(header)
    return File(
        file,
        header,
        tuple(Place(name, tuple(shapes[name]), base + at, n) for name, at, n in places),
    )


class Caster:
    """Turns pieces of tensors into the bytes that a release holds, in small chunks of its own.

    Args:
        dtype: of the release.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._room = torch.empty(CHUNK, dtype=dtype)
        self._scratch = np.empty(CHUNK, dtype=f"u{dtype.itemsize}")

    def chunks(self, tensor: torch.Tensor, name: str) -> Iterator[memoryview[int]]:
        """The bytes of a contiguous tensor after the cast; each chunk is valid until the next.

        Raises:
            ReleaseError: a value that is not finite after the cast; names the tensor and the value.
        """
        flat = tensor.detach().reshape(-1)
        for start in range(0, flat.numel(), CHUNK):
            piece = flat[start : start + CHUNK]
            if piece.dtype != self._dtype:
                piece = self._room[: piece.numel()].copy_(piece)
            if not _finite(piece, self._scratch):
                raise _refusal(flat, self._dtype, name)
            yield as_bytes(piece)


def cast(tensor: torch.Tensor, dtype: torch.dtype, name: str) -> torch.Tensor:
    """Change the dtype of a whole tensor; refuses what is not finite afterwards.

    Raises:
        ReleaseError: as `Caster.chunks`.
    """
    out = tensor.to(dtype).contiguous()
    flat = out.reshape(-1)
    scratch = np.empty(min(CHUNK, flat.numel()), dtype=f"u{dtype.itemsize}")
    if all(_finite(flat[at : at + CHUNK], scratch) for at in range(0, flat.numel(), CHUNK)):
        return out
    raise _refusal(tensor, dtype, name)


def as_bytes(tensor: torch.Tensor) -> memoryview[int]:
    """Return the bytes of a contiguous CPU tensor (no copy)."""
    return tensor.detach().reshape(-1).view(torch.uint8).numpy().data


def _finite(
    flat: torch.Tensor, scratch: np.ndarray[tuple[int], np.dtype[np.unsignedinteger]]
) -> bool:
    """Twenty times as fast as torch.isfinite on fp16, which has no vector code for it on a CPU."""
    if not flat.numel():
        return True
    exponent = _EXPONENTS[flat.dtype]
    words = np.frombuffer(as_bytes(flat), dtype=scratch.dtype)
    masked = np.bitwise_and(words, scratch.dtype.type(exponent), out=scratch[: len(words)])
    return int(masked.max()) != exponent


def _refusal(tensor: torch.Tensor, dtype: torch.dtype, name: str) -> ReleaseError:
    low, high = (float(value) for value in torch.aminmax(tensor))
    largest = max(abs(low), abs(high))
    if not math.isfinite(largest):
        return ReleaseError(f"{name}: holds values that are not finite; release an earlier step")
    return ReleaseError(
        f"{name}: its value {largest:.6g} overflows {dtype} (largest "
        f"{torch.finfo(dtype).max:.6g}); set dtype to bf16 or fp32"
    )
