r"""LaTeX as RedPajama v1 cleaned it, defects included (mode `faithful` of the arXiv slice).

The behaviour is that of `data_prep/arxiv/arxiv_cleaner.py` in togethercomputer/RedPajama-Data,
branch rp_v1 at its first publication (commit f54b86f); this code is written anew, and linear where
v1's patterns are not. Its defects are kept on purpose:

- a header is looked for before comments are removed, so one in a comment counts;
- `\paragraph` counts only with a `\subparagraph` after it (a missing `|`), and a file without
  header gives nothing;
- a comment takes the character before its `%` along; a bare `%` at the end of a line and one after
  `\\` stay; one in verbatim text or an address counts;
- `\appendix` cuts also as the beginning of a longer name; `\printbibliography` does not cut;
- macros have no arguments, need braces around the name (`\newcommand`) and the end of the line
  after the body; they are replaced once, in the order of definition, in definitions too, but not
  at the very end of a file;
- files are joined in the order of the archive; one that is not UTF-8 drops the paper.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from alpenglow.data.slices.source import LARGEST, TOO_LARGE

_HEADER = re.compile(r"\\(chapter|part|section|subsection|subsubsection|paragraph)\b\*?(?=[\[{])")
_LINE_COMMENT = re.compile(r"^%.*\n?", re.M)
_COMMENT = re.compile(r"[^\\]%.+$", re.M)
_CUT = re.compile(
    r"\\appendix|\\begin\{references\}|\\begin\{REFERENCES\}|\\begin\{thebibliography\}"
    r"|(?P<bibliography>\\bibliography\{)"
)
_NEWCOMMAND = re.compile(r"\\\bnewcommand\b\*?\{(\\[a-zA-Z0-9]+?)\}\{")
_DEF = re.compile(r"\\def\s*(\\[a-zA-Z0-9]+)\s*\{")
_ESCAPED = re.compile(r"[^\t\n\r\x20-\x7e]")
_SUBPARAGRAPH = re.compile(r"\}\\subparagraph\b\*?(?=[\[{])")
WORK = 20_000_000_000
"""Macros times characters of a paper; beyond that v1 would run for minutes."""


class Refused(ValueError):
    """v1 would have dropped the paper; the message is the reason."""


@dataclass
class CleanedV1:
    """v1's text of a paper, and the bytes that each rule took."""

    text: str
    trimmed: dict[str, int] = field(default_factory=dict)
    grown: int = 0


def clean(files: Sequence[str]) -> CleanedV1:
    """Return a paper's text as v1 made it; empty if no file has a header.

    Args:
        files: the texts of the .tex files in the order of the archive.

    Raises:
        Refused: v1 drops this paper.
    """
    macros: dict[str, str] = {}
    for text in files:
        for pattern in (_NEWCOMMAND, _DEF):
            macros.update(_definitions(pattern, text))
    if len(macros) * sum(len(text) for text in files) > WORK:
        raise Refused("too many macros")
    result = CleanedV1("")
    parts = [_file(text, macros, result) for text in files]
    result.grown += max(0, len(parts) - 1)
    result.text = "\n".join(parts)
    return result


def _definitions(pattern: re.Pattern[str], text: str) -> Iterator[tuple[str, str]]:
    """Yield (name, body) of definitions whose body ends with the line."""
    position, line_end = 0, -1
    while (match := pattern.search(text, position)) is not None:
        position = match.end()
        if line_end < position:
            line_end = text.find("\n", position)
            line_end = len(text) if line_end < 0 else line_end
        if line_end > position and text[line_end - 1] == "}":
            yield match[1], text[position : line_end - 1]
            position = line_end


def _file(text: str, macros: dict[str, str], result: CleanedV1) -> str:
    start = header(text)
    if start is None:
        _count(result, "no header", text, "")
        return ""
    rest = text[start:]
    _count(result, "preamble", text, rest)
    bare = _COMMENT.sub("", _LINE_COMMENT.sub("", rest))
    _count(result, "comments", rest, bare)
    cut = _cut(bare)
    _count(result, "references and appendix", bare, cut)
    done = cut
    for name, value in macros.items():
        if _ESCAPED.search(value):
            raise Refused("macro that is not ASCII")  # an error in v1's replacement
        if name not in done:
            continue
        if len(done) + done.count(name) * len(value) > LARGEST:
            raise Refused(TOO_LARGE)
        done = re.sub(f"{re.escape(name)}([^a-zA-Z0-9])", _replacement(value), done)
    _count(result, "macros", cut, done)
    return done


def _replacement(value: str) -> str:
    return value.replace("\\", "\\\\") + r"\1"


def header(text: str) -> int | None:
    r"""Where v1's text begins: its first `\chapter{...}` to `\subsubsection{...}`.

    `\paragraph` alone is none, but `\paragraph{...}\subparagraph{...}` is, with whatever between.
    """
    last_brace, last_optional = text.rfind("}"), text.rfind("]{")
    last_paragraph = -1
    for match in _SUBPARAGRAPH.finditer(text):
        if _argument(text, match.end(), last_brace, last_optional) >= 0:
            last_paragraph = match.start()
    for match in _HEADER.finditer(text):
        inside = _argument(text, match.end(), last_brace, last_optional)
        if inside < 0:
            continue
        if match[1] != "paragraph" or last_paragraph >= inside:
            return match.start()
    return None


def _argument(text: str, position: int, last_brace: int, last_optional: int) -> int:
    """Where the text in a header's braces begins; -1 if they never open or close."""
    if text[position] == "[":
        if last_optional <= position:
            return -1
        position = text.find("]{", position + 1) + 1
    return position + 1 if last_brace > position else -1


def _cut(text: str) -> str:
    last_brace = text.rfind("}")
    for match in _CUT.finditer(text):
        if match["bibliography"] is None or last_brace >= match.end():
            return text[: match.start()]
    return text


def _count(result: CleanedV1, rule: str, before: str, after: str) -> None:
    taken = len(before.encode("utf-8", "surrogatepass")) - len(
        after.encode("utf-8", "surrogatepass")
    )
    if taken > 0:
        result.trimmed[rule] = result.trimmed.get(rule, 0) + taken
    else:
        result.grown -= taken
