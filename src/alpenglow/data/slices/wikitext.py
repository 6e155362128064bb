"""Wiki markup to plain text: templates, tables, references and link syntax go, the prose stays.

Small and linear on purpose: nested marks are matched by one scan with a stack. Text that templates
would have produced (dates, units, some names) is lost with them.
"""

from __future__ import annotations

import html
import re

_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.S)
_EMPTY_REFERENCE = re.compile(r"<(?:ref|references)\b[^<>]*/>", re.I)
_HIDDEN = re.compile(
    r"<(ref|references|math|gallery|timeline|imagemap|score|chem|syntaxhighlight|source|nowiki)\b"
    r"[^<>]*>.*?</\1\s*>",
    re.I | re.S,
)
_BREAK = re.compile(r"<(?:br|/p|/div|/li)\b[^<>]*>", re.I)
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_NESTED = re.compile(r"\{\{|\}\}|^[ :]*\{\||^\|\}(?!\})", re.M)
_OPEN_LINK = re.compile(r"\[\[|\]\]")
_EXTERNAL = re.compile(r"\[(?:https?:|ftp:|mailto:|//)[^\s\]]*(?:\s+([^\]]*))?\]")
_QUOTES = re.compile(r"'{2,5}")
_HEADING = re.compile(r"^(={1,6})[ \t]*(.*?)[ \t]*\1[ \t]*$", re.M)
_LIST = re.compile(r"^[*#:;]+[ \t]*", re.M)
_MAGIC = re.compile(r"__[A-Z]+__")
_BLANK = re.compile(r"\n{3,}")
_EMPTY = re.compile(r" ?\([\s,;:]*\)")  # what a template leaves of "(pronounced {{IPA|...}})"
_SPACES = re.compile(r"[ \t]{2,}")
_NO_TEXT = ("file:", "image:", "category:", "media:", ":category:", ":file:", ":image:")
_LANGUAGE = re.compile(r"[a-z]{2,3}(?:-[a-z]+)*:\S", re.A)


def clean(markup: str) -> str:
    """Return the plain text of a page."""
    text = _COMMENT.sub("", markup)
    text = _EMPTY_REFERENCE.sub("", text)
    text = _HIDDEN.sub("", text)
    text = _without_nested(text)
    text = _links(text)
    text = _EXTERNAL.sub(lambda match: match.group(1) or "", text)
    text = _BREAK.sub("\n", text)
    text = _TAG.sub("", text)
    text = _QUOTES.sub("", text)
    text = _HEADING.sub(r"\2", text)
    text = _LIST.sub("", text)
    text = _MAGIC.sub("", text)
    text = html.unescape(text).replace("\xa0", " ")
    text = _EMPTY.sub("", text)
    text = _SPACES.sub(" ", text)
    text = "\n".join(line.strip() for line in text.split("\n"))
    return _BLANK.sub("\n\n", text).strip()


def _without_nested(text: str) -> str:
    """Drop templates and tables with all that is inside them; an unclosed one goes alone."""
    kept: list[str] = []
    stack: list[tuple[str, int]] = []  # what was opened, and how long `kept` was then
    end = 0
    for match in _NESTED.finditer(text):
        mark = match.group().strip(" :")
        kept.append(text[end : match.start()])
        end = match.end()
        if mark in ("{{", "{|"):
            stack.append((mark, len(kept)))
        else:
            opening = "{{" if mark == "}}" else "{|"
            depth = next((i for i in reversed(range(len(stack))) if stack[i][0] == opening), None)
            if depth is not None:
                del kept[stack[depth][1] :]
                del stack[depth:]
    kept.append(text[end:])
    return "".join(kept)


def _links(text: str) -> str:
    """`[[page|label]]` becomes its label; files, categories and other languages' pages go."""
    parts: list[list[str]] = [[]]
    end = 0
    for match in _OPEN_LINK.finditer(text):
        parts[-1].append(text[end : match.start()])
        end = match.end()
        if match.group() == "[[":
            parts.append([])
        elif len(parts) > 1:
            inner = "".join(parts.pop())
            parts[-1].append(_label(inner))
    parts[-1].append(text[end:])
    return "".join("".join(part) for part in parts)


def _label(inner: str) -> str:
    target, bar, label = inner.partition("|")
    target = target.strip()
    if target.lower().startswith(_NO_TEXT):
        return ""
    if not bar and _LANGUAGE.match(target):
        return ""
    return label.rpartition("|")[2] if bar else target
