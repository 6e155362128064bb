"""Tar and gzip as arXiv hands them out, read as a stream: memory is one block, whatever is inside.

Python's tarfile takes a cut archive for a whole one when the cut falls between two members; here an
archive ends with its mark of zeros or it is cut. Links, devices and names that lead out of the
archive are never followed; only the content of plain files is given.
"""

from __future__ import annotations

import contextlib
import gzip
import posixpath
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

BLOCK = 512
UNPACKED = 1_000_000_000
"""Bytes that one paper may unpack to, figures counted; arXiv takes 50 MB of them."""
RATIO = 100
"""Times its size that a file may unpack to beyond that; TeX gives 3 to 10, deflate at most 1032."""
_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_HEADERS = 1_000_000
"""Bytes of a long name or of a pax header."""


class CutArchive(ValueError):
    """An archive ends early or is damaged; the message says where."""


class TooMuch(ValueError):
    """An archive unpacks to more than it may."""


class Readable(Protocol):
    """What is read from."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes; none at the end."""


@dataclass(frozen=True)
class Member:
    """A plain file of an archive."""

    name: str
    """Path inside the archive; empty if it would lead out of it."""
    size: int
    changed: float
    """When it was last written, seconds since 1970."""


class Bounded:
    """Reads from a stream, gives up after `limit` bytes, and says in one way what goes wrong.

    Args:
        stream: the bytes.
        limit: None where the file system bounds them.
        ahead: bytes that were read from the stream before.
    """

    def __init__(self, stream: Readable, limit: int | None, ahead: bytes = b"") -> None:
        self._stream = stream
        self._left = limit
        self._ahead = ahead

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes.

        Raises:
            CutArchive: a compressed stream ends early or is damaged.
            TooMuch: it holds more than the limit.
        """
        if self._ahead:
            data, self._ahead = self._ahead[:size], self._ahead[size:]
            return data
        try:
            data = self._stream.read(size)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise CutArchive(f"its compressed data is cut or damaged ({error})") from None
        if self._left is not None:
            self._left -= len(data)
            if self._left < 0:
                raise TooMuch
        return data

    def exactly(self, size: int) -> bytes:
        """Return `size` bytes, fewer only at the end of the stream."""
        data = self.read(size)
        if len(data) == size:
            return data
        parts = [data]
        size -= len(data)
        while size and (data := self.read(size)):
            parts.append(data)
            size -= len(data)
        return b"".join(parts)

    def skip(self, size: int) -> int:
        """Pass over bytes; returns how many were missing."""
        while size and (data := self.read(min(size, 1 << 20))):
            size -= len(data)
        return size


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Bounded]:
    """Open a file that may be compressed with gzip; bounded by its size."""
    with path.open("rb") as file:
        magic = file.read(2)
        file.seek(0)
        if magic == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=file) as unpacked:
                yield Bounded(unpacked, UNPACKED + RATIO * path.stat().st_size)
        else:
            yield Bounded(file, None)


def gunzipped(file: IO[bytes] | Readable, limit: int = UNPACKED) -> Bounded:
    """Return what is inside a gzip stream."""
    return Bounded(gzip.GzipFile(fileobj=file), limit)  # type: ignore[arg-type]


def is_tar(beginning: bytes) -> bool:
    """Whether bytes begin as a tar archive does, by the checksum of the first header."""
    if len(beginning) < BLOCK:
        return False
    if not any(beginning[:BLOCK]):
        return True  # an empty one
    try:
        tarfile.TarInfo.frombuf(beginning[:BLOCK], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


class Content:
    """The bytes of one member, for as long as it is the current one."""

    def __init__(self, stream: Bounded, name: str, size: int) -> None:
        self._stream = stream
        self._name = name
        self.left = size

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes; none at the member's end.

        Raises:
            CutArchive: the archive ends inside this member.
        """
        wanted = self.left if size < 0 else min(size, self.left)
        if not wanted:
            return b""
        data = self._stream.read(wanted)
        if not data:
            raise CutArchive(f"it ends inside {self._name}")
        self.left -= len(data)
        return data


@dataclass
class _Header:
    """A member's header, with what the headers before it say about it."""

    info: tarfile.TarInfo
    name: str
    size: int


def _headers(stream: Bounded, last: list[str]) -> Iterator[_Header]:
    """Yield the header of each member; the stream is to stand behind its content afterwards."""
    name: str | None = None
    size: int | None = None
    while any(block := stream.exactly(BLOCK)):
        if len(block) < BLOCK:
            break
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError:
            raise CutArchive(f"what follows {last[0]} is no member of a tar archive") from None
        if info.type == tarfile.GNUTYPE_LONGNAME or info.type in _PAX:
            if info.size > _HEADERS:
                raise CutArchive(f"the header after {last[0]} is longer than 1 MB")
            header = stream.exactly(info.size + -info.size % BLOCK)[: info.size]
            if info.type == tarfile.GNUTYPE_LONGNAME:
                name = header.rstrip(b"\0").decode("utf-8", "surrogateescape")
            else:
                records = _pax(header)
                name = records.get("path", name)
                size = int(records["size"]) if records.get("size", "").isdigit() else None
            continue
        extended = info.type == tarfile.GNUTYPE_SPARSE and block[482]
        while extended:
            extended = (stream.exactly(BLOCK) + bytes(BLOCK))[504]
        empty = info.type in (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE)
        yield _Header(info, name or info.name, 0 if empty else info.size if size is None else size)
        name = size = None
    if len(block) < BLOCK:
        raise CutArchive(f"it ends after {last[0]}")


def members(stream: Bounded) -> Iterator[tuple[Member, Content]]:
    """Yield an archive's plain files in their order; a content is to be read before the next.

    Raises:
        CutArchive: the archive ends early or is damaged; names the last member.
        TooMuch: it unpacks to more than it may.
    """
    last = ["its beginning"]
    for header in _headers(stream, last):
        info, length = header.info, header.size
        last[0] = header.name[:200].encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        content = Content(stream, last[0], length)
        plain = info.type in tarfile.REGULAR_TYPES and info.type != tarfile.GNUTYPE_SPARSE
        if plain and not header.name.endswith("/"):
            yield Member(inside(header.name), length, float(info.mtime)), content
        if stream.skip(content.left + -length % BLOCK):
            raise CutArchive(f"it ends inside {last[0]}")
    while stream.read(1 << 20):
        pass  # to its end, where gzip keeps a checksum


def inside(name: str) -> str:
    """Return a path inside an archive, normalised; empty if it would lead out of it."""
    path = posixpath.normpath(name.replace("\\", "/"))
    if path.startswith(("/", "..")) or "\0" in path or path[1:2] == ":":
        return ""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _pax(header: bytes) -> dict[str, str]:
    """Read the records `LENGTH KEY=VALUE` of a pax header (POSIX.1-2001)."""
    found: dict[str, str] = {}
    while header:
        length, space, _ = header.partition(b" ")
        if not space or not length.isdigit() or not len(length) < int(length) <= len(header):
            break
        record = header[len(length) + 1 : int(length)].rstrip(b"\n")
        key, _, value = record.partition(b"=")
        found[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        header = header[int(length) :]
    return found
