"""The document store: one unit's documents as text; one HDF5 file.

    text/bytes         uint8, chunked, lzf: UTF-8 of all texts one after another
    text/offset        uint64 [documents + 1]
    id                 16 opaque bytes each
    text_hash          uint64 [documents, 2], xxh3-128 of the text
    facts/bytes,offset UTF-8 JSON of each document: source, url, timestamp, licence, metadata
    about              JSON: key, slice, read, trimmed, dropped, masked, rejects

Signals and tokens lie beside it in files of their own (`columns.py`, `token_file.py`), so another
threshold, model or tokenizer reads no raw text again. A store is written to another name, fsynced
and renamed: where it is, it is whole.
Documents whose reader made no text of them are counted in `dropped` and not stored; the first few
of each reason are kept in `rejects` for people to read.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from alpenglow.data.document import DataError, Document, reason

FORMAT_VERSION = 2
CHUNK = 1 << 20
"""Bytes of text that are compressed together."""
REJECTS = 20
"""Rejected documents of each reason that a store keeps for reading."""
REJECT_CHARACTERS = 500
"""Of each of them, from its beginning."""


class StoreWriter:
    """Writes one store; memory is that of the documents given at once.

    Args:
        path: the file to make.
        key: what it was made from; `Store.find` compares it.
        slice_name: slice of all its documents.

    Raises:
        DataError: the file system refuses; nothing is left behind.
    """

    def __init__(self, path: Path, key: str, slice_name: str) -> None:
        self.path = path
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}")
        self._about: dict[str, Any] = {
            "key": key, "slice": slice_name, "read": [0, 0], "dropped": {}, "trimmed": {},
            "masked": {}, "rejects": {},
        }  # fmt: skip
        self._sizes = {"text": 0, "facts": 0}
        try:
            self._file = h5py.File(self._temporary, "w", libver="latest")
            for name in ("text", "facts"):
                self._grow(f"{name}/bytes", np.empty(0, np.uint8), chunk=CHUNK)
                self._grow(f"{name}/offset", np.zeros(1, np.uint64))
            self._grow("id", np.empty(0, "V16"))
            self._grow("text_hash", np.empty((0, 2), np.uint64))
        except OSError as error:
            raise self._refused(error) from None

    def add(self, documents: Sequence[Document]) -> None:
        """Append documents that have a text.

        Raises:
            DataError: the file system refuses.
        """
        if not documents:
            return
        read = self._about["read"]
        for document in documents:
            read[0] += 1
            read[1] += document.read_bytes
            for rule, size in document.trimmed.items():
                self._count("trimmed", rule, 1, size)
        texts = [document.text.encode("utf-8", "surrogatepass") for document in documents]
        facts = [_facts(document) for document in documents]
        hashes = b"".join(document.text_hash for document in documents)
        try:
            for name, parts in (("text", texts), ("facts", facts)):
                ends = self._sizes[name] + np.cumsum([len(part) for part in parts])
                self._sizes[name] = int(ends[-1])
                self._grow(f"{name}/bytes", np.frombuffer(b"".join(parts), np.uint8), chunk=CHUNK)
                self._grow(f"{name}/offset", ends.astype(np.uint64))
            self._grow("id", np.frombuffer(b"".join(d.id for d in documents), "V16"))
            self._grow("text_hash", np.frombuffer(hashes, ">u8").reshape(-1, 2).astype(np.uint64))
        except OSError as error:
            raise self._refused(error) from None

    def mask(self, rule: str, occurrences: int) -> None:
        """Count what a rule masked; the bytes that went are in `Document.trimmed`."""
        self._about["masked"][rule] = self._about["masked"].get(rule, 0) + occurrences

    def drop(self, document: Document, reason: str) -> None:
        """Count a document that is not stored, and keep the beginning of the first few."""
        read = self._about["read"]
        read[0] += 1
        read[1] += document.read_bytes
        self._count("dropped", reason, 1, document.read_bytes)
        kept = self._about["rejects"].setdefault(reason, [])
        if len(kept) < REJECTS:
            beginning = document.text[:REJECT_CHARACTERS].encode("utf-8", "replace").decode()
            kept.append({"source": document.source, "text": beginning})

    def _count(self, table: str, name: str, documents: int, size: int) -> None:
        count = self._about[table].setdefault(name, [0, 0])
        count[0] += documents
        count[1] += size

    def close(self) -> None:
        """Write, fsync and rename.

        Raises:
            DataError: the file system refuses; nothing is left behind.
        """
        try:
            self._file.attrs["format_version"] = FORMAT_VERSION
            # An attribute of HDF5 holds 64 KiB at most, a dataset any length.
            self._file["about"] = np.frombuffer(json.dumps(self._about).encode(), np.uint8)
            self._file.close()
            with self._temporary.open("rb") as file:
                os.fsync(file.fileno())
            self._temporary.replace(self.path)
        except (OSError, RuntimeError) as error:
            raise self._refused(error) from None

    def _grow(self, name: str, rows: NDArray[Any], chunk: int = 1 << 14) -> None:
        if name not in self._file:
            shape = rows.shape[1:]
            dtype = "V16" if rows.dtype == "V16" else rows.dtype
            self._file.create_dataset(
                name, shape=(0, *shape), maxshape=(None, *shape), dtype=dtype,
                chunks=(chunk, *shape), compression=None if name == "id" else "lzf",
            )  # fmt: skip
        dataset = self._file[name]
        before = dataset.shape[0]
        dataset.resize(before + len(rows), axis=0)
        if len(rows):
            dataset[before:] = rows

    def _refused(self, error: Exception) -> DataError:
        self.abandon()
        return DataError(f"{self.path}: cannot be written ({reason(error)})")

    def abandon(self) -> None:
        """Leave nothing behind."""
        # A full disk refuses the last flush too; it may have refused the first.
        with contextlib.suppress(OSError, RuntimeError, AttributeError):
            self._file.close()
        self._temporary.unlink(missing_ok=True)

    def __enter__(self) -> StoreWriter:
        """Return itself; leaving without `close` leaves nothing behind."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Remove what was not closed."""
        if self._temporary.exists():
            self.abandon()


class Store:
    """A store to read from.

    Raises:
        DataError: missing, cut, or none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = h5py.File(path, "r")
            about = json.loads(np.asarray(self._file["about"]).tobytes())
            version = int(self._file.attrs["format_version"])
            self.ids: NDArray[Any] = np.asarray(self._file["id"])
            self._offset = np.asarray(self._file["text/offset"])
            self._facts = np.asarray(self._file["facts/offset"])
        except (OSError, KeyError, ValueError) as error:
            raise DataError(f"{path}: cut, or no document store ({error})") from None
        if version != FORMAT_VERSION:
            raise DataError(f"{path}: format version {version}, this is {FORMAT_VERSION}")
        self.key = str(about["key"])
        self.slice = str(about["slice"])
        self.read: tuple[int, int] = tuple(about["read"])
        """Documents and bytes read."""
        self.dropped: dict[str, tuple[int, int]] = _counts(about["dropped"])
        """Reason -> documents and bytes that the reader made no text of."""
        self.trimmed: dict[str, tuple[int, int]] = _counts(about["trimmed"])
        """Rule -> documents and bytes that it took out of texts."""
        self.masked: dict[str, int] = about["masked"]
        """Rule -> occurrences that it masked."""
        self.rejects: dict[str, list[dict[str, str]]] = about["rejects"]

    @classmethod
    def find(cls, path: Path, key: str) -> Store | None:
        """Open a store that was made from `key`; None where there is none."""
        if not path.exists():
            return None
        try:
            found = cls(path)
        except DataError:
            return None  # a mark that cannot be read is no mark: the unit is read again
        if found.key == key:
            return found
        found.close()
        return None

    def __len__(self) -> int:
        """Documents."""
        return len(self.ids)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Bytes of each text."""
        return np.asarray(np.diff(self._offset.astype(np.int64)), np.int64)

    @property
    def text_hash(self) -> NDArray[np.uint64]:
        """Shape (documents, 2)."""
        return np.asarray(self._file["text_hash"])

    def texts(self, first: int, last: int) -> list[str]:
        """Texts of documents `first` to before `last`."""
        parts = self._parts("text", self._offset, first, last)
        return [part.decode("utf-8", "surrogatepass") for part in parts]

    def facts(self, first: int, last: int) -> list[dict[str, Any]]:
        """Source, url, timestamp, licence and metadata of documents."""
        return [json.loads(part) for part in self._parts("facts", self._facts, first, last)]

    def _parts(self, name: str, offset: NDArray[np.uint64], first: int, last: int) -> list[bytes]:
        bounds = offset[first : last + 1].astype(np.int64)
        data = np.asarray(self._file[f"{name}/bytes"][bounds[0] : bounds[-1]]).tobytes()
        at = (bounds - bounds[0]).tolist()
        return [data[a:b] for a, b in itertools.pairwise(at)]

    def batches(self, size: int) -> Iterator[tuple[int, int]]:
        """Cut the documents into runs of about `size` bytes of text: (first, last)."""
        first, total = 0, len(self)
        while first < total:
            end = int(self._offset[first]) + size
            last = max(first + 1, int(np.searchsorted(self._offset, end, "right")) - 1)
            yield first, min(last, total)
            first = min(last, total)

    def documents(self, size: int) -> Iterator[list[Document]]:
        """Stream all documents in order, in lists of about `size` bytes of text."""
        for first, last in self.batches(size):
            rows = zip(self.texts(first, last), self.facts(first, last), self.ids[first:last],
                       strict=True)  # fmt: skip
            yield [
                Document(text=text, slice=self.slice, identity=bytes(identity), **facts)
                for text, facts, identity in rows
            ]

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Store:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the file."""
        self.close()


def _facts(document: Document) -> bytes:
    facts: dict[str, Any] = {"source": document.source, "licence": document.licence}
    for name in ("url", "timestamp"):
        if getattr(document, name):
            facts[name] = getattr(document, name)
    if document.metadata:
        facts["metadata"] = dict(document.metadata)
    return json.dumps(facts).encode()


def _counts(table: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, int]]:
    return {name: (count[0], count[1]) for name, count in table.items()}
