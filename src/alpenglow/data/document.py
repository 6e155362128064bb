"""Documents, the units of work that they are read in, and the errors of this room.

A slice's `units(config)` lists its raw input as units; its `read(unit)` turns one unit into
documents. What a unit yields depends on the unit alone, so any worker may read it, any number of
times.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import xxhash


class DataError(RuntimeError):
    """Raw input, a tokenizer or shards that cannot be used; the message is one sentence."""


def reason(error: Exception) -> str:
    """Say in a few words why the file system refused; HDF5 writes a paragraph with addresses."""
    inner = re.search(r"error message = '([^']+)'", str(error))
    return inner.group(1) if inner else str(error).partition("\n")[0]


class InputAbsent(DataError):
    """A slice's raw input is not there; a recipe may allow that for this slice."""


@dataclass(frozen=True)
class Document:
    """One text with where it came from and under which terms."""

    text: str
    slice: str
    source: str
    """Where the text came from: a stable name, not a path of this machine."""
    licence: str
    metadata: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    url: str = ""
    """Address on the web or path in a repository, where the input states one."""
    timestamp: str = ""
    """When the text was published or fetched, ISO 8601, where the input states it."""
    fault: str = ""
    """Why the reader could make no text of it; such a document is counted as dropped."""
    size: int | None = None
    """Bytes read from the raw input where there is no text."""
    trimmed: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """Rule -> bytes that it took out of the text (a licence header, lines of a menu)."""
    identity: bytes = b""
    """The id that it had when it was read, where later steps changed its text."""

    @property
    def id(self) -> bytes:
        """Return 16 bytes that stay the same as long as slice, source and the text read do.

        xxh3-128; masks and repeated paragraphs, which change the text afterwards, leave it.
        """
        if self.identity:
            return self.identity
        hasher = xxhash.xxh3_128()
        for part in (self.slice, self.source, self.text):
            data = part.encode("utf-8", "surrogatepass")
            hasher.update(len(data).to_bytes(8, "little"))
            hasher.update(data)
        return hasher.digest()

    @property
    def text_hash(self) -> bytes:
        """Return 16 bytes equal for documents whose text is equal (xxh3-128)."""
        return xxhash.xxh3_128_digest(self.text.encode("utf-8", "surrogatepass"))

    @property
    def bytes(self) -> int:
        """Return the length of the text in UTF-8, or of the input that gave no text."""
        if self.size is not None:
            return self.size
        return len(self.text.encode("utf-8", "surrogatepass"))

    @property
    def read_bytes(self) -> int:
        """Return bytes of the text as it was read: with what rules took out of it."""
        return self.bytes + sum(self.trimmed.values())


@dataclass(frozen=True)
class Input:
    """A piece of raw input: a file, or something that the slice knows how to find by its name."""

    path: str
    source: str
    """Stable name, for documents and for the key of the unit."""
    licence: str
    size: int
    """Bytes; counts for caps, for the size of a unit and for noticing that the input changed."""
    changed: int = 0
    """When the file was last written, ns; 0 where its name already says what it holds."""


@dataclass(frozen=True)
class Unit:
    """What one task reads."""

    slice: str
    name: str
    """`SLICE-00012`: the order of names is the order of documents in the shards."""
    inputs: tuple[Input, ...]
    limit: int | None = None
    """Stop after the document that reaches this many bytes of text; None reads all."""

    @property
    def size(self) -> int:
        """Return bytes of raw input, at most the limit."""
        total = sum(item.size for item in self.inputs)
        return total if self.limit is None else min(total, self.limit)

    @property
    def key(self) -> str:
        """Return 32 hex digits that change when the input that the unit names changes.

        The unit's own name is not in it: an input more in front of it moves the name, not the text.
        """
        hasher = xxhash.xxh3_128(repr((self.slice, self.limit)).encode())
        for item in self.inputs:
            hasher.update(repr((item.source, item.licence, item.size, item.changed)).encode())
        return hasher.hexdigest()


def pack(slice_name: str, inputs: list[Input], unit_bytes: int) -> list[Unit]:
    """Group inputs, in their order, into units of about `unit_bytes`."""
    units: list[Unit] = []
    group: list[Input] = []
    size = 0
    for item in inputs:
        if group and size + item.size > unit_bytes:
            units.append(Unit(slice_name, f"{slice_name}-{len(units):05d}", tuple(group)))
            group, size = [], 0
        group.append(item)
        size += item.size
    if group:
        units.append(Unit(slice_name, f"{slice_name}-{len(units):05d}", tuple(group)))
    return units


def cap(inputs: Iterable[Input], max_bytes: int | None) -> list[Input]:
    """Keep inputs from the front until they reach `max_bytes`."""
    kept: list[Input] = []
    total = 0
    for item in inputs:
        if max_bytes is not None and total >= max_bytes:
            break
        kept.append(item)
        total += item.size
    return kept


def one_each(slice_name: str, inputs: list[Input], max_bytes: int | None) -> list[Unit]:
    """Make a unit of every input (a dump, a JSON-lines file); a cap is shared evenly."""
    limit = None if max_bytes is None else max(1, max_bytes // max(1, len(inputs)))
    return [
        Unit(slice_name, f"{slice_name}-{index:05d}", (item,), limit)
        for index, item in enumerate(inputs)
    ]
