"""HTML of a post to plain text: paragraphs and list items on lines of their own, code as it is.

For HTML that a site has cleaned and balanced, as Stack Exchange's dump is. Time grows with the
length of the markup and not faster, also where it is none: Python's html.parser takes a quarter of
a minute for 48 kB of `<a ` and so would let one post hold up a job.
"""

from __future__ import annotations

import html
import re

_BLOCKS = frozenset({"p", "div", "h1", "h2", "h3", "h4", "blockquote", "pre", "ul", "ol", "tr"})
_HIDDEN = {name: re.compile(rf"</{name}(?=[\s/>])[^<>]*+>", re.I) for name in ("script", "style")}
_BLANK = re.compile(r"\n{3,}")
_MARKUP = re.compile(
    r"""<(/?)([a-zA-Z][^\s/<>]*+)                          # a tag, with
    (?:(?:[^<>"']|"[^"<]*+"|'[^'<]*+')*+>|[^<>]*+>)        # attributes, > allowed in quotes
    | <!--                                                 # a comment, ended below
    | <[!?/][^<>]*+>                                       # a declaration
    """,
    re.X,
)
"""No part goes beyond the next `<` and none is tried twice: that bounds the time."""


def plain(markup: str) -> str:
    """Return the text of a piece of HTML."""
    parts: list[str] = []
    position, comments = 0, True
    while found := _MARKUP.search(markup, position):
        start, end = found.span()
        if found[0] == "<!--":
            close = markup.find("-->", end) if comments else -1
            comments = close >= 0
            # One that never ends is no comment; nor is any after it.
            parts.append(html.unescape(markup[position : start if comments else end]))
            position = close + 3 if comments else end
            continue
        parts.append(html.unescape(markup[position:start]))
        position = end
        name = (found[2] or "").lower()
        if name in _HIDDEN and not found[1]:
            close_tag = _HIDDEN[name].search(markup, end)
            position = close_tag.end() if close_tag else len(markup)
        elif name == "li" and not found[1]:
            parts.append("\n* ")
        elif name in _BLOCKS or (name == "br" and not found[1]):
            parts.append("\n")
    parts.append(html.unescape(markup[position:]))
    text = "\n".join(line.rstrip() for line in "".join(parts).split("\n"))
    return _BLANK.sub("\n\n", text).strip()
