"""One rank's part of a checkpoint: a section of its node's container.

The layout of a section (where each fragment lies, how long the index is) follows from the
fragments alone, before a byte is written; so the ranks of a node know their places in the container
once and need no word with one another to write. `Image` is a section in host memory, filled by one
copy of the tensors and reused from save to save. This module is imported, never started.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import xxhash

from alpenglow.train.fragments import (
    DTYPES,
    HEADER,
    TRAILER,
    TRAILER_MAGIC,
    CheckpointError,
    Fragment,
    Stored,
    aligned,
    dtype_name,
    encode,
)

# Sections of a container begin at multiples of this: no two ranks write one page.
PAGE = 4096
# Bytes a call: how soon an abandoned save stops writing.
CALL = 1 << 24
_NO_CHECKSUM = "0" * 16

PWrite = Callable[[int, memoryview, int], int]


class Abandoned(CheckpointError):
    """Another rank could not write, so this one stops."""


@dataclass(frozen=True)
class Section:
    """Where the parts of a section lie, counted from its begin."""

    fragments: tuple[Fragment, ...]
    offsets: tuple[int, ...]
    """Of each fragment's bytes."""
    index: int
    """Offset of the index."""
    nbytes: int
    """Size, trailer included."""

    @classmethod
    def of(cls, fragments: Sequence[Fragment]) -> Section:
        """Lay fragments out."""
        offsets, offset = [], len(HEADER)
        for fragment in fragments:
            offsets.append(offset)
            offset += aligned(fragment.nbytes)
        empty = cls(tuple(fragments), tuple(offsets), offset, 0)
        length = len(empty.encode([_NO_CHECKSUM] * len(offsets)))
        return cls(empty.fragments, empty.offsets, offset, offset + length + TRAILER.size)

    def encode(self, checksums: Sequence[str]) -> bytes:
        """The index, given each fragment's xxh3-64 in hex."""
        rows = zip(self.fragments, self.offsets, checksums, strict=True)
        return encode(Stored(fragment, "", offset, xxh3) for fragment, offset, xxh3 in rows)


@dataclass(frozen=True)
class Place:
    """Where a rank's section lies."""

    container: str
    """File name, without the generation."""
    offset: int
    nbytes: int

    @staticmethod
    def of(ranks: Sequence[tuple[str, int]]) -> list[Place]:
        """Places by rank, given each rank's node and the size of its section."""
        ends: dict[str, int] = {}
        places = []
        for node, nbytes in ranks:
            offset = -(-ends.get(node, 0) // PAGE) * PAGE
            places.append(Place(node, offset, nbytes))
            ends[node] = offset + nbytes
        return places


class Image:
    """The bytes of a section in host memory.

    Args:
        fragments: what it holds.
        pinned: page-locked memory, which a GPU copies to at full rate.
    """

    def __init__(self, fragments: Sequence[Fragment], *, pinned: bool = False) -> None:
        self.section = Section.of(fragments)
        self._data = torch.empty(self.section.nbytes, dtype=torch.uint8, pin_memory=pinned)
        self._data.fill_(0)  # touched now, or the first copy would pay for every page
        self.bytes: memoryview = self._data.numpy().data
        self.bytes[: len(HEADER)] = HEADER

    def take(self, tensors: Sequence[torch.Tensor]) -> None:
        """Copy the tensors (any device) into their places; they may change when this returns.

        Raises:
            CheckpointError: a tensor is not what its fragment announced.
        """
        section = self.section
        moved = False
        for fragment, offset, tensor in zip(
            section.fragments, section.offsets, tensors, strict=True
        ):
            if tensor.numel() != fragment.numel or dtype_name(tensor.dtype) != fragment.dtype:
                raise CheckpointError(
                    f"fragment of {fragment.kind} {fragment.name}: {fragment.numel} elements of "
                    f"{fragment.dtype} announced, {tensor.numel()} of {tensor.dtype} given"
                )
            place = self._data[offset : offset + fragment.nbytes].view(DTYPES[fragment.dtype])
            place.copy_(tensor.detach().reshape(-1), non_blocking=True)
            moved = moved or tensor.is_cuda
        if moved:
            torch.cuda.current_stream().synchronize()

    def seal(self) -> None:
        """Compute checksums and write index and trailer: the section is whole."""
        section = self.section
        checksums = [
            xxhash.xxh3_64_hexdigest(self.bytes[offset : offset + fragment.nbytes])
            for fragment, offset in zip(section.fragments, section.offsets, strict=True)
        ]
        index = section.encode(checksums)
        digest = xxhash.xxh3_64_intdigest(index)
        end = index + TRAILER.pack(len(index), digest, TRAILER_MAGIC)
        self.bytes[section.index :] = end


def write_section(
    path: Path,
    data: memoryview,
    offset: int,
    *,
    pwrite: PWrite | None = None,
    abandoned: threading.Event | None = None,
) -> None:
    """Write a section into its container and to disk; other ranks may write the same file.

    Args:
        path: the container; made if absent.
        data: the section.
        offset: where it begins.
        pwrite: in place of `os.pwrite`.
        abandoned: set by another thread when writing on has become pointless.

    Raises:
        CheckpointError: the file system refuses; one sentence that names the file.
        Abandoned: `abandoned` was set meanwhile.
    """
    write = pwrite or os.pwrite
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            while data:
                if abandoned is not None and abandoned.is_set():
                    raise Abandoned(f"{path}: abandoned")
                written = write(descriptor, data[:CALL], offset)
                data, offset = data[written:], offset + written
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from error
