"""Rows of a Posts.xml, one at a time: a file of any size, in the memory of one row.

A `<` cannot stand inside an attribute, so `<row` to the next `<` is one row whatever the lines are.
Each row is parsed alone: one that is damaged is a fault and not the end of the site, and no entity
or DTD exists for it. The head of the file is read and not obeyed: an external DTD is never loaded,
and a head that declares entities ("billion laughs") is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from xml.parsers import expat

from alpenglow.data.document import DataError
from alpenglow.data.slices.source import LARGEST, TOO_LARGE

_PIECE = 1 << 20
_HEAD = 1 << 16
"""Bytes within which `<posts` must come."""
_ENCODING = re.compile(rb"<\?xml[^>]*encoding=[\"']([^\"']*)[\"']")
_SHOWN = 500

MALFORMED = "a malformed row"


@dataclass(frozen=True)
class Row:
    """A row, or what stood in its place."""

    place: int
    """Byte of the file at which it begins."""
    size: int
    values: dict[str, str]
    fault: str = ""
    beginning: str = ""
    """Of a faulty row, for people to read."""


def rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a file, in its order.

    Raises:
        DataError: the file is no Posts.xml in UTF-8, is cut, or declares entities.
    """
    try:
        with path.open("rb") as file:
            first = _head(file, path)
            yield from _rows(file, first, path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error})") from None


def _head(file: IO[bytes], path: Path) -> int:
    """Check what comes before the rows; returns where they begin."""
    head = file.read(_HEAD)
    start = head.find(b"<posts")
    before = head if start < 0 else head[:start]
    if b"<!ENTITY" in before:
        raise DataError(
            f"{path}: declares entities, which no dump of Stack Exchange does and which can grow "
            "without end; take the file out of the input or fetch it again"
        )
    end = head.find(b">", start)
    if start < 0 or end < 0:
        raise DataError(f"{path}: not a Posts.xml: no <posts> at its beginning; fetch it again")
    encoding = _ENCODING.search(before)
    if encoding and encoding[1].lower() not in (b"utf-8", b"us-ascii", b"ascii"):
        raise DataError(f"{path}: is not in UTF-8 but in {encoding[1].decode('latin-1')}")
    file.seek(end + 1)
    return end + 1


def _rows(file: IO[bytes], place: int, path: Path) -> Iterator[Row]:
    comment = False
    for markup, size in _markup(file):
        at, place = place, place + size
        if comment or markup.startswith(b"<!--"):
            comment = b"-->" not in markup
        elif size > len(markup):
            yield Row(at, size, {}, TOO_LARGE, _shown(markup))
        elif markup.startswith(b"<row") and markup[4:5].isspace():
            yield _parse(markup, at)
        elif markup.startswith(b"</posts"):
            return
        elif markup.strip() and not markup.startswith(b"</row"):
            yield Row(at, size, {}, MALFORMED, _shown(markup))
    raise DataError(f"{path}: is cut: it ends at byte {place} without </posts>; fetch it again")


def _markup(file: IO[bytes]) -> Iterator[tuple[bytes, int]]:
    """Yield each `<` with what follows it up to the next, and its size.

    What is longer than a document may be comes without what is beyond: its size says so.
    """
    held = bytearray()
    size = 0
    while piece := file.read(_PIECE):
        first, *others = piece.split(b"<")
        size += len(first)
        held += first[: max(0, LARGEST - len(held))]
        for other in others:
            if size:
                yield bytes(held), size
            held = bytearray(b"<" + other)
            size = len(held)
    if size:
        yield bytes(held), size


def _parse(markup: bytes, place: int) -> Row:
    element = markup.rstrip()
    if not element.endswith(b"/>"):
        element += b"</row>"
    found: list[dict[str, str]] = []
    parser = expat.ParserCreate("utf-8")
    parser.StartElementHandler = lambda _, values: found.append(values)
    try:
        parser.Parse(element, True)
    except expat.ExpatError:
        return Row(place, len(markup), {}, MALFORMED, _shown(markup))
    return Row(place, len(markup), found[0])


def _shown(markup: bytes) -> str:
    return markup[:_SHOWN].decode("utf-8", "replace")
