"""The index of a catalogue's documents: `index.h5`, by id, URL, domain, licence and source.

    index = DocumentIndex.open(catalogue)          # built first where it is absent or stale
    numbers = index.find("url", "https://example.org/a")
    for shard, rows in index.by_shard(numbers): ...

It is found by 64-bit hashes (`index_keys`), so what it gives are candidates: a reader compares them
with the shard. A removal leaves documents where they are, so an index stays good for what the log
of removals leads to from the content that it was built for; any other catalogue makes it anew.

    python -m alpenglow.data.document_index SHARDS        build it now

The file begins with a page that holds the xxh3-128 of all that follows; then HDF5:
`shards` (number of documents before each), and for each kind a group as `index_table` says.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import itertools
import mmap
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from alpenglow.data.catalogue import Catalogue, CatalogueError
from alpenglow.data.checksums import file_hash
from alpenglow.data.document import DataError
from alpenglow.data.index_keys import KINDS, domains, host, key, normal
from alpenglow.data.index_table import RUN, Numbers, Table, TableBuilder
from alpenglow.data.removal_log import leads_to
from alpenglow.data.shards import PAGE, ShardError

NAME = "index.h5"
LOCK = ".index.lock"
FORMAT = 1
HEAD = PAGE
"""Bytes before the HDF5 file, which skips them."""
_MARK = b"alpenglow index, xxh3-128 of what follows: "
GROUPED = ("domain", "licence", "source")
"""Kinds whose values many documents have."""


class DocumentIndex:
    """An index to look in; see the module."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as raw, h5py.File(raw, "r") as file:
            self.attributes = dict(file.attrs)
            self._first = np.asarray(file["shards"])
            mapping = mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ)
            self._tables = {kind: _table(file[kind], mapping) for kind in KINDS}

    @classmethod
    def open(cls, catalogue: Catalogue, say: Callable[[str], None] | None = None) -> DocumentIndex:
        """Open the index beside a catalogue; build it where it is absent, damaged or stale.

        Raises:
            DataError, ShardError: it cannot be built.
        """
        path = catalogue.folder / NAME
        found = cls._usable(path, catalogue)
        if isinstance(found, DocumentIndex):
            return found
        with _building(catalogue.folder):
            found = cls._usable(path, catalogue)  # another may have built it meanwhile
            if isinstance(found, DocumentIndex):
                return found
            if say is not None:
                say(f"{path}: building the index, since {found}")
            return cls(_build(catalogue, RUN))

    @classmethod
    def _usable(cls, path: Path, catalogue: Catalogue) -> DocumentIndex | str:
        """The index, or why there is none to use."""
        if not path.exists():
            return "there is none"
        try:
            index = cls(path)
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            return f"it is not readable ({error})"
        return index.stale(catalogue) or index

    def stale(self, catalogue: Catalogue) -> str:
        """Why this is not the index of a catalogue; empty where it is."""
        found = self.attributes
        if found.get("format") != FORMAT:
            return f"it has format {found.get('format')}, this is {FORMAT}"
        if found["fingerprint"] != catalogue.fingerprint or found["lists"] != _lists(catalogue):
            return "it is of other shards"
        if not leads_to(catalogue.folder, str(found["content"]), catalogue.content):
            return "the shards have other content since"
        return ""

    @property
    def documents(self) -> int:
        """Documents in all shards."""
        return int(self._first[-1])

    def find(self, kind: str, value: str) -> Numbers:
        """Numbers of the documents that may have a value, ascending, mapped; see `KINDS`."""
        return self.find_key(kind, key(kind, normal(kind, value)))

    def find_key(self, kind: str, wanted: int) -> Numbers:
        """The same by the 64 bits of a value."""
        return self._tables[kind].find(wanted)

    def by_shard(self, numbers: Numbers) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Shards (places in the catalogue) with the rows in them of some documents, ascending."""
        # Needles of the array's own type: it would be copied to another one, 50 million and all.
        cuts = np.searchsorted(numbers, self._first.astype(numbers.dtype)).tolist()
        for shard, (begin, end) in enumerate(itertools.pairwise(cuts)):
            if begin < end:
                yield shard, numbers[begin:end].astype(np.int64) - int(self._first[shard])


class IndexBuilder:
    """Collects the entries of an index and writes it.

    Memory: `run` entries of each kind, about 0.25 GB, whatever the number of documents; beside it
    pages of mapped files, which the system takes back where it needs them.

    Args:
        path: the file to make; other files beside it come and go.
        counts: documents of each shard.
        attributes: see `attributes_of`.
        run: entries sorted at once.
    """

    def __init__(
        self, path: Path, counts: Sequence[int], attributes: dict[str, Any], *, run: int = RUN
    ) -> None:
        self.path = path
        self._first = np.concatenate([[0], np.cumsum(counts)]).astype(np.uint64)
        self._attributes = attributes
        total = int(self._first[-1])
        self._tables = {k: TableBuilder(path.parent, k, total, run=run) for k in KINDS}

    def add(self, kind: str, keys: NDArray[np.uint64], documents: NDArray[np.int64]) -> None:
        """Add entries of one kind; the numbers of documents ascend."""
        self._tables[kind].add(keys, documents)

    def close(self) -> Path:
        """Write the index and rename it into its place."""
        temporary = self.path.with_name(f"{self.path.name}.tmp")
        try:
            with h5py.File(
                temporary,
                "w",
                libver="latest",
                userblock_size=HEAD,
                alignment_threshold=PAGE,
                alignment_interval=PAGE,
            ) as file:
                file.attrs["format"] = FORMAT
                for name, value in self._attributes.items():
                    file.attrs[name] = value
                file.create_dataset("shards", data=self._first)
                for kind, table in self._tables.items():
                    table.write(file.create_group(kind), grouped=kind in GROUPED)
            found = file_hash(temporary, skip=HEAD)
            with temporary.open("r+b") as raw:
                raw.write(_MARK + found.encode() + b"\n")
                raw.flush()
                os.fsync(raw.fileno())
            temporary.replace(self.path)
        finally:
            temporary.unlink(missing_ok=True)
            self.forget()
        return self.path

    def forget(self) -> None:
        """Remove what lies beside."""
        for table in self._tables.values():
            table.close()


def build(catalogue: Catalogue, *, run: int = RUN) -> Path:
    """Index every document of a catalogue; returns the file.

    Raises:
        ShardError: a shard is missing or has another number of documents than is listed.
        DataError: the file system refuses.
    """
    with _building(catalogue.folder):
        return _build(catalogue, run)


@contextmanager
def _building(folder: Path) -> Iterator[None]:
    """Build alone: a second one waits."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise DataError(f"{folder}: the index cannot be written: {error}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _build(catalogue: Catalogue, run: int) -> Path:
    path = catalogue.folder / NAME
    counts = [shard.documents for shard in catalogue.shards]
    try:
        builder = IndexBuilder(path, counts, attributes_of(catalogue), run=run)
        try:
            number = 0
            for info in catalogue.shards:
                _add(builder, catalogue.folder / info.file, number, info.documents)
                number += info.documents
            return builder.close()
        finally:
            builder.forget()
    except OSError as error:
        raise DataError(f"{path}: the index cannot be written: {error}") from None


def attributes_of(catalogue: Catalogue) -> dict[str, Any]:
    """What an index keeps of its catalogue."""
    return {
        "fingerprint": catalogue.fingerprint,
        "content": catalogue.content,
        "lists": _lists(catalogue),
    }


def intact(path: Path) -> bool:
    """Whether every byte of an index is as it was written.

    Raises:
        OSError: unreadable.
    """
    with path.open("rb") as file:
        head = file.read(HEAD)
    expected = _MARK + file_hash(path, skip=HEAD).encode() + b"\n"
    return head == expected.ljust(HEAD, b"\0")


def _lists(catalogue: Catalogue) -> str:
    rows = [f"{shard.documents} {shard.documents_hash}" for shard in catalogue.shards]
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def _add(builder: IndexBuilder, path: Path, number: int, documents: int) -> None:
    try:
        with h5py.File(path, "r") as file:
            columns = file["documents"]
            ids = np.frombuffer(np.asarray(columns["id"]).tobytes(), "<u8").reshape(-1, 2)[:, 0]
            facts = {
                name: columns[name].asstr()[:] if name in columns else None
                for name in ("url", "licence", "source")
            }
    except (OSError, KeyError) as error:
        raise ShardError(f"{path}: its list of documents is not readable ({error})") from None
    if len(ids) != documents:
        raise ShardError(f"{path}: {len(ids)} documents where the catalogue lists {documents}")
    numbers = np.arange(number, number + documents)
    builder.add("id", ids, numbers)
    known: dict[str, list[int]] = {}
    for kind in KINDS[1:]:
        values = facts["url" if kind == "domain" else kind]
        if values is None:
            continue
        known.clear()
        keys: list[int] = []
        owners: list[int] = []
        for document, value in enumerate(values, number):
            found = known.get(value)
            if found is None:
                found = [key(kind, one) for one in _values(kind, value)]
                if len(known) < 10_000:  # what many documents share
                    known[value] = found
            keys += found
            owners += [document] * len(found)
        builder.add(kind, np.array(keys, np.uint64), np.array(owners, np.int64))


def _values(kind: str, value: str) -> Iterable[str]:
    """What a document with this fact is found by, in the form of `normal`."""
    if not value:
        return []
    return domains(host(value)) if kind == "domain" else [normal(kind, value)]


def _table(group: h5py.Group, mapping: mmap.mmap) -> Table:
    def mapped(name: str) -> NDArray[Any]:
        dataset = group[name]
        offset = dataset.id.get_offset()
        if offset is None:
            return np.empty(0, dataset.dtype)
        return np.frombuffer(mapping, dataset.dtype, int(dataset.shape[0]), offset)

    first = mapped("first") if "first" in group else None
    return Table(mapped("key"), mapped("document"), mapped("beginning"), first)


def main(arguments: Sequence[str] | None = None) -> int:
    """Build an index; see the module."""
    parser = argparse.ArgumentParser(
        prog="alpenglow data index", description="Index the documents of finished shards."
    )
    parser.add_argument("shards", type=Path, help="folder of the shards, or their catalogue")
    options = parser.parse_args(arguments)
    begin = time.perf_counter()
    try:
        catalogue = Catalogue.load(options.shards)
        path = build(catalogue)
    except (CatalogueError, DataError, ShardError) as error:
        sys.stderr.write(f"index: {error}\n")
        return 1
    documents = sum(shard.documents for shard in catalogue.shards)
    sys.stdout.write(
        f"{path}: {documents:,} documents, {path.stat().st_size / 1e6:,.1f} MB, "
        f"{time.perf_counter() - begin:.1f} s\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
