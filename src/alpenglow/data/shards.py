"""The token shard: one HDF5 file that can be memory-mapped.

    tokens             uint16 or uint32, 1-D, contiguous, uncompressed
    documents/offset   uint64 [documents + 1], token index at which each document begins; the last
                       entry is the number of tokens
    documents/id       16 opaque bytes each, the document's identity
    documents/source   UTF-8 string each: where it came from; likewise `url`, `licence` and
                       `timestamp`, each left out where no document of the shard has one
    documents/removed  uint8 each, 1 where the document was removed and its tokens blanked; absent
                       where none was (`alpenglow.data.removal`)
    checksums          uint64, xxh3-64 of each MiB of the tokens' bytes
    attributes         format_version, slice, tokens, documents, tokenizer_hash, recipe_hash,
                       created_by; `removals`, how many removals the shard has seen; and where a
                       shard came from, if it was made from others

Nothing in it depends on the time or the machine, so the same input makes the same file. Contiguous
and uncompressed, because a training window is a random read: compression reads ten times slower,
and h5py's own slicing five times slower than the memory map. Imported, never started.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import h5py
import numpy as np
import xxhash
from numpy.typing import NDArray

import alpenglow
from alpenglow.data.checksums import (
    BLOCK_BYTES,
    FACTS,
    Tokens,
    checksum,
    content_hash,
    documents_hash,
    file_hash,
)
from alpenglow.data.document import reason

FORMAT_VERSION = 1
PAGE = 4096
_COLUMNS = ("checksums", "documents/offset", "documents/removed")


class ShardError(RuntimeError):
    """A shard that cannot be written or read; the message is one sentence for the user."""


@dataclass(frozen=True)
class ShardInfo:
    """What the catalogue knows about a shard."""

    file: str
    """File name, relative to the catalogue."""
    slice: str
    tokens: int
    documents: int
    dtype: str
    bytes: int
    """Size of the file."""
    content: str
    """xxh3-64 over the checksums, in hex: changes when a token does."""
    removed: int = 0
    """Documents that were removed, of those counted."""
    file_hash: str = ""
    """xxh3-128 of every byte of the file; empty in catalogues of before there was one."""
    documents_hash: str = ""
    """Of the list of documents (see `documents_hash`); likewise."""


class ShardWriter:
    """Writes one shard; it appears under its name only when `close` has written all of it.

    HDF5 wants the length of a contiguous dataset beforehand, so tokens go to a file beside the
    shard first and are copied at the end: memory is that of a document, whatever the shard's size.

    Args:
        path: the file to make.
        slice: name of the slice.
        dtype: "uint16" or "uint32".
        tokenizer_hash, recipe_hash: what made the tokens, kept as attributes.
    """

    def __init__(
        self, path: Path, *, slice: str, dtype: str, tokenizer_hash: str, recipe_hash: str
    ) -> None:
        if dtype not in ("uint16", "uint32"):
            raise ShardError(f"{path}: tokens are uint16 or uint32, not {dtype}")
        self.path = path
        self.slice = slice
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self.attributes = {"tokenizer_hash": tokenizer_hash, "recipe_hash": recipe_hash}
        """Attributes of the file, beside what it says of itself; more may be added."""
        self._offsets = [0]
        self._ids: list[bytes] = []
        self._facts: dict[str, list[str]] = {name: [] for name in FACTS}
        self._beside = path.with_name(f".{path.name}.tokens")
        self._file: IO[bytes] | None = None

    @property
    def tokens(self) -> int:
        """Tokens added so far."""
        return self._offsets[-1]

    def add(
        self,
        tokens: NDArray[Any],
        identity: bytes,
        source: str,
        *,
        url: str = "",
        licence: str = "",
        timestamp: str = "",
    ) -> None:
        """Append one document.

        Raises:
            ShardError: a token does not fit the dtype, the identity is not 16 bytes long, or the
                file system refuses.
        """
        if len(identity) != 16:
            raise ShardError(f"{self.path}: a document's id has 16 bytes, not {len(identity)}")
        if tokens.size and int(tokens.max()) > np.iinfo(self._dtype).max:
            raise ShardError(f"{self.path}: token {int(tokens.max())} does not fit {self._dtype}")
        try:
            if self._file is None:
                self._file = self._beside.open("w+b", buffering=BLOCK_BYTES)
            self._file.write(np.ascontiguousarray(tokens, self._dtype).tobytes())
        except OSError as error:
            raise self._refused(error) from None
        self._offsets.append(self._offsets[-1] + int(tokens.size))
        self._ids.append(identity)
        for name, value in zip(FACTS, (source, url, licence, timestamp), strict=True):
            self._facts[name].append(value)

    def close(self) -> ShardInfo:
        """Write, fsync and rename.

        Raises:
            ShardError: the file system refuses (full, not writable); nothing is left behind.
        """
        temporary = self.path.with_name(f"{self.path.name}.tmp")
        try:
            checksums = self._write(temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            whole, listed = file_hash(temporary), documents_hash(temporary)
            temporary.replace(self.path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise self._refused(error) from None
        self._forget()
        return ShardInfo(
            file=self.path.name,
            slice=self.slice,
            tokens=self.tokens,
            documents=len(self._ids),
            dtype=self._dtype.name,
            bytes=self.path.stat().st_size,
            content=content_hash(checksums),
            file_hash=whole,
            documents_hash=listed,
        )

    def _write(self, path: Path) -> NDArray[np.uint64]:
        # Alignment puts the tokens on a page border, so that a mapping starts with them.
        with h5py.File(
            path, "w", libver="latest", alignment_threshold=PAGE, alignment_interval=PAGE
        ) as file:
            dataset = file.create_dataset("tokens", (self.tokens,), self._dtype)
            checksums = self._copy(dataset)
            file.create_dataset("checksums", data=checksums)
            documents = file.create_group("documents")
            documents.create_dataset("offset", data=np.asarray(self._offsets, np.uint64))
            # Opaque, because a fixed string would lose trailing zero bytes.
            ids = np.frombuffer(b"".join(self._ids), dtype="V16")
            documents.create_dataset("id", data=ids, dtype="V16")
            for name in FACTS:
                values = self._facts[name]
                if name == "source" or any(values):
                    documents.create_dataset(name, data=values, dtype=h5py.string_dtype())
            file.attrs["format_version"] = FORMAT_VERSION
            file.attrs["slice"] = self.slice
            file.attrs["tokens"] = self.tokens
            file.attrs["documents"] = len(self._ids)
            file.attrs["created_by"] = f"alpenglow {alpenglow.__version__}"
            for name, value in self.attributes.items():
                file.attrs[name] = value
        return checksums

    def _copy(self, dataset: h5py.Dataset) -> NDArray[np.uint64]:
        """Copy the tokens into the shard, a block at a time; returns their checksums."""
        checksums: list[int] = []
        if self._file is not None:
            self._file.seek(0)
            at = 0
            while block := self._file.read(BLOCK_BYTES):
                checksums.append(xxhash.xxh3_64_intdigest(block))
                part = np.frombuffer(block, self._dtype)
                dataset[at : at + part.size] = part
                at += part.size
        return np.array(checksums, np.uint64)

    def _refused(self, error: OSError) -> ShardError:
        self._forget()
        return ShardError(f"{self.path}: cannot be written: {reason(error)}")

    def _forget(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # a full disk refuses the last flush too
                self._file.close()
            self._file = None
            self._beside.unlink(missing_ok=True)

    def __enter__(self) -> ShardWriter:
        """Return itself; leaving without `close` writes nothing."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Forget what was added."""
        self._forget()


class Shard:
    """A shard to read from, memory-mapped; `tokens` is a read-only view of the file.

    All that training reads is of the one file that was opened: one that takes its place later is
    not seen, neither its tokens nor its checksums.

    Raises:
        ShardError: missing, cut, or not a token shard of this format.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as raw:
                with h5py.File(raw, "r") as file:
                    self.attributes = {str(name): value for name, value in file.attrs.items()}
                    dataset = file["tokens"]
                    place = dataset.id.get_offset(), int(dataset.shape[0]), dataset.dtype
                    self._places = {name: _place(file[name]) for name in _COLUMNS if name in file}
                self._size = os.fstat(raw.fileno()).st_size
                self._mapping = mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError:
            raise ShardError(f"{path}: the shard is missing{_CURE}") from None
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            raise ShardError(f"{path}: cut, or no token shard ({error}){_CURE}") from None
        version = self.attributes.get("format_version")
        if version != FORMAT_VERSION:
            raise ShardError(f"{path}: format version {version}, this is {FORMAT_VERSION}{_CURE}")
        offset, count, dtype = place
        if dtype.name not in ("uint16", "uint32"):
            raise ShardError(f"{path}: tokens of type {dtype}, not uint16 or uint32{_CURE}")
        if "slice" not in self.attributes or len(set(_COLUMNS[:2]) - set(self._places)):
            raise ShardError(f"{path}: lacks its slice, checksums or list of documents{_CURE}")
        self.slice = str(self.attributes["slice"])
        self.tokens: Tokens = np.empty(0, dtype)
        self._unchecked: dict[int, int] | None = None
        if count:
            if offset is None:
                raise ShardError(f"{path}: tokens are not contiguous, so not mappable{_CURE}")
            self.tokens = self._map(offset, count, dtype, "tokens reach")

    def _map(self, offset: int, count: int, dtype: np.dtype[Any], what: str) -> NDArray[Any]:
        if self._size < offset + count * dtype.itemsize:
            raise ShardError(
                f"{self.path}: cut: {self._size} bytes, and {what} to byte "
                f"{offset + count * dtype.itemsize}{_CURE}"
            )
        # A plain array over the mapping: slicing it costs a third of slicing a numpy.memmap.
        return np.frombuffer(self._mapping, dtype, count, offset)

    def _column(self, name: str) -> NDArray[Any]:
        """A column of numbers, mapped: a look-up touches a few pages, whatever its length."""
        offset, count, dtype = self._places[name]
        if offset is None:  # empty, or laid out otherwise than `ShardWriter` does
            with h5py.File(self.path, "r") as file:
                return np.asarray(file[name])
        return self._map(offset, count, dtype, f"its {name} reaches")

    @property
    def checksums(self) -> NDArray[np.uint64]:
        """Of each MiB of the tokens, as the shard has them."""
        return self._column("checksums")

    def check(self, first: int, last: int) -> None:
        """Compare tokens `first` to before `last` with their checksums, each MiB block once.

        A training window touches a block or two, so a damaged shard is named when a rank first
        reads from the damage, and a whole one costs each rank one hash of what it uses.

        Raises:
            ShardError: a block differs.
        """
        if self._unchecked is None:
            self._unchecked = dict(enumerate(self.checksums.tolist()))
        width = self.tokens.itemsize
        for block in range(first * width // BLOCK_BYTES, (last * width - 1) // BLOCK_BYTES + 1):
            stored = self._unchecked.get(block)
            if stored is None:
                continue
            each = BLOCK_BYTES // width
            (found,) = checksum(self.tokens[block * each : (block + 1) * each])
            if found != stored:
                raise ShardError(
                    f"{self.path}: MiB block {block} of its tokens does not have its checksum"
                    f"{_CURE}"
                )
            del self._unchecked[block]

    @cached_property
    def document_starts(self) -> NDArray[np.uint64]:
        """Where documents begin, [documents + 1], mapped.

        Raises:
            ShardError: cut.
        """
        return self._column("documents/offset")

    @cached_property
    def removed(self) -> NDArray[np.uint8] | None:
        """1 for each document that was removed, [documents]; None where none was."""
        if "documents/removed" not in self._places:
            return None
        column = self._column("documents/removed")
        return column if column.any() else None

    def removed_tokens(self, first: int, last: int) -> NDArray[np.bool_] | None:
        """Which of the tokens `first` to before `last` are of removed documents; None: none is."""
        removed = self.removed
        if removed is None:
            return None
        starts = self.document_starts
        begin = int(np.searchsorted(starts, np.uint64(first), "right")) - 1
        end = int(np.searchsorted(starts, np.uint64(last), "left"))
        if not removed[begin:end].any():
            return None
        borders = np.clip(starts[begin : end + 1].astype(np.int64), first, last)
        return np.repeat(removed[begin:end] != 0, np.diff(borders))

    def offsets(self) -> NDArray[np.uint64]:
        """As `document_starts`, but in memory."""
        return np.array(self.document_starts)

    def identities(self) -> list[bytes]:
        """The documents' ids, 16 bytes each."""
        with h5py.File(self.path, "r") as file:
            return [bytes(identity) for identity in file["documents/id"][:]]

    def sources(self) -> list[str]:
        """Where the documents came from."""
        return self.facts("source")

    def facts(self, name: str) -> list[str]:
        """One of `FACTS` of each document; empty strings where the shard has none."""
        with h5py.File(self.path, "r") as file:
            documents = file["documents"]
            if name not in documents:
                return [""] * int(self.attributes["documents"])
            return [str(value) for value in documents[name].asstr()[:]]

    def verify(self) -> str:
        """Read every token and compare the checksums; returns the content hash.

        Raises:
            ShardError: a block differs; names the first one.
        """
        stored = self.checksums
        found = checksum(self.tokens)
        wrong = np.flatnonzero(stored != found) if stored.shape == found.shape else np.array([0])
        if wrong.size:
            raise ShardError(
                f"{self.path}: {wrong.size} of {found.size} MiB blocks do not have their checksum, "
                f"the first is block {wrong[0]}{_CURE}"
            )
        return content_hash(found)


def _place(dataset: h5py.Dataset) -> tuple[int | None, int, np.dtype[Any]]:
    """Offset in the file (None: not mappable), length and type of a column of numbers."""
    return dataset.id.get_offset(), int(dataset.shape[0]), dataset.dtype


_CURE = "; remove it and run `bsub jobs/prepare_data.lsf`"
