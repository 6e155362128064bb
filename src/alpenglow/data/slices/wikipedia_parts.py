"""Parts of a bzip2 dump, so that a dump of 20 GB is work for many.

A multistream dump (and one that a parallel bzip2 wrote) is many bzip2 streams one after another,
and each can be unpacked without those before it. A part is a range of the file: it has the pages
from the first `<page>` in the first stream that begins in the range, to the first `<page>` in the
first stream that begins behind it. So every page is in one part, wherever streams and ranges are
cut; of a dump in a single stream the first part has all. What lies before the first page is put in
front of every part.
"""

from __future__ import annotations

import bz2
import itertools
import re
from collections.abc import Iterator
from typing import IO

from alpenglow.data.document import Input

_STREAM = re.compile(rb"BZh[1-9]1AY&SY")
"""A stream's first bytes and its first block's (bzip2 file format)."""
_PAGE = b"<page>"
_END = b"\n</mediawiki>\n"
_CHUNK = 1 << 20
_HEAD = 1 << 20
"""Bytes that may stand before the first page."""
_MARK = "@"
WHEEL = ".whl!"
"""Between the path of a wheel and the name of the dump inside."""


def split(item: Input, unit_bytes: int) -> list[Input]:
    """Cut a bzip2 dump into parts of about `unit_bytes`; others stay whole, those in a wheel too.

    A part's path and source end with its range, `@BEGIN-END` in bytes of the file.
    """
    if not item.path.endswith(".bz2") or WHEEL in item.path or item.size <= unit_bytes:
        return [item]
    count = -(-item.size // unit_bytes)
    bounds = [item.size * number // count for number in range(count + 1)]
    return [
        Input(f"{item.path}{_MARK}{begin}-{end}", f"{item.source}{_MARK}{begin}-{end}",
              item.licence, end - begin, item.changed)
        for begin, end in itertools.pairwise(bounds)
    ]  # fmt: skip


def whole(name: str) -> tuple[str, tuple[int, int] | None]:
    """Return a path or source without its range, and the range."""
    match = re.fullmatch(rf"(.*\.bz2){_MARK}(\d+)-(\d+)", name, re.S)
    return (match[1], (int(match[2]), int(match[3]))) if match else (name, None)


class Part:
    """Reads a part of a dump as an XML document of its own.

    Args:
        file: the dump, compressed.
        begin: first byte of the part in the compressed file.
        end: byte behind it.
    """

    def __init__(self, file: IO[bytes], begin: int, end: int) -> None:
        self._pieces = self._document(file, begin, end)
        self._ahead = b""

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes; none at the end.

        Raises:
            EOFError: the file ends inside a stream.
            OSError: a stream is damaged.
        """
        while not self._ahead:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._ahead = piece
        data, self._ahead = self._ahead[:size], self._ahead[size:]
        return data

    @staticmethod
    def _document(file: IO[bytes], begin: int, end: int) -> Iterator[bytes]:
        if begin > 0:
            yield _head(file)
            begin = _next_stream(file, begin, end)
            if begin < 0:
                yield _END
                return
        inside = begin == 0  # past the first <page>
        last = False  # in a stream that belongs to the next part
        ahead = b""
        for start, data in _unpacked(file, begin):
            if start >= end and not last:
                last = True
                if inside:
                    yield ahead
                ahead = b""
            text = ahead + data
            at = text.find(_PAGE) if last or not inside else -1
            if last and at >= 0:
                if inside:
                    yield text[:at]
                yield _END
                return
            if not inside and at >= 0:
                inside, text = True, text[at:]
            if inside and not last:
                yield text
                ahead = b""
            else:
                keep = len(_PAGE) - 1
                if inside:
                    yield text[:-keep]
                ahead = text[-keep:]
        if inside:
            yield ahead
        else:
            yield _END


def _head(file: IO[bytes]) -> bytes:
    head = b""
    for _, data in _unpacked(file, 0):
        head += data
        at = head.find(_PAGE)
        if at >= 0 or len(head) > _HEAD:
            return head[: max(at, 0)]
    return head


def _next_stream(file: IO[bytes], begin: int, end: int) -> int:
    """Where the first stream begins that begins in a range; -1 if none does."""
    file.seek(begin)
    at, ahead = begin, b""
    while at < end and (data := file.read(_CHUNK)):
        text = ahead + data
        match = _STREAM.search(text)
        if match:
            found = at - len(ahead) + match.start()
            return found if found < end else -1
        at += len(data)
        ahead = text[-9:]
    return -1


def _unpacked(file: IO[bytes], begin: int) -> Iterator[tuple[int, bytes]]:
    """Yield (beginning of the stream, data) from a place in the file to its end."""
    file.seek(begin)
    start, position = begin, begin
    unpacker = bz2.BZ2Decompressor()
    data = b""
    while True:
        if unpacker.eof:
            data = unpacker.unused_data
            start = position - len(data)
            unpacker = bz2.BZ2Decompressor()
        if not data and unpacker.needs_input:
            data = file.read(_CHUNK)
            position += len(data)
            if not data:
                if start == position:
                    return
                raise EOFError("it ends inside a bzip2 stream")
        piece = unpacker.decompress(data, _CHUNK)
        data = b""
        if piece:
            yield start, piece
