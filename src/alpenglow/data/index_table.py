"""One table of the index: keys to document numbers, sorted on disk in bounded memory.

    builder = TableBuilder(folder, "url", documents=100_000_000)
    builder.add(keys, documents)            # any number of times, documents ascending
    builder.write(group, grouped=False)
    Table(mapped group).find(key)           # the documents, ascending

Entries are sorted a run at a time into a file; the runs are merged by ranges of keys, halved until
a range fits in memory or holds one key alone, whose documents are in order already. So no skew (a
licence that most documents have) needs more memory. Keys are hashes, evenly spread: a list of where
each 16-bit beginning starts leaves a search within a few KB.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

RUN = 1 << 21
"""Entries sorted at once: 24 to 64 MB of memory a table."""
BEGINNINGS = 1 << 16

Keys = NDArray[np.uint64]
Numbers = NDArray[np.unsignedinteger[Any]]
Mapped = np.memmap[Any, np.dtype[Any]]


class TableBuilder:
    """Collects entries; see the module.

    Args:
        folder: for files that are gone after `write`.
        name: of the table.
        documents: how many there are, which sets the width of a number.
        run: entries sorted at once.
    """

    def __init__(self, folder: Path, name: str, documents: int, *, run: int = RUN) -> None:
        self.entries = 0
        self._run = run
        self._dtype = np.dtype("<u4" if documents < 1 << 32 else "<u8")
        self._files = [folder / f".index.{name}.{part}" for part in ("key", "document")]
        self._unique = [folder / f".index.{name}.{part}" for part in ("unique", "first")]
        self._open = [path.open("wb") for path in self._files]
        self._waiting: list[tuple[Keys, Numbers]] = []
        self._count = 0
        self._runs: list[tuple[int, int]] = []

    def add(self, keys: Keys, documents: NDArray[Any]) -> None:
        """Add entries; documents are at least those added before."""
        for at in range(0, len(keys), self._run):
            part = slice(at, at + self._run)
            self._waiting.append((keys[part], documents[part].astype(self._dtype)))
            self._count += len(self._waiting[-1][0])
            if self._count >= self._run:
                self._spill()

    def write(self, group: h5py.Group, *, grouped: bool) -> None:
        """Sort, write the table into a group and remove the files.

        Args:
            group: to write into.
            grouped: store a key once, with where its documents begin: for values that many
                documents have.
        """
        self._spill()
        for file in self._open:
            file.close()
        starts = np.zeros(BEGINNINGS + 1, np.uint64)
        documents = group.create_dataset("document", (self.entries,), self._dtype)
        if grouped:
            with self._unique[0].open("wb") as keys, self._unique[1].open("wb") as first:
                last, at = None, 0
                for chunk, numbers in self._sorted():
                    new = np.concatenate([[last is None or chunk[0] != last], np.diff(chunk) != 0])
                    keys.write(chunk[new].tobytes())
                    first.write((at + np.flatnonzero(new)).astype("<u8").tobytes())
                    starts[1:] += _beginnings(chunk[new])
                    documents[at : at + len(chunk)] = numbers
                    at, last = at + len(chunk), chunk[-1]
                first.write(np.uint64(at).tobytes())
            for path, name in zip(self._unique, ("key", "first"), strict=True):
                _copy(path, group, name)
        else:
            unsorted_keys = group.create_dataset("key", (self.entries,), "<u8")
            at = 0
            for chunk, numbers in self._sorted():
                unsorted_keys[at : at + len(chunk)] = chunk
                documents[at : at + len(chunk)] = numbers
                starts[1:] += _beginnings(chunk)
                at += len(chunk)
        group.create_dataset("beginning", data=np.cumsum(starts, dtype=np.uint64))
        self.close()

    def close(self) -> None:
        """Remove the files."""
        for file in self._open:
            file.close()
        for path in (*self._files, *self._unique):
            path.unlink(missing_ok=True)

    def _spill(self) -> None:
        if not self._count:
            return
        keys = np.concatenate([keys for keys, _ in self._waiting])
        documents = np.concatenate([documents for _, documents in self._waiting])
        order = np.argsort(keys, kind="stable")
        self._open[0].write(keys[order].astype("<u8").tobytes())
        self._open[1].write(documents[order].tobytes())
        self._runs.append((self.entries, self.entries + self._count))
        self.entries += self._count
        self._waiting, self._count = [], 0

    def _sorted(self) -> Iterator[tuple[Keys, Numbers]]:
        """All entries by key, then document, in parts."""
        if not self.entries:
            return
        types = (np.dtype("<u8"), self._dtype)
        keys, documents = (
            np.memmap(path, dtype, "r") for path, dtype in zip(self._files, types, strict=True)
        )
        yield from self._range(keys, documents, self._runs, 0, 1 << 64)

    def _range(
        self,
        keys: Mapped,
        documents: Mapped,
        spans: list[tuple[int, int]],
        least: int,
        most: int,
    ) -> Iterator[tuple[Keys, Numbers]]:
        """Entries in these spans, one of each run, whose keys are all in [least, most)."""
        spans = [(begin, end) for begin, end in spans if begin < end]
        size = sum(end - begin for begin, end in spans)
        if not size:
            return
        if most - least == 1 or min(keys[b] for b, _ in spans) == max(
            keys[e - 1] for _, e in spans
        ):
            for begin, end in spans:
                for at in range(begin, end, self._run):
                    part = slice(at, min(end, at + self._run))
                    yield np.array(keys[part]), np.array(documents[part])
                    _let_go(keys, documents)
        elif size <= self._run:
            chunk = np.concatenate([keys[begin:end] for begin, end in spans])
            order = np.argsort(chunk, kind="stable")
            numbers = np.concatenate([documents[begin:end] for begin, end in spans])
            _let_go(keys, documents)
            yield chunk[order], numbers[order]
        else:
            middle = (least + most) // 2
            cuts = [
                begin + int(np.searchsorted(keys[begin:end], np.uint64(middle)))
                for begin, end in spans
            ]
            _let_go(keys)
            lower = [(begin, cut) for (begin, _), cut in zip(spans, cuts, strict=True)]
            upper = [(cut, end) for (_, end), cut in zip(spans, cuts, strict=True)]
            yield from self._range(keys, documents, lower, least, middle)
            yield from self._range(keys, documents, upper, middle, most)


class Table(NamedTuple):
    """A table to look in; the arrays are mapped."""

    key: Keys
    document: Numbers
    beginning: NDArray[np.uint64]
    first: NDArray[np.uint64] | None
    """Where a key's documents begin, [keys + 1]; None where key and document go in pairs."""

    def find(self, key: int) -> Numbers:
        """The documents of a key, ascending."""
        low, high = (int(n) for n in self.beginning[key >> 48 : (key >> 48) + 2])
        near = self.key[low:high]
        begin = low + int(np.searchsorted(near, np.uint64(key), "left"))
        end = low + int(np.searchsorted(near, np.uint64(key), "right"))
        if self.first is not None and begin < end:
            begin, end = int(self.first[begin]), int(self.first[end])
        return self.document[begin:end]


def _beginnings(keys: Keys) -> NDArray[np.uint64]:
    return np.bincount((keys >> np.uint64(48)).astype(np.int64), minlength=BEGINNINGS).astype(
        np.uint64
    )


def _let_go(*arrays: Mapped) -> None:
    """Give back the memory of what was read of mapped files; the next look reads it again."""
    for array in arrays:
        mapping = getattr(array, "_mmap", None)
        if mapping is not None:
            mapping.madvise(mmap.MADV_DONTNEED)


def _copy(path: Path, group: h5py.Group, name: str) -> None:
    count = path.stat().st_size // 8
    dataset = group.create_dataset(name, (count,), "<u8")
    with path.open("rb") as file:
        for at in range(0, count, RUN):
            dataset[at : at + RUN] = np.fromfile(file, "<u8", RUN)
