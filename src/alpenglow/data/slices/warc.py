"""Records of WARC files: what a crawl stored, one after another, and nothing left out in silence.

WARC 1.0 and 1.1 (ISO 28500), plain or gzip, a member a record as CommonCrawl writes them or one
member for the whole file. A record is given out only when all of it was there: its content is as
long as its header says, the two line ends behind it are there, and the checksum of the gzip member
that ends with it holds. (FastWARC, the quick reader of such files, passes over damage and goes on;
a unit would then lack pages that no ledger counts.) A file that was cut exactly between two records
is a whole, shorter file to any reader.

Memory is that of one record, at most `LARGEST`: the content of a longer one, or of a kind that
nobody asked for, is passed over as it is inflated.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from alpenglow.data.document import DataError
from alpenglow.data.slices.source import LARGEST

CHUNK = 1 << 16
"""Bytes read from the file at once."""
INFLATED = 1 << 18
"""Most bytes inflated at once."""
LONGEST_HEADER = 1 << 18
"""Bytes; an address may be long, but a header without end is no header."""
GZIP = b"\x1f\x8b"
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_FOLDED = re.compile(r"\r?\n[ \t]+")


class Damaged(ValueError):
    """What is wrong with the bytes at hand."""


@dataclass(frozen=True)
class Record:
    """One record."""

    kind: str
    """WARC-Type: response, conversion, revisit, ..."""
    headers: Mapping[str, str]
    """Named in lower case."""
    content: bytes | None
    """None where it is longer than asked for."""
    size: int
    """Bytes of the content."""
    number: int
    """From 1, records of all kinds counted."""

    @property
    def name(self) -> str:
        """Return WARC-Record-ID without its wrapping, or the record's number."""
        identity = self.headers.get("warc-record-id", "").strip("<>")
        return identity.removeprefix("urn:uuid:") or f"record{self.number}"


def records(path: Path, kinds: Collection[str], largest: int = LARGEST) -> Iterator[Record]:
    """Stream the records of some kinds.

    Args:
        path: a WARC file; whether it is gzip is seen from its first bytes.
        kinds: WARC-Types to give out; others are read past, and checked all the same.
        largest: bytes of content to hold.

    Raises:
        DataError: the file is cut, damaged or no WARC file: with record, byte and cure.
    """
    number, place = 0, "before record 1"
    try:
        with path.open("rb") as file:
            stream = _Inflating(file) if file.peek(2)[:2] == GZIP else _Stream(file)
            try:
                while stream.more():
                    number, place = number + 1, f"record {number + 1}"
                    record = _record(stream, number, kinds, largest)
                    place = f"after record {number}"
                    if record.kind in kinds:
                        # The gzip member ends, and is checked, on the way to the next record.
                        stream.more()
                        yield record
                if not number:
                    raise Damaged("there is no record in it")
            except Damaged as error:
                raise DataError(
                    f"{path}, {place}, byte {stream.position}: {error}; fetch the file again"
                ) from None
    except OSError as error:
        raise DataError(f"{path}, {place}: cannot be read ({error}); fetch it again") from None


def _record(stream: _Stream, number: int, kinds: Collection[str], largest: int) -> Record:
    head = stream.head()
    version, _, fields = head.decode("utf-8", "replace").partition("\n")
    if not version.startswith("WARC/"):
        raise Damaged("no WARC record begins here")
    headers = fields_of(fields)
    stated = headers.get("content-length", "")
    if not (stated.isascii() and stated.isdigit()):
        raise Damaged(f"Content-Length is {stated[:20]!r}")
    size = int(stated)
    kind = headers.get("warc-type", "").lower()
    wanted = kind in kinds and size <= largest
    content = stream.take(size) if wanted else None
    if content is None:
        stream.skip(size)
    end = stream.take(4)
    if end != b"\r\n\r\n":
        raise Damaged(f"the content is not {size} bytes long, as its header says")
    return Record(kind, headers, content, size, number)


def fields_of(text: str) -> dict[str, str]:
    """Read `Name: value` lines, of a WARC or an HTTP header; the first of equal names counts."""
    found: dict[str, str] = {}
    for line in _FOLDED.sub(" ", text).split("\n"):
        name, colon, value = line.partition(":")
        if colon:
            found.setdefault(name.strip().lower(), value.strip())
    return found


class _Stream:
    """The bytes of a file, from front to end."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._held = b""
        self._at = 0
        self._read = 0

    @property
    def position(self) -> int:
        """Byte of the file, for messages."""
        return self._read - (len(self._held) - self._at)

    def _next(self) -> bytes:
        """Return some bytes more; none at the end of the file."""
        data = self._file.read(CHUNK)
        self._read += len(data)
        return data

    def more(self) -> bool:
        """Pass over line ends; False where nothing else comes."""
        while True:
            rest = self._held[self._at :].lstrip(b"\r\n")
            if rest:
                self._held, self._at = rest, 0
                return True
            self._held, self._at = self._next(), 0
            if not self._held:
                return False

    def head(self) -> bytes:
        """Return what comes before an empty line, which is passed over."""
        while True:
            found = _HEAD_END.search(self._held, self._at)
            if found:
                head = self._held[self._at : found.start()]
                self._at = found.end()
                return head
            if len(self._held) - self._at > LONGEST_HEADER:
                raise Damaged("a header without end")
            data = self._next()
            if not data:
                raise Damaged("the file ends inside a header")
            self._held, self._at = self._held[self._at :] + data, 0

    def take(self, size: int) -> bytes:
        """Return exactly so many bytes."""
        first = self._held[self._at : self._at + size]
        self._at += len(first)
        parts, missing = [first], size - len(first)
        while missing:
            data = self._next()
            if not data:
                raise Damaged(f"the file ends {missing} bytes before the record does")
            self._held, self._at = data, min(missing, len(data))
            parts.append(data[: self._at])
            missing -= self._at
        return b"".join(parts)

    def skip(self, size: int) -> None:
        """Pass over exactly so many bytes."""
        while size:
            step = min(size, INFLATED)
            self.take(step)
            size -= step


class _Inflating(_Stream):
    """The bytes inside a file of gzip members."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self._raw = b""
        self._member = 0
        self._inflater: zlib._Decompress | None = None

    @property
    def position(self) -> int:
        """Where the gzip member at hand begins in the file."""
        return self._member

    def _next(self) -> bytes:
        while True:
            if not self._raw:
                self._raw = super()._next()
            if self._inflater is None:
                # Zeros behind the last member are padding, as to gzip itself.
                self._raw = self._raw.lstrip(b"\0")
                if not self._raw:
                    self._raw = super()._next()
                    if not self._raw:
                        return b""
                    continue
                self._member = self._read - len(self._raw)
                self._inflater = zlib.decompressobj(zlib.MAX_WBITS | 16)
            ended = not self._raw
            try:
                data = self._inflater.decompress(self._raw, INFLATED)
            except zlib.error as error:
                raise Damaged(f"the gzip member that begins here is damaged ({error})") from None
            if self._inflater.eof:
                self._raw, self._inflater = self._inflater.unused_data, None
            else:
                self._raw = self._inflater.unconsumed_tail
            if data:
                return data
            if ended and self._inflater is not None:
                raise Damaged("the file ends inside the gzip member that begins here")
