r"""The files of a LaTeX paper as one text: which one is the main file, and what it reads in.

`\input`, `\include`, `\subfile`, `\import`, `\subimport` and `\includefrom` are replaced by the
file that they name, if the paper has it: names are looked up among the paper's own files and
nowhere else, so that none can lead out of it. What cannot be followed stays in the text and is
counted.
"""

from __future__ import annotations

import itertools
import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from alpenglow.data.slices.latex_comments import verb_end

DEPTH = 20
"""Files inside files inside files; TeX itself stops at 15 open ones."""
FILES = 10_000
"""Files that are read in for one document, repetitions counted."""

_VERB = r"\\begin\s*\{(?:verbatim\*?|Verbatim\*?|lstlisting|minted|alltt|code)\}|\\verb"
_READ = re.compile(
    r"\\(?P<two>import|subimport|includefrom|subincludefrom|inputfrom|subinputfrom)\*?\s*"
    r"\{(?P<folder>[^{}\n]*)\}\s*\{(?P<file>[^{}\n]*)\}"
    r"|\\(?P<one>input|include|subfile|subfileinclude)\s*(?:\{(?P<name>[^{}\n]*)\}"
    r"|(?<=\\input)[ \t]+(?P<plain>[A-Za-z0-9_./+-]+)[ \t]?)"
    rf"|(?P<verbatim>{_VERB})"
)
_VERBATIM_END = re.compile(r"\\end\s*\{(?:verbatim\*?|Verbatim\*?|lstlisting|minted|alltt|code)\}")
_BEGIN = re.compile(r"\\begin\s*\{document\}")
_END = re.compile(r"\\end\s*\{document\}")
_CLASS = re.compile(r"\\document(?:class|style)(?![A-Za-z])")


@dataclass
class Resolved:
    """A document's text with its files read in."""

    text: str
    used: frozenset[str]
    """Names of the files that it is made of."""
    counts: Counter[str] = field(default_factory=Counter)
    """What could not be followed: `missing`, `cycles`, `outside`, `too much`."""


class Project:
    """The TeX files of one paper, comments removed.

    Args:
        files: path inside the paper -> text.
        limit: characters of the resolved text; what would lead beyond stays as it is.
    """

    def __init__(self, files: Mapping[str, str], limit: int) -> None:
        self.files = files
        self._limit = limit
        left = FILES
        self._children: dict[str, list[tuple[int, int, str | None, str]]] = {}
        for name in files:
            self._children[name] = list(itertools.islice(self._read(name), left))
            left -= len(self._children[name])

    def _read(self, name: str) -> Iterator[tuple[int, int, str | None, str]]:
        r"""Yield what a file reads in: (begin, end, file or None, why not)."""
        text, position = self.files[name], 0
        while (match := _READ.search(text, position)) is not None:
            position = match.end()
            if match["verbatim"] is not None:
                if match["verbatim"] == "\\verb":
                    position += text[position : position + 1] == "*"
                    mark = text[position : position + 1]
                    position = verb_end(text, position + 1, mark)
                else:
                    closing = _VERBATIM_END.search(text, position)
                    position = closing.end() if closing else len(text)
                continue
            wanted = match["name"] or match["plain"] or match["file"] or ""
            found_name, why = self._find(name, wanted, match["folder"])
            yield match.start(), match.end(), found_name, why

    def _find(self, reader: str, wanted: str, folder: str | None) -> tuple[str | None, str]:
        wanted = wanted.strip().strip('"')
        if folder is not None:
            wanted = posixpath.join(folder.strip(), wanted)
        if wanted.startswith(("/", "~", "|")) or "\\" in wanted or not wanted:
            return None, "outside" if wanted[:1] in ("/", "~", "|") else "missing"
        outside = True
        for base in ("", posixpath.dirname(reader)):
            path = posixpath.normpath(posixpath.join(base, wanted))
            if path.startswith(".."):
                continue
            outside = False
            for candidate in (path, f"{path}.tex", f"{path}.ltx"):
                if candidate in self.files:
                    return candidate, ""
        return None, "outside" if outside else "missing"

    def reached(self, name: str) -> set[str]:
        """Names of the files that a document is made of, itself among them."""
        found, waiting = {name}, [name]
        while waiting:
            for _, _, child, _ in self._children[waiting.pop()]:
                if child is not None and child not in found:
                    found.add(child)
                    waiting.append(child)
        return found

    def roots(self) -> list[str]:
        """Names of the files that no other file reads in, in the order of the paper's files.

        A circle of files that nothing else reads in is entered at its first.
        """
        inside = {
            child
            for name, children in self._children.items()
            for _, _, child, _ in children
            if child is not None and child != name
        }
        roots = [name for name in self.files if name not in inside]
        return roots or list(self.files)[:1]

    def documents(self) -> list[str]:
        r"""Names of the roots that have a `\begin{document}`; all of them if none has."""
        roots = self.roots()
        return [name for name in roots if self.is_document(name)] or roots

    def is_document(self, name: str) -> bool:
        r"""Whether a file has a `\begin{document}` or names its class."""
        text = self.files[name]
        return _BEGIN.search(text) is not None or _CLASS.search(text) is not None

    def main(self) -> str:
        """Name of the document that is made of the most text, by what it reads in.

        Of equal ones the first by name.
        """

        def size(name: str) -> tuple[int, str]:
            return -sum(len(self.files[part]) for part in self.reached(name)), name

        return min(self.documents(), key=size)

    def resolve(self, name: str) -> Resolved:
        """Return the text of a file with all that it reads in, in its place."""
        counts: Counter[str] = Counter()
        used: set[str] = set()
        parts: list[str] = []
        self._append(name, parts, [], used, counts, [self._limit, FILES])
        return Resolved("".join(parts), frozenset(used), counts)

    def _append(
        self,
        name: str,
        parts: list[str],
        stack: list[str],
        used: set[str],
        counts: Counter[str],
        left: list[int],
    ) -> None:
        text = self.files[name]
        used.add(name)
        stack.append(name)
        begin, end = _inner(text) if len(stack) > 1 else (0, len(text))
        at = begin
        left[0] -= end - begin
        left[1] -= 1
        for first, last, child, reason in self._children[name]:
            why = reason
            if first < begin or last > end:
                continue
            if child is not None:
                size = len(self.files[child])
                if child in stack:
                    why = "cycles"
                elif len(stack) >= DEPTH or size > left[0] or left[1] < 1:
                    why = "too much"
            if why:
                counts[why] += 1
                continue
            assert child is not None
            parts.append(text[at:first])
            self._append(child, parts, stack, used, counts, left)
            at = last
        parts.append(text[at:end])
        stack.pop()


def _inner(text: str) -> tuple[int, int]:
    """Where the body of a file lies that could also be typeset alone (package subfiles)."""
    begin = _BEGIN.search(text)
    if begin is None or _CLASS.search(text, 0, begin.start()) is None:
        return 0, len(text)
    end = _END.search(text, begin.end())
    return begin.end(), end.start() if end else len(text)
