"""A MediaWiki XML dump as a stream of pages.

Memory is bounded by `LARGEST`, whatever the file holds: a longer page is passed on without its
text, a longer tag or comment ends the reading, and so do tags nested deeper than any dump's. A dump
has no entities of its own; one that declares any is refused, and no external file is ever opened.
Bytes that are not UTF-8 spoil their page alone.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO
from xml.parsers import expat

from alpenglow.data.slices.source import LARGEST, TOO_LARGE

CHUNK = 1 << 20
DEPTH = 32
LONGEST_NAME = 10_000
"""Characters of a title; MediaWiki allows 255 bytes."""
LONG_NAME = "title or number too long"
_SPOILT = "\U0010fffd"
"""Stands for bytes that are not UTF-8: a private character that no article uses."""
_DATABASE = re.compile(r"(?:^|/)([a-z][a-z_]*?)wiki(?:-|$)")
_HOST = re.compile(r"(https?://([a-z-]+)\.wikipedia\.org)/")


class NotADump(ValueError):
    """The file cannot be read as a dump; the message says why."""


@dataclass
class Site:
    """What a dump's head says about its wiki."""

    language: str = ""
    base: str = ""
    """Beginning of the addresses of articles."""
    media: tuple[str, ...] = ()
    """Names of the spaces of media and files (-2 and 6)."""
    category: tuple[str, ...] = ()
    """Names of the space of categories (14)."""


@dataclass
class Page:
    """A page and its last revision."""

    title: str = ""
    id: str = ""
    space: str = "0"
    """Number of its name space; articles are in 0."""
    redirect: bool = False
    revision: str = ""
    timestamp: str = ""
    text: str | None = None
    """Wiki markup; None where there is none, or where `fault` says why."""
    size: int = 0
    """Bytes of markup."""
    fault: str = ""


def _spoilt(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return _SPOILT, error.end


codecs.register_error("alpenglow-spoilt", _spoilt)


@dataclass
class _State:
    site: Site = field(default_factory=Site)
    pages: list[Page] = field(default_factory=list)
    path: list[str] = field(default_factory=list)
    page: Page | None = None
    wanted: bool = False
    parts: list[str] = field(default_factory=list)
    size: int = 0
    space: str = ""
    fed: int = 0
    heard: int = 0
    """How much was fed when the parser last understood something."""


class Dump:
    """Reads a dump.

    Args:
        stream: bytes of XML.
        name: of the file; tells the language where the dump does not.
    """

    def __init__(self, stream: IO[bytes], name: str) -> None:
        self._stream = stream
        self._state = _State()
        match = _DATABASE.search(name)
        self._named = match[1].replace("_", "-") if match else ""

    @property
    def site(self) -> Site:
        """What is known of the wiki; whole before the first page comes."""
        return self._state.site

    def pages(self) -> Iterator[Page]:
        """Yield every page.

        Raises:
            NotADump: broken XML, entities, a tag without end.
        """
        state = self._state
        parser = expat.ParserCreate("utf-8")
        parser.buffer_text = True
        parser.buffer_size = CHUNK
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        parser.CommentHandler = self._heard
        parser.ProcessingInstructionHandler = self._heard
        parser.EntityDeclHandler = _refuse
        decoder = codecs.getincrementaldecoder("utf-8")("alpenglow-spoilt")
        try:
            while data := self._stream.read(CHUNK):
                state.fed += len(data)
                parser.Parse(decoder.decode(data), False)
                if state.fed - state.heard > LARGEST:
                    raise NotADump("a tag or comment of more than 50 MB")
                yield from state.pages
                state.pages.clear()
            parser.Parse(decoder.decode(b"", True), True)
        except expat.ExpatError as error:
            raise NotADump(str(error)) from None
        yield from state.pages

    def _heard(self, *_: str) -> None:
        self._state.heard = self._state.fed

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        state = self._state
        state.heard = state.fed
        path = state.path
        path.append(name)
        if len(path) > DEPTH:
            raise NotADump(f"tags nested more than {DEPTH} deep")
        if len(path) == 1:
            if name != "mediawiki":
                raise NotADump(f"its first tag is <{name[:50]}>, not <mediawiki>")
            state.site.language = self._named or attributes.get("xml:lang", "")
            self._know()
        elif len(path) == 2:
            state.page = Page() if name == "page" else None
        elif name == "redirect" and len(path) == 3 and state.page:
            state.page.redirect = True
        elif name == "namespace":
            state.space = attributes.get("key", "")
        state.wanted = name in _FIELDS and len(path) in (3, 4)
        state.parts.clear()
        state.size = 0

    def _text(self, data: str) -> None:
        state = self._state
        state.heard = state.fed
        if state.wanted:
            state.size += len(data)
            if state.size <= LARGEST:
                state.parts.append(data)
            else:
                state.parts.clear()

    def _end(self, name: str) -> None:
        state = self._state
        state.heard = state.fed
        path, page = state.path, state.page
        if state.wanted:
            self._field(path, "".join(state.parts), state.size)
        state.wanted = False
        state.parts.clear()
        path.pop()
        if name == "siteinfo" and len(path) == 1:
            self._know()
        if name == "page" and len(path) == 1 and page is not None:
            state.pages.append(page)
            state.page = None

    def _field(self, path: list[str], text: str, size: int) -> None:
        site, page, name = self._state.site, self._state.page, path[-1]
        if page is None:
            if path[1:] == ["siteinfo", "dbname"] and text.endswith("wiki"):
                site.language = text.removesuffix("wiki").replace("_", "-")
            elif path[1:] == ["siteinfo", "base"]:
                site.base = text
            elif path[1:3] == ["siteinfo", "namespaces"] and text:
                if self._state.space in ("-2", "6"):
                    site.media += (text,)
                elif self._state.space == "14":
                    site.category += (text,)
            return
        if name == "text" and path[2] == "revision":
            page.text, page.size = text, len(text.encode())
            if page.fault != LONG_NAME:
                page.fault = ""  # of an earlier revision
            if size > LARGEST:
                page.fault, page.text, page.size = TOO_LARGE, None, size
            elif _SPOILT in text:
                page.fault, page.text = "not UTF-8", None
        elif size > LONGEST_NAME:
            page.fault = LONG_NAME
        elif len(path) == 3 and name in ("title", "id", "ns"):
            setattr(page, "space" if name == "ns" else name, text)
        elif len(path) == 4 and path[2] == "revision" and name in ("id", "timestamp"):
            setattr(page, "revision" if name == "id" else name, text)

    def _know(self) -> None:
        site = self._state.site
        match = _HOST.match(site.base)
        if match:
            site.base = f"{match[1]}/wiki/"
            site.language = site.language or match[2]
        elif site.language:
            site.base = f"https://{site.language}.wikipedia.org/wiki/"


_FIELDS = frozenset(("title", "id", "ns", "timestamp", "text", "dbname", "base", "namespace"))


def _refuse(*_: object) -> None:
    raise NotADump("it declares entities, which no dump does")
