"""Web pages to text: encoding, main content, and the licence that a page states.

The text is Resiliparse's: main content, paragraphs apart by an empty line, list items with bullets;
navigation, footers, forms, scripts and hidden elements stay out. Pages that would cost a worker its
memory or its time are refused before they are parsed: a parsed page takes about 35 times its size
(measured: 335 MB for 9.8 MB), and time grows with the square of the depth of nesting.
"""

from __future__ import annotations

import re

import numpy as np

from alpenglow.data.document import DataError

LARGEST_PAGE = 10_000_000
"""Bytes of HTML; CommonCrawl itself kept 1 MiB of a page in the dumps that RedPajama v1 read."""
PAGE_TOO_LARGE = "page larger than 10 MB"
NOT_HTML = "not HTML"
NO_TEXT = "no text"
UNDECODABLE = "undecodable"
NOT_PARSED = "cannot be parsed"
TOO_DEEP = "nested too deeply"
DEEPEST = 1000
"""Elements inside each other; browsers stop at 512."""
MOST_BROKEN = 0.01
"""Share of characters that the encoding has no meaning for."""
HTML_KINDS = frozenset({"text/html", "application/xhtml+xml"})
_MARKS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
_LESS, _SLASH, _A, _Z = b"</az"
_FOREIGN = re.compile(r"<(?:svg|math)\b", re.IGNORECASE)
_TAG = re.compile(r"<(/?)([A-Za-z][A-Za-z0-9-]*)")
_NEVER_DEEP = frozenset("br hr img meta embed p li dt dd body".split())  # noqa: SIM905
_NO_END = (
    "area base col input link source track wbr tr td th thead tbody tfoot option colgroup html"
)
_LEFT_OPEN = _NEVER_DEEP | frozenset(_NO_END.split())
"""Elements without an end tag, or whose end tag people leave out: they tell nothing of depth. But
inside of <svg> and <math> all but the first few are elements as any other, and nest."""
_LOOKS_HTML = re.compile(rb"<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE)
LONGEST_TAG = 2000
"""Characters on each side of the word that a tag is looked for in."""
_LICENCE_TAG = re.compile(r"<(?:a|link)\s[^<>]*>", re.IGNORECASE)
_LICENCE_REL = re.compile(r"\brel\s*=\s*[\"']?[^\"'>]*\blicense\b", re.IGNORECASE)
_HREF = re.compile(r"\bhref\s*=\s*[\"']?([^\"'\s>]+)", re.IGNORECASE)
_CREATIVE_COMMONS = re.compile(
    r"https?://(?:www\.)?creativecommons\.org/(licenses|publicdomain)/([a-z+-]+)/(\d\.\d)"
)


class Refused(ValueError):
    """Why a page gives no text; the message is a fault."""


def looks_html(body: bytes) -> bool:
    """Whether a body of no stated kind is a page, by its first 1,024 bytes."""
    return _LOOKS_HTML.search(body[:1024]) is not None


def decoded(body: bytes, charset: str = "", *, html: bool = True) -> str:
    """Decode a page: by its byte order mark, else the server's word, else the page's, else a guess.

    Where a page's stated encoding breaks more characters than it reads (a page in latin-1 that says
    UTF-8), the guess is tried; a few broken ones among good ones stay as U+FFFD.

    Raises:
        Refused: binary, too large, or more than 1 % of the characters are broken.
    """
    if len(body) > LARGEST_PAGE:
        raise Refused(PAGE_TOO_LARGE)
    marked = next((name for mark, name in _MARKS if body.startswith(mark)), "")
    wide = charset.lower().startswith(("utf-16", "utf16"))
    if not (marked or wide) and b"\0" in body[:1024]:
        raise Refused(NOT_HTML if html else UNDECODABLE)
    text = _decode(body, marked or charset or ("" if html else "utf-8"), html=html)
    broken = text.count("\ufffd")
    if html and not marked and broken > len(text) - len(text.encode("ascii", "ignore")) - broken:
        other = _decode(body, "", html=False)
        if other.count("\ufffd") < broken:
            text, broken = other, other.count("\ufffd")
    if broken > MOST_BROKEN * len(text):
        raise Refused(UNDECODABLE)
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    return text.replace("\0", "")


def _decode(body: bytes, charset: str, *, html: bool) -> str:
    try:
        from resiliparse.parse.encoding import (
            bytes_to_str,
            detect_encoding,
            map_encoding_to_html5,
        )
    except ImportError:
        raise DataError(CURE) from None
    # Names as browsers read them: latin-1 is windows-1252, gb2312 is gb18030.
    name = map_encoding_to_html5(charset, False) if charset else None
    name = name or detect_encoding(body, from_html_meta=html) or "utf-8"
    return str(bytes_to_str(body, name, "replace", (), False))


CURE = "pages of HTML need Resiliparse: pip install 'alpenglow[raw]'"


def page_text(html: str, *, main_content: bool = True) -> str:
    """Return the text of a page.

    Args:
        html: the whole page.
        main_content: leave out navigation, footers, advertisements, comments of readers.

    Raises:
        Refused: nothing to read in it, or elements nested deeper than any browser goes.
        DataError: Resiliparse is not installed.
    """
    try:
        from resiliparse.extract.html2text import (
            extract_plain_text,
        )
    except ImportError:
        raise DataError(CURE) from None
    if deeper_than(html, DEEPEST):
        raise Refused(TOO_DEEP)
    try:
        text = extract_plain_text(
            html, main_content=main_content, alt_texts=False, comments=not main_content
        )
    except Exception:  # another's parser: what it cannot take is one page, not the unit
        raise Refused(NOT_PARSED) from None
    text = "\n".join([line.rstrip() for line in text.split("\n")]).strip()
    if not text:
        raise Refused(NO_TEXT)
    return text


def deeper_than(html: str, depth: int) -> bool:
    """Whether more than `depth` elements stand inside each other."""
    if html.count("<") <= depth:
        return False
    # A bound that is quick to find: every tag without a slash counts as one that opens.
    data = np.frombuffer(html.encode("utf-8", "replace"), np.uint8)
    after = data[np.minimum(np.flatnonzero(data == _LESS) + 1, len(data) - 1)]
    steps = np.where(after == _SLASH, -1, ((after | 32) >= _A) & ((after | 32) <= _Z))
    levels = np.cumsum(steps)
    if int((levels - np.minimum(np.minimum.accumulate(levels), 0)).max()) <= depth:
        return False
    foreign = _FOREIGN.search(html) is not None
    shallow = _NEVER_DEEP if foreign else _LEFT_OPEN
    level = 0
    for slash, name in _TAG.findall(html):
        if name.lower() in shallow:
            continue
        level = max(0, level - 1) if slash else level + 1
        if level > depth:
            return True
    return False


def stated_licence(html: str) -> str:
    """Return the licence of `rel="license"`: an SPDX name for Creative Commons, else its address.

    "" where the page states none, or more than one: then it is not said which part has which.
    """
    found = set()
    at = html.find("license")
    while at >= 0:
        begin = html.rfind("<", max(0, at - LONGEST_TAG), at)
        end = html.find(">", at, at + LONGEST_TAG)
        tag = html[begin : end + 1] if begin >= 0 and end >= 0 else ""
        if _LICENCE_TAG.match(tag) and _LICENCE_REL.search(tag):
            address = _HREF.search(tag)
            if address:
                found.add(_spdx(address[1]))
        at = html.find("license", max(end, at + 1))
    return found.pop() if len(found) == 1 else ""


def _spdx(address: str) -> str:
    known = _CREATIVE_COMMONS.match(address)
    if known is None:
        return address
    family, terms, version = known.groups()
    if family == "publicdomain":
        return f"CC0-{version}" if terms == "zero" else address
    return f"CC-{terms.upper()}-{version}"
