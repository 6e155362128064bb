"""Fragments and the container files that hold them: the bytes of a checkpoint.

A fragment is a piece of one global tensor: a box of it (`slice`), or a row-major range of such a
box (`flat`, as a ZeRO partition cuts it). A section is what one rank writes: a 64-byte header,
fragments at 64-byte boundaries, an index (JSON), and a trailer of index length, index xxh3-64 and
magic. A container is one file: the sections of a node's ranks, each written at an offset of its own
(`alpenglow.train.checkpoint_section`). Their bytes are read by `alpenglow.train.fragment_read`.
This module is imported, never started.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import xxhash

Range = tuple[int, int]
Box = tuple[Range, ...]

HEADER = b"ALPENGLOW-FRAGMENTS-1\n".ljust(64, b"\0")
TRAILER = struct.Struct("<QQ8s")
TRAILER_MAGIC = b"ALPGLEND"
ALIGNMENT = 64

DTYPES: dict[str, torch.dtype] = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int64": torch.int64,
    "int32": torch.int32,
    "uint8": torch.uint8,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
# Bytes are moved as integers of the same width, because numpy has no bfloat16.
_CARRIERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written or read; the message is one sentence for the user."""


def dtype_name(dtype: torch.dtype) -> str:
    """Name a torch dtype as fragments do (`float32`); refuses dtypes that they do not hold."""
    if dtype not in _NAMES:
        raise CheckpointError(f"dtype {dtype}: fragments hold {', '.join(DTYPES)}")
    return _NAMES[dtype]


@dataclass(frozen=True)
class Fragment:
    """One piece of a global tensor, in global coordinates."""

    kind: str
    """What it is: "weight", "master", "exp_avg", "exp_avg_sq", "rng", ..."""
    name: str
    """Global tensor name: Hugging Face's without `gpt_neox.`."""
    global_shape: tuple[int, ...]
    slice: Box
    """[start, stop) for each dimension of the global tensor."""
    flat: Range | None
    """Row-major element range within `slice`; None is all of it."""
    dtype: str
    """A key of `DTYPES`."""

    def __post_init__(self) -> None:
        """Refuse a piece that does not lie inside its tensor."""
        lawful = (
            self.dtype in DTYPES
            and len(self.slice) == len(self.global_shape)
            and all(
                0 <= a <= b <= n for (a, b), n in zip(self.slice, self.global_shape, strict=True)
            )
            and (self.flat is None or 0 <= self.flat[0] <= self.flat[1] <= volume(self.slice))
        )
        if not lawful:
            raise CheckpointError(
                f"fragment of {self.kind} {self.name}: slice {self.slice}, flat {self.flat}, dtype "
                f"{self.dtype} do not fit the global shape {self.global_shape}"
            )

    @classmethod
    def of(
        cls,
        kind: str,
        name: str,
        tensor: torch.Tensor,
        *,
        global_shape: Sequence[int] | None = None,
        slice: Sequence[Sequence[int]] | None = None,
        flat: Sequence[int] | None = None,
    ) -> Fragment:
        """Describe `tensor`; without further words it is the whole of the global tensor."""
        shape = tuple(int(n) for n in (tensor.shape if global_shape is None else global_shape))
        box = tuple((0, n) for n in shape) if slice is None else as_box(slice)
        cut = None if flat is None else (int(flat[0]), int(flat[1]))
        return cls(kind, name, shape, box, cut, dtype_name(tensor.dtype))

    @property
    def numel(self) -> int:
        """Elements in it."""
        return volume(self.slice) if self.flat is None else self.flat[1] - self.flat[0]

    @property
    def nbytes(self) -> int:
        """Bytes of its elements."""
        return self.numel * DTYPES[self.dtype].itemsize

    def boxes(self) -> list[Box]:
        """The boxes of the global tensor that it covers, in the order in which its elements lie."""
        return flat_boxes(self.slice, self.flat or (0, volume(self.slice)))


class Stored(NamedTuple):
    """A fragment and where it lies."""

    fragment: Fragment
    file: str
    """Container's file name."""
    offset: int
    xxh3: str
    """xxh3-64 of its bytes, 16 hex digits."""


def as_box(ranges: Sequence[Sequence[int]]) -> Box:
    """Turn nested sequences (JSON, lists) into a box."""
    return tuple((int(a), int(b)) for a, b in ranges)


def volume(box: Box) -> int:
    """Elements in a box; 1 for a scalar's empty box."""
    return math.prod(stop - start for start, stop in box)


def intersect(one: Box, other: Box) -> Box | None:
    """The box that two boxes share, or None."""
    shared = tuple((max(a, c), min(b, d)) for (a, b), (c, d) in zip(one, other, strict=True))
    return shared if all(start < stop for start, stop in shared) else None


def flat_boxes(box: Box, flat: Range) -> list[Box]:
    """Cut a row-major element range of a box into boxes, in order.

    A range of an n-dimensional box is a ragged head, a full middle and a ragged tail, and head and
    tail are ranges of an (n-1)-dimensional box: at most 2n-1 boxes.
    """
    start, stop = flat
    if start >= stop:
        return []
    if not box or (start, stop) == (0, volume(box)):
        return [box]
    (low, _), rest = box[0], box[1:]
    row = volume(rest)
    first, last = start // row, stop // row
    at = ((low + first, low + first + 1),)
    if first == last:
        return [at + inner for inner in flat_boxes(rest, (start - first * row, stop - first * row))]
    boxes: list[Box] = []
    if start % row:
        boxes += [at + inner for inner in flat_boxes(rest, (start % row, row))]
        first += 1
    if first < last:
        boxes.append(((low + first, low + last), *rest))
    if stop % row:
        tail = ((low + last, low + last + 1),)
        boxes += [tail + inner for inner in flat_boxes(rest, (0, stop % row))]
    return boxes


def uncovered(target: Box, boxes: Sequence[Box]) -> tuple[Box | None, bool]:
    """Find what of `target` the boxes leave open: (one open box or None, whether any two overlap).

    The boundaries of all boxes cut the target into a coarse grid of cells that are each covered
    wholly or not at all; a cell's cover is counted, whatever the tensor's size.
    """
    inside = [shared for box in boxes if (shared := intersect(box, target)) is not None]
    edges = [
        sorted({*target[d], *(edge for box in inside for edge in box[d])})
        for d in range(len(target))
    ]
    index = [{edge: i for i, edge in enumerate(axis)} for axis in edges]
    cover = np.zeros([len(axis) - 1 for axis in edges], dtype=np.uint16)
    for box in inside:
        cover[tuple(slice(index[d][a], index[d][b]) for d, (a, b) in enumerate(box))] += 1
    overlap = bool((cover > 1).any())
    if not (cover == 0).any():
        return None, overlap
    cell = np.argwhere(cover == 0)[0]
    return tuple((edges[d][i], edges[d][i + 1]) for d, i in enumerate(cell)), overlap


def aligned(offset: int) -> int:
    """The next 64-byte boundary."""
    return -(-offset // ALIGNMENT) * ALIGNMENT


def carrier(tensor: torch.Tensor) -> np.ndarray[Any, np.dtype[Any]]:
    """View a CPU tensor as numpy integers of the same width (no copy)."""
    view: np.ndarray[Any, np.dtype[Any]] = tensor.view(_CARRIERS[tensor.dtype.itemsize]).numpy()
    return view


def encode(stored: Iterable[Stored]) -> bytes:
    """Index of a section: one line of JSON a fragment, offsets counted from the section's begin."""
    rows = (
        [f.kind, f.name, f.global_shape, f.slice, f.flat, f.dtype, offset, f.nbytes, xxh3]
        for f, _, offset, xxh3 in stored
    )
    lines = b",\n".join(json.dumps(row, separators=(",", ":")).encode() for row in rows)
    return b'{"format":1,"fragments":[\n' + lines + b"\n]}\n"


# ---------------------------------------------------------------- reading


def read_index(
    path: Path, size: int, sections: Sequence[tuple[int, int, str | None]]
) -> tuple[list[Stored], list[str]]:
    """Read and check the indexes of a container's sections.

    Args:
        path: the container.
        size: its size in bytes, as the manifest has it.
        sections: offset, bytes and index xxh3 in hex (None: whatever its trailer says) of each.

    Returns:
        The fragments, with offsets counted from the container's begin, and the sections' digests.

    Raises:
        CheckpointError: missing, short, or not what the manifest names.
    """
    stored: list[Stored] = []
    digests: list[str] = []
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno()).st_size
            if found != size:
                raise CheckpointError(f"{path}: {found} bytes where the manifest says {size}")
            for begin, nbytes, digest in sections:
                index, actual = _read_section_index(file.fileno(), path, begin, nbytes)
                if digest not in (None, actual):
                    raise CheckpointError(
                        f"{path}: the index does not have the checksum that the manifest names"
                    )
                end = nbytes - TRAILER.size - len(index)
                stored += _decode(index, path, begin, end)
                digests.append(actual)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from None
    return stored, digests


def _read_section_index(descriptor: int, path: Path, begin: int, nbytes: int) -> tuple[bytes, str]:
    end = begin + nbytes - TRAILER.size
    trailer = os.pread(descriptor, TRAILER.size, end)
    if len(trailer) != TRAILER.size:
        raise CheckpointError(f"{path}: the section at {begin} is cut")
    length, check, magic = TRAILER.unpack(trailer)
    if magic != TRAILER_MAGIC or length > nbytes - len(HEADER) - TRAILER.size:
        raise CheckpointError(f"{path}: the trailer of the section at {begin} is damaged")
    index = os.pread(descriptor, length, end - length)
    if xxhash.xxh3_64_intdigest(index) != check:
        raise CheckpointError(
            f"{path}: the index does not have the checksum that its trailer names"
        )
    return index, f"{check:016x}"


def _decode(index: bytes, path: Path, begin: int, end: int) -> Iterator[Stored]:
    for kind, name, shape, box, flat, dtype, offset, nbytes, xxh3 in json.loads(index)["fragments"]:
        cut = None if flat is None else (int(flat[0]), int(flat[1]))
        fragment = Fragment(kind, name, tuple(shape), as_box(box), cut, dtype)
        if nbytes != fragment.nbytes or offset < len(HEADER) or offset + nbytes > end:
            raise CheckpointError(f"{path}: fragment of {kind} {name} lies outside its section")
        yield Stored(fragment, path.name, begin + offset, xxh3)


def describe(fragment: Fragment) -> str:
    """Say where in its tensor a fragment lies."""
    text = describe_box(fragment.slice)
    return text if fragment.flat is None else f"{text} flat {fragment.flat[0]}:{fragment.flat[1]}"


def describe_box(box: Box) -> str:
    """Write a box as `[0:4, 8:16]`."""
    return "[" + ", ".join(f"{a}:{b}" for a, b in box) + "]"


def copy_shared(
    stored: Stored, data: np.ndarray[Any, np.dtype[np.uint8]], target: Box, out: torch.Tensor
) -> None:
    """Copy what a fragment's bytes and the target share into `out` (the target's own tensor)."""
    source, destination = data.view(carrier(out).dtype), carrier(out)
    position = 0
    for box in stored.fragment.boxes():
        count = volume(box)
        copy_box(source[position : position + count], box, target, destination)
        position += count


def copy_box(
    elements: np.ndarray[Any, np.dtype[Any]],
    box: Box,
    target: Box,
    destination: np.ndarray[Any, np.dtype[Any]],
) -> None:
    """Copy what a box's elements (1-D) and the target share into the target's own array."""
    if (shared := intersect(box, target)) is not None:
        piece = elements.reshape([b - a for a, b in box])
        destination[_within(shared, target)] = piece[_within(shared, box)]


def _within(box: Box, whole: Box) -> tuple[slice, ...]:
    return tuple(slice(a - low, b - low) for (a, b), (low, _) in zip(box, whole, strict=True))
