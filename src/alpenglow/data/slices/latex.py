r"""A LaTeX paper to text: without comments, preamble and references, its macros written out.

The text begins with the first of an abstract, what follows `\maketitle`, a section-like header
(`\part` to `\subparagraph`); so the names and addresses of a title page stay out. A paper with none
of them begins after `\begin{document}`, or with its first character. It ends before the first of
`\appendix`, the bibliography in any of its forms, `\end{document}`. Marks in comments, in verbatim
text and in definitions do not count.

RedPajama v1's own rules, defects included, are in `latex_v1`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from alpenglow.data.slices.latex_comments import (
    VERBATIM,
    comment_environments,
    verb_end,
    without_comments,
)
from alpenglow.data.slices.latex_input import Project, Resolved
from alpenglow.data.slices.latex_macros import Macros, closing
from alpenglow.data.slices.source import LARGEST

SECTIONS = ("chapter", "part", "section", "subsection", "subsubsection", "paragraph",
            "subparagraph")  # fmt: skip

_START = re.compile(
    r"\\begin\s*\{abstract\}|\\abstract(?![A-Za-z])|(?P<title>\\maketitle(?![A-Za-z]))"
    rf"|\\(?:{'|'.join(SECTIONS)})\*?\s*(?:\[|\{{)"
)
_BEGIN = re.compile(r"\\begin\s*\{document\}")
_END = re.compile(
    r"(?P<appendix>\\appendix(?![A-Za-z@])|\\begin\s*\{(?:appendix|appendices)\})"
    r"|(?P<references>\\begin\s*\{(?:thebibliography|references|REFERENCES)\}"
    r"|\\bibliography\s*\{|\\printbibliography(?![A-Za-z]))"
    r"|(?P<end>\\end\s*\{document\}|\\bye(?![A-Za-z])|\\endinput(?![A-Za-z]))"
)
_HIDDEN = re.compile(
    r"\\begin\s*\{(?P<name>[A-Za-z]+\*?)\}|\\verb\*?(?P<mark>[^A-Za-z\s*])"
    r"|\\(?:(?P<command>(?:new|renew|provide)command)|(?P<environment>(?:re)?newenvironment)|[gex]?def)"
    r"(?![A-Za-z])"
)
_BEFORE_GROUP = re.compile(r"\*?\s*(?:\[[^\[\]]{0,1000}\]\s*)*")
_DEF_HEAD = re.compile(r"\s*\\[A-Za-z@]+[^{}\\]{0,100}")
_NAME = re.compile(r"\\[A-Za-z@]+")
_TITLE = re.compile(r"\\title\s*(?:\[[^\]]*\])?\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_BLANK_LINES = re.compile(r"\n(?:[ \t]*\n){2,}")


@dataclass(frozen=True)
class Cleaned:
    """A document's text, and what became of the rest.

    `bytes of text + sum(trimmed) == bytes of the files used + grown`, in UTF-8.
    """

    text: str
    trimmed: Mapping[str, int]
    """Rule -> bytes taken out."""
    grown: int
    """Bytes that files read in more than once and macros written out have added."""
    title: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    """What could not be done: files that were not there, macros left in place."""


class Paper:
    """The TeX files of one paper.

    Args:
        files: path inside the paper -> text.
    """

    def __init__(self, files: Mapping[str, str]) -> None:
        silent = comment_environments(files.values())
        bare = {name: without_comments(text, silent) for name, text in files.items()}
        self._sizes = {name: _size(text) for name, text in files.items()}
        self._comments = {name: self._sizes[name] - _size(text) for name, text in bare.items()}
        self._project = Project(bare, LARGEST)

    def main(self) -> str:
        """Name of the main file."""
        return self._project.main()

    def documents(self) -> list[str]:
        """Names of the files that are documents of their own."""
        return self._project.documents()

    def roots(self) -> list[str]:
        """Names of the files that no other file reads in."""
        return self._project.roots()

    def unused(self, documents: Iterable[str]) -> int:
        """Bytes of the files that none of these documents reads in."""
        used = {part for name in documents for part in self._project.reached(name)}
        return sum(size for name, size in self._sizes.items() if name not in used)

    def clean(self, name: str) -> Cleaned:
        """Return the text of the document whose main file is named."""
        resolved = self._project.resolve(name)
        source = resolved.text
        begin, stop, rule = bounds(source)
        preamble, body = source[:begin], source[begin:stop]
        macros = Macros(work=64 * len(source) + 10_000_000)
        macros.read(preamble)
        text = _BLANK_LINES.sub("\n\n", macros.expand(body)).strip()
        trimmed = {
            "comments": sum(self._comments[part] for part in resolved.used),
            "preamble": _size(preamble),
            rule: _size(source[stop:]),
        }
        read = sum(self._sizes[part] for part in resolved.used)
        written = _size(body) - _size(text)
        if written > 0:
            trimmed["macros and blank lines"] = written
        grown = _size(text) + sum(trimmed.values()) - read
        if grown < 0:  # the commands that read files in are gone
            trimmed["inputs"] = -grown
            grown = 0
        title = _TITLE.search(preamble)
        return Cleaned(
            text,
            {rule: size for rule, size in trimmed.items() if size},
            grown,
            " ".join(title[1].split()) if title else "",
            _counts(resolved, macros),
        )


def _counts(resolved: Resolved, macros: Macros) -> dict[str, int]:
    counts = {f"inputs {why}": number for why, number in sorted(resolved.counts.items())}
    if macros.left:
        counts["macros left"] = sum(macros.left.values())
    return counts


def bounds(source: str) -> tuple[int, int, str]:
    """Where the text begins and ends in a paper without comments, and the rule that ends it."""
    hidden = _hidden(source)
    opening = _first(_BEGIN, source, 0, hidden)
    start = opening.end() if opening else 0
    ending = _first(_END, source, start, hidden)
    stop, rule = len(source), "after the end"
    if ending:
        stop = ending.start()
        rule = "after the end" if ending["end"] else (ending.lastgroup or "references")
    first = _first(_START, source, start, hidden)
    if first and first.start() < stop:
        start = first.end() if first["title"] else first.start()
    return start, stop, rule


def _first(
    pattern: re.Pattern[str], text: str, position: int, hidden: list[tuple[int, int]]
) -> re.Match[str] | None:
    index = 0
    for match in pattern.finditer(text, position):
        while index < len(hidden) and hidden[index][1] <= match.start():
            index += 1
        if index == len(hidden) or match.start() < hidden[index][0]:
            return match
    return None


def _hidden(text: str) -> list[tuple[int, int]]:
    """Stretches in which marks do not count: verbatim text and bodies of definitions."""
    found: list[tuple[int, int]] = []
    missing: set[str] = set()
    position = 0
    while (match := _HIDDEN.search(text, position)) is not None:
        position = match.end()
        end = -1
        if match["name"]:
            if match["name"] in VERBATIM and match["name"] not in missing:
                end = text.find(f"\\end{{{match['name']}}}", position)
                if end < 0:
                    missing.add(match["name"])
        elif match["mark"]:
            end = verb_end(text, position, match["mark"])
        else:
            end = _definition(text, match)
        if end > position:
            found.append((match.start(), end))
            position = end
    return found


def _definition(text: str, match: re.Match[str]) -> int:
    """Where a definition ends; where its command ends if it is none."""
    position = match.end()
    groups = 2 if match["command"] else 3 if match["environment"] else 1
    before = _DEF_HEAD if groups == 1 else _BEFORE_GROUP
    while groups:
        part = before.match(text, position)
        position = part.end() if part else position
        if text[position : position + 1] == "{":
            end = closing(text, position)
            if end is None:
                return match.end()
            position = end
        elif groups > 1 and (name := _NAME.match(text, position)):
            position = name.end()
        else:
            return match.end()
        groups -= 1
    return position


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
