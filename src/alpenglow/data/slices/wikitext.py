"""Wiki markup to plain text: templates, tables, references and link syntax go, the prose stays.

Small and linear on purpose: nested marks are matched by one scan with a stack, and no pattern looks
further than its own closing mark. What templates would have produced is mostly lost with
them; a few whose text is one of their arguments (`{{lang|fr|mot}}`, `{{nowrap|...}}`,
`{{convert|5|km}}`) give it. Formulas stay, between dollar signs as in LaTeX. Code stays as it is.
"""

from __future__ import annotations

import html
import re
from collections.abc import Collection

from alpenglow.data.slices.wikipedia_template import text_of

_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.S)
_LITERAL = frozenset(("nowiki", "pre", "code", "syntaxhighlight", "source", "math", "tt"))
_GONE = frozenset(
    ("ref", "references", "gallery", "timeline", "imagemap", "score", "graph", "hiero", "chem",
     "ce", "templatedata", "mapframe", "maplink", "inputbox", "categorytree", "section", "style",
     "templatestyles", "includeonly")
)  # fmt: skip
_ELEMENT = re.compile(rf"<(/?)({'|'.join(sorted(_LITERAL | _GONE))})\b([^<>]*)>", re.I)
_BREAK = re.compile(r"<(?:br|hr|p|div|li|/p|/div|/li|/tr|/blockquote)\b[^<>]*>", re.I)
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_NESTED = re.compile(r"\{\{|\}\}|^[ :*#]*\{\||^[ \t]*\|\}(?!\})", re.M)
_OPEN_LINK = re.compile(r"\[\[|\]\]")
_EXTERNAL = re.compile(r"\[(?:https?:|ftp:|mailto:|//)[^\s\[\]]*(?:[ \t]+([^\[\]\n]*))?\]")
_QUOTES = re.compile(r"'{2,5}")
_MAGIC = re.compile(r"__([^\W\d_]+)__")
_VARIANT = re.compile(r"-\{([^{}\n]*)\}-")
_BLANK = re.compile(r"\n{3,}")
# What is left of "({{IPA|...}}, born 1900, {{age|...}})"; short, so that the scan stays linear.
_EMPTY = re.compile(r" ?\((?:[\s,;:]{0,99}\)|(?P<more>[ \t,;:]{1,9}))")
_BEFORE_BRACKET = re.compile(r"[ \t,;:]{1,9}\)")
_WORD = re.compile(r"[^\W_]")
_SPACES = re.compile(r"[ \t]{2,}")
_BEFORE_STOP = re.compile(r"(?<=\S) ([,.])(?=\s|\Z)")
_LANGUAGE = re.compile(r"[a-z]{2,3}(?:-[a-z]+)*:\S", re.A)
_HELD = re.compile("\x02(\\d+)\x03")  # XML has neither character
LINKS = 20
"""Links inside links; MediaWiki has them in captions of files only."""
TEMPLATES = 20
"""Templates inside templates from which text is still taken."""


class Cleaner:
    """Cleans the markup of one wiki.

    Args:
        media: names of the spaces of files, whose links go.
        category: names of the space of categories, whose links go.
    """

    def __init__(
        self, media: Collection[str] = ("File", "Image", "Media"),
        category: Collection[str] = ("Category",),
    ) -> None:  # fmt: skip
        self._no_text = tuple(
            {f"{name.lower().replace('_', ' ')}:" for name in (*media, *category)}
        )

    def clean(self, markup: str) -> tuple[str, dict[str, int]]:
        """Return the plain text of a page, and rule -> bytes that it took out.

        The bytes of the text and of the rules are those of the markup.
        """
        held: list[str] = []
        sizes = [_size(markup)]
        text = _COMMENT.sub("", markup)
        sizes.append(_size(text))
        text, references = _elements(text, held)
        sizes.append(_size(text))
        text, tables = _without_nested(text)
        sizes.append(_size(text))
        text = self._links(text)
        sizes.append(_size(text))
        text = _plain(_markup(text), held)
        sizes.append(_size(text))
        taken = {
            "comments": sizes[0] - sizes[1],
            "references": references,
            "templates": sizes[2] - sizes[3] - tables,
            "tables": tables,
            "links": sizes[3] - sizes[4],
        }
        taken = {rule: max(0, size) for rule, size in taken.items()}
        taken["markup"] = sizes[0] - sizes[-1] - sum(taken.values())
        if taken["markup"] < 0:  # a reference's place counts where its text is held
            taken = {"markup": max(0, sizes[0] - sizes[-1])}
        return text, {rule: size for rule, size in taken.items() if size}

    def _links(self, text: str) -> str:
        """`[[page|label]]` becomes its label; files, categories and other languages' pages go."""
        parts: list[list[str]] = [[]]
        end, ignored = 0, 0
        for match in _OPEN_LINK.finditer(text):
            parts[-1].append(text[end : match.start()])
            end = match.end()
            if match.group() == "[[":
                if len(parts) > LINKS:
                    ignored += 1
                else:
                    parts.append([])
            elif ignored:
                ignored -= 1
            elif len(parts) > 1:
                inner = "".join(parts.pop())
                parts[-1].append(self._label(inner))
        parts[-1].append(text[end:])
        return "".join("".join(part) for part in parts)

    def _label(self, inner: str) -> str:
        target, bar, label = inner.partition("|")
        target = target.strip()
        if target.startswith(":"):
            target = target[1:].lstrip()
            return label.rpartition("|")[2] if bar and label else target
        if target[:60].lower().replace("_", " ").startswith(self._no_text):
            return ""
        if not bar and _LANGUAGE.match(target):
            return ""
        if bar and not label:  # the pipe trick, kept by some old pages
            return target.partition(":")[2] or target
        return label.rpartition("|")[2] if bar else target


def clean(markup: str) -> str:
    """Return the plain text of a page of an English wiki."""
    return Cleaner().clean(markup)[0]


def _elements(text: str, held: list[str]) -> tuple[str, int]:
    """Take out references and pictures, and put code and formulas aside.

    Returns the text, and the bytes of what went.
    """
    tokens = list(_ELEMENT.finditer(text))
    ends: dict[str, list[int]] = {}
    for number, token in enumerate(tokens):
        if token[1]:
            ends.setdefault(token[2].lower(), []).append(number)
    following = dict.fromkeys(ends, 0)
    kept: list[str] = []
    at, gone = 0, 0
    for number, token in enumerate(tokens):
        if token.start() < at:
            continue
        kept.append(text[at : token.start()])
        name, at = token[2].lower(), token.end()
        if token[1] or token[3].rstrip().endswith("/"):
            continue
        numbers, index = ends.get(name, []), following.get(name, 0)
        while index < len(numbers) and numbers[index] < number:
            index += 1
        if index < len(numbers):
            following[name] = index
            closing = tokens[numbers[index]]
            inner = text[token.end() : closing.start()]
            at = closing.end()
            if name in _LITERAL:
                kept.append(f"\x02{len(held)}\x03")
                held.append(_literal(name, inner))
            else:
                gone += _size(text[token.start() : at])
    kept.append(text[at:])
    return "".join(kept), gone


def _literal(name: str, inner: str) -> str:
    if name == "math":
        formula = " ".join(inner.split())
        return f"${formula}$" if formula else ""
    if name in ("pre", "syntaxhighlight", "source"):
        return "\n" + inner.strip("\n") + "\n"
    return inner


def _without_nested(text: str) -> tuple[str, int]:
    """Drop templates and tables with all that is inside them; an unclosed one goes alone.

    Returns the text, and the bytes of tables outside of templates.
    """
    kept: list[str] = []
    stack: list[tuple[bool, int, int]] = []  # a table?, length of `kept`, place in the text
    open_of = [0, 0]
    end, tables = 0, 0
    for match in _NESTED.finditer(text):
        mark = match.group().lstrip(" :*#\t")
        kept.append(text[end : match.start()])
        end = match.end()
        table = mark in ("{|", "|}")
        if mark[0] == "{":
            stack.append((table, len(kept), match.start()))
            open_of[table] += 1
        elif open_of[table]:
            while True:
                kind, length, place = stack.pop()
                open_of[kind] -= 1
                if kind == table:
                    break
            written = ""
            if not table and len(stack) < TEMPLATES:
                written = text_of("".join(kept[length:]))
            del kept[length:]
            kept.append(written)
            if table and not stack:
                tables += _size(text[place:end])
    kept.append(text[end:])
    return "".join(kept), tables


def _markup(text: str) -> str:
    text = _EXTERNAL.sub(lambda match: match[1] or "", text)
    text = _BREAK.sub("\n", text)
    text = _TAG.sub("", text)
    text = _QUOTES.sub("", text)
    text = _VARIANT.sub(_variant, text)
    return _MAGIC.sub(lambda match: "" if match[1].isupper() else match[0], text)


def _variant(match: re.Match[str]) -> str:
    """`-{text}-` keeps a text from being converted between scripts (Serbian)."""
    first = match[1].partition(";")[0]
    return first.rpartition("|")[2].rpartition(":")[2].strip()


def _plain(text: str, held: list[str]) -> str:
    text = html.unescape(text).replace("\xa0", " ")
    text = _SPACES.sub(" ", text)
    text = _EMPTY.sub(lambda match: match[0].rstrip(" \t,;:") if match["more"] else "", text)
    if any(end in text for end in (" )", ",)", ";)", ":)")):
        text = _BEFORE_BRACKET.sub(")", text)
    text = "\n".join([_line(line) for line in text.split("\n")])
    if " ," in text or " ." in text:
        text = _BEFORE_STOP.sub(r"\1", text)
    if held:
        text = _HELD.sub(lambda match: html.unescape(held[int(match[1])]), text)
    return _BLANK.sub("\n\n", text).strip()


def _line(line: str) -> str:
    """Take the mark of a heading or a list off a line; rests of tables go."""
    line = line.strip()
    first = line[:1]
    if first == "=" and line.endswith("=") and len(line) > 2:
        return line.strip("=").strip()
    if first and first in "*#:;":
        line = line.lstrip("*#:; \t")
    if line[:2] in ("|-", "|}", "|+") or not _WORD.search(line):
        return ""
    return line.lstrip(",; ") if line[:1] in ",;" else line


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
