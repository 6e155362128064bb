"""Fragments read from disk into tensors: in pieces, checksums computed on the way.

A mapped file would be less code, but its pages count as memory of the process, and a reader's peak
would be a fragment more than the tensor that it asked for. Here the peak is the tensor and one
chunk. Any number of threads may read at once. This module is imported, never started.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash

from alpenglow.train.fragments import (
    DTYPES,
    Box,
    CheckpointError,
    Range,
    Stored,
    carrier,
    copy_box,
    describe,
    flat_boxes,
    intersect,
    volume,
)

CHUNK = 1 << 20
"""Bytes a read: few enough to be hashed and copied while they lie in a core's cache."""

Elements = np.ndarray[Any, np.dtype[Any]]


def read_shared(path: Path, stored: Stored, target: Box, out: torch.Tensor, *, check: bool) -> None:
    """Read what a fragment and a box share into the box's own tensor.

    Args:
        path: the container.
        stored: the fragment; its elements have the dtype of `out`.
        target: the box, in coordinates of the global tensor.
        out: contiguous, of the box's shape.
        check: read the whole fragment, and compare its checksum.

    Raises:
        CheckpointError: the file is missing or short, or the bytes do not have the checksum of the
            index; `out` may then hold anything.
    """
    digest = xxhash.xxh3_64() if check else None
    destination = carrier(out)
    offset = stored.offset
    with _opened(path) as descriptor:
        for box in stored.fragment.boxes():
            begin = _begin(box, target)
            if begin is None:
                _read_through(descriptor, path, offset, box, target, destination, digest)
            else:
                here = destination.reshape(-1)[begin : begin + volume(box)].view(np.uint8).data
                _read_straight(descriptor, path, offset, here, digest)
            offset += volume(box) * out.dtype.itemsize
    _compare(path, stored, digest)


def check_bytes(path: Path, stored: Stored) -> None:
    """Read a fragment and compare its checksum.

    Raises:
        CheckpointError: as `read_shared`.
    """
    digest = xxhash.xxh3_64()
    nbytes = stored.fragment.nbytes
    chunk = memoryview(bytearray(min(CHUNK, nbytes)))
    with _opened(path) as descriptor:
        for start in range(0, nbytes, CHUNK):
            piece = chunk[: nbytes - start]
            _read_straight(descriptor, path, stored.offset + start, piece, digest)
    _compare(path, stored, digest)


class RowReader:
    """One fragment read once, in the order of its tensor's rows.

    Its elements lie in the order of the rows, so whoever wants the tensor's rows in order reads
    every fragment from its begin to its end, and the checksum costs no second look.

    Args:
        path: the container.
        stored: the fragment.
        check: compare its checksum when its last element is read; else `finish` reads nothing.
    """

    def __init__(self, path: Path, stored: Stored, *, check: bool) -> None:
        self._path, self._stored = path, stored
        self._digest = xxhash.xxh3_64() if check else None
        self._boxes = stored.fragment.boxes()
        self._reach = (self._boxes[0][0][0], self._boxes[-1][0][1]) if self._boxes else (0, 0)
        self._scratch = np.empty(0, dtype=np.uint8)
        self._at = 0
        self._descriptor: int | None = None

    def read(self, rows: Range, out: Elements) -> None:
        """Read what lies in these rows.

        Args:
            rows: [start, stop) of the tensor's first dimension, not before those of earlier calls.
            out: the rows' own array, in every other dimension as the tensor is.

        Raises:
            CheckpointError: the file is missing or short, or the checksum is wrong.
        """
        if rows[1] <= self._reach[0] or rows[0] >= self._reach[1]:
            return
        position = 0
        for box in self._boxes:
            count = volume(box)
            low, high = max(rows[0], box[0][0]), min(rows[1], box[0][1])
            if low < high:
                row = count // (box[0][1] - box[0][0])
                start = position + (low - box[0][0]) * row
                self._skip(start)
                self._fill(((low - rows[0], high - rows[0]), *box[1:]), out)
            position += count
        if self._at == position:
            self.close(whole=True)

    def finish(self) -> None:
        """Read the rest, for its checksum; done when this returns.

        Raises:
            CheckpointError: as `read`.
        """
        if self._digest is not None:
            self._skip(self._stored.fragment.numel)
        self.close(whole=self._digest is not None)

    def close(self, *, whole: bool = False) -> None:
        """Give the file back; with `whole`, compare the checksum."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        if whole:
            _compare(self._path, self._stored, self._digest)
            self._digest = None

    def _skip(self, position: int) -> None:
        if self._digest is not None and position > self._at:
            size = DTYPES[self._stored.fragment.dtype].itemsize
            chunk = memoryview(bytearray(min(CHUNK, (position - self._at) * size)))
            while self._at < position:
                piece = chunk[: (position - self._at) * size]
                self._straight(piece)
                self._at += len(piece) // size
        self._at = position

    def _fill(self, box: Box, out: Elements) -> None:
        place = out[tuple(slice(a, b) for a, b in box)]
        if place.flags.c_contiguous:
            self._straight(place.reshape(-1).view(np.uint8).data)
        else:
            if self._scratch.nbytes < place.nbytes:
                self._scratch = np.empty(place.nbytes, dtype=np.uint8)
            scratch = self._scratch[: place.nbytes]
            self._straight(scratch.data)
            place[...] = scratch.view(out.dtype).reshape(place.shape)
        self._at += place.size

    def _straight(self, out: memoryview) -> None:
        """Read at the present position, which the caller moves."""
        itemsize = DTYPES[self._stored.fragment.dtype].itemsize
        try:
            if self._descriptor is None:
                self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            offset = self._stored.offset + self._at * itemsize
            _read_straight(self._descriptor, self._path, offset, out, self._digest)
        except OSError as error:
            raise CheckpointError(f"{self._path}: {error.strerror or error}") from None


def _begin(box: Box, target: Box) -> int | None:
    """Where in the target's elements a box begins that lies inside it in one piece, else None."""
    begin, stride, whole = 0, 1, True
    for (start, stop), (low, high) in zip(reversed(box), reversed(target), strict=True):
        if start < low or stop > high or not (whole or stop - start == 1):
            return None
        begin += (start - low) * stride
        stride *= high - low
        whole = whole and (start, stop) == (low, high)
    return begin


def _read_through(
    descriptor: int,
    path: Path,
    offset: int,
    box: Box,
    target: Box,
    destination: Elements,
    digest: xxhash.xxh3_64 | None,
) -> None:
    """Read a box in chunks of whole rows where a row fits, and copy what the target shares."""
    if digest is None and intersect(box, target) is None:
        return
    itemsize, count = destination.itemsize, volume(box)
    row = volume(box[1:]) if box else 1
    most = CHUNK // itemsize
    step = most // row * row if row <= most else most
    chunk = np.empty(min(step, count), dtype=destination.dtype)
    for start in range(0, count, step):
        stop = min(start + step, count)
        parts = flat_boxes(box, (start, stop))
        if digest is None and all(intersect(part, target) is None for part in parts):
            continue
        raw = chunk[: stop - start].view(np.uint8).data
        _read_straight(descriptor, path, offset + start * itemsize, raw, digest)
        position = 0
        for part in parts:
            end = position + volume(part)
            copy_box(chunk[position:end], part, target, destination)
            position = end


def _read_straight(
    descriptor: int, path: Path, offset: int, out: memoryview, digest: xxhash.xxh3_64 | None
) -> None:
    for start in range(0, len(out), CHUNK):
        piece = out[start : start + CHUNK]
        filled = 0
        while filled < len(piece):
            got = os.preadv(descriptor, [piece[filled:]], offset + start + filled)
            if not got:
                raise CheckpointError(f"{path}: it ends before {offset + start + filled}")
            filled += got
        if digest is not None:
            digest.update(piece)


def _compare(path: Path, stored: Stored, digest: xxhash.xxh3_64 | None) -> None:
    if digest is not None and digest.hexdigest() != stored.xxh3:
        fragment = stored.fragment
        raise CheckpointError(
            f"{path}: fragment of {fragment.kind} {fragment.name} {describe(fragment)} has the "
            "wrong checksum"
        )


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from None
    try:
        yield descriptor
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from None
    finally:
        os.close(descriptor)
