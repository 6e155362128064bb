"""The licence notice at the head of a source file: taken out, so that copies become equal.

`faithful` does what RedPajama v1 did (data_prep/github/github_clean_dedup_local.py, branch rp_v1),
defects included: if there is a `/* */` comment anywhere, only the first one is looked at, and cut
if it says "copyright"; if there is none, every leading line that is empty or begins with `//`, `#`
or `--` is deleted: shebangs, `#include`, headings and all.

`fixed` takes out a comment at the head of the file only if it holds a notice of copyright or
licence, in the comment syntax of the file's language. Lines that mean something to a program
(shebang, encoding, build tags) stay, and so do comments and paragraphs that hold no notice.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from alpenglow.data.slices.github_endings import language

RULE = "licence header"
"""Name of the rule in the account of what was trimmed."""

_COPYRIGHT = re.compile("copyright", re.I)

_NOTICE = re.compile(
    r"""copyright\s*(?:\(c\)|©|:|by\b|holders?\b|the\b|notice|[12]\d{3}|(?-i:[A-Z]))
    | \(c\)\s*(?:copyright\b|[12]\d{3}) | © | \ball\s+rights\s+reserved\b | spdx-license-identifier
    | @licen[cs]e\b | \blicen[cs]ed?\s*: | \blicen[cs]ed\s+(?:to|under)\b
    | \b(?:under|of|see)\s+(?:the\s+)?(?:\S+\s+){0,8}?(?:licen[cs]e|copying)\b
    | \bpermission\b.{0,40}\bhereby\s+granted\b | \bredistributions?\s+(?:and\s+use|of|in)\b
    | \bprovided\b.{0,60}\bas[\s-]+is\b | \bwithout\s+(?:any\s+|even\s+the\s+implied\s+)?warrant
    | \bfree\s+software\b.{0,80}\bredistribute | \bgnu\b.{0,40}\blicen[cs]e\b
    | \b(?:placed\s+in|released\s+(?:in)?to)\s+the\s+public\s+domain\b""",
    re.I | re.X,
)

_DIRECTIVE = re.compile(
    r"""\s*(?:\#! | \#.*coding[:=] | \#\s*(?:frozen_string_literal|cython|distutils|syntax|escape)\b
    | //go: | //\s*\+build | //\s*@(?:ts-|flow|jsx) | %\s*!tex | %&)""",
    re.I | re.X,
)
"""Comment lines that a program reads."""

_PREAMBLE = re.compile(r"(?:<\?xml\b.*\?>|<\?php|<!doctype\b[^>]*>|@echo off)?", re.I)
"""What may stand before a header, by itself on a line."""

_FILL = re.compile(r"[\s*#]+")
"""What stands between the words of a comment that runs over lines."""

BLOCKS = 20
"""Comments at the head of a file that are looked at."""


@dataclass(frozen=True)
class _Syntax:
    """How a language writes comments."""

    lines: tuple[str, ...] = ()
    blocks: tuple[tuple[str, str], ...] = ()
    code: tuple[str, ...] = ()
    """What begins like a comment line and is none."""


_STARRED = (("/*", "*/"),)
_MARKUP = (("<!--", "-->"),)
_C = _Syntax(("//",), _STARRED)
_HASH = _Syntax(("#",))
_DASHES = _Syntax(("--",), code=("--[[", "--[="))
_SYNTAX: dict[str, _Syntax] = {
    **dict.fromkeys(
        ("C", "C#", "C++", "Cuda", "Go", "Java", "JavaScript", "Kotlin", "Rust", "Scala", "Swift",
         "TypeScript"), _C,
    ),
    **dict.fromkeys(
        ("CMake", "Cython", "Dockerfile", "Julia", "Makefile", "Perl", "PowerShell", "Python", "R",
         "Ruby", "Shell", "Smali"), _HASH,
    ),
    **dict.fromkeys(("Haskell", "Lua"), _DASHES),
    **dict.fromkeys(("HTML", "Markdown", "XML"), _Syntax(blocks=_MARKUP)),
    "Assembly": _Syntax((";", "//"), _STARRED),
    "CSS": _Syntax(blocks=_STARRED),
    "Fortran": _Syntax(("!",), code=("!$", "!DIR$", "!dir$")),
    "Objective-C or MATLAB": _Syntax(("//", "%"), _STARRED),
    "PHP": _Syntax(("//", "#"), _STARRED, code=("#[",)),
    "SQL": _Syntax(("--",), _STARRED),
    "TeX": _Syntax(("%",)),
}  # fmt: skip


def strip(text: str, path: str, mode: Literal["fixed", "faithful"]) -> str:
    """Return a source text without its licence header.

    Args:
        text: the file.
        path: its name tells the language; `faithful` does not ask.
        mode: see the module.
    """
    return _faithful(text) if mode == "faithful" else _fixed(text, path)


def _faithful(text: str) -> str:
    start = text.find("/*")
    end = text.find("*/", start + 2) + 2 if start >= 0 else 1
    if end > 1:
        return text[:start] + text[end:] if _COPYRIGHT.search(text, start, end) else text
    lines = text.split("\n")
    first = next(
        (at for at, line in enumerate(lines) if line and not line.startswith(("//", "#", "--"))),
        len(lines),
    )
    return "\n".join(lines[first:])


def _fixed(text: str, path: str) -> str:
    syntax = _SYNTAX.get(language(path))
    if syntax is None:
        return text
    kept: list[str] = []
    position = 0
    for _ in range(BLOCKS):
        start = _skip_preamble(text, position)
        end, by_lines = _comment(text, start, syntax)
        if end == start:
            break
        block = text[start:end]
        rest = (_without_notice(block, syntax) if by_lines else "") if _holds(block) else block
        kept += [text[position:start], rest]
        position = end
        if rest != block:
            position = end if rest else _skip_blank(text, end)
    return "".join(kept) + text[position:] if kept else text


def _holds(comment: str) -> bool:
    return _NOTICE.search(_FILL.sub(" ", comment)) is not None


def _line_end(text: str, position: int) -> int:
    """Return where the next line begins."""
    end = text.find("\n", position)
    return len(text) if end < 0 else end + 1


def _skip_preamble(text: str, position: int) -> int:
    while position < len(text):
        end = _line_end(text, position)
        line = text[position:end]
        if not (_PREAMBLE.fullmatch(line.strip()) or _DIRECTIVE.match(line)):
            break
        position = end
    return position


def _comment(text: str, start: int, syntax: _Syntax) -> tuple[int, bool]:
    """Return where the comment at `start` ends (there: no comment), and whether it is of lines."""
    end = _line_end(text, start)
    line = text[start:end].lstrip()
    for opening, closing in syntax.blocks:
        if line.startswith(opening):
            inside = text.index(opening, start) + len(opening)
            found = text.find(closing, inside)
            return (start if found < 0 else found + len(closing)), False
    position = start
    while position < len(text):
        end = _line_end(text, position)
        line = text[position:end].lstrip()
        if not line.startswith(syntax.lines or ("\n\n",)) or line.startswith(syntax.code or "\n\n"):
            break
        position = end
    return position, True


def _skip_blank(text: str, position: int) -> int:
    """Pass over the rest of a removed comment's line and the empty lines below it."""
    while position < len(text):
        end = _line_end(text, position)
        if text[position:end].strip():
            break
        position = end
    return position


def _without_notice(block: str, syntax: _Syntax) -> str:
    """Take the paragraphs from the first to the last notice out of a run of comment lines."""
    lines = re.split(r"(?<=\n)", block)  # not at form feeds, which end no comment
    words = [_words(line, syntax) for line in lines]
    marked: list[tuple[int, int]] = []
    first = 0
    for at in range(len(lines) + 1):
        if at == len(lines) or not words[at]:
            if _holds(" ".join(words[first:at])):
                marked.append((first, at))
            first = at + 1
    if not marked:  # The notice runs over a paragraph's end.
        marked = [(0, len(lines))]
    begin, end = marked[0][0], marked[-1][1]
    while begin > 0 and not words[begin - 1]:
        begin -= 1
    while end < len(lines) and not words[end]:
        end += 1
    directives = [line for line in lines[begin:end] if _DIRECTIVE.match(line)]
    return "".join(lines[:begin] + directives + lines[end:])


def _words(line: str, syntax: _Syntax) -> str:
    """Return what a comment line says; empty for a rule of dashes and the like."""
    text = line.strip()
    for opening in syntax.lines:
        text = text.removeprefix(opening)
    return text.strip() if any(map(str.isalnum, text)) else ""
