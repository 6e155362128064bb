r"""LaTeX comments: what TeX would not read goes, what only looks like a comment stays.

`\%` is a per cent sign, `\\%` a line's end and a comment; verbatim environments, `\verb|...|`,
`\url{a/b%20c}` and their kin hold no comments. The end of a line that a comment swallows is
swallowed here too (`foo%` before `bar` reads `foobar`), unless a space or a command's name stands
before it, where TeX would not have seen the line's end either and the line stays readable. (Knuth,
The TeXbook, chapter 8: category 14 and the three states of the reader.)
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

VERBATIM = frozenset(
    ("verbatim", "verbatim*", "Verbatim", "Verbatim*", "BVerbatim", "LVerbatim", "SaveVerbatim",
     "lstlisting", "minted", "alltt", "filecontents", "filecontents*", "verbatimtab", "code")
)  # fmt: skip
"""Environments whose content TeX does not read as usual."""
COMMENT = frozenset(("comment",))
"""Environments that print nothing."""

LONGEST_VERB = 1_000
"""Characters that a search for the end of a `\\verb` looks at."""

_ADDRESS = r"\\(?:url|nolinkurl|path|href|hyperref|burl)\s*\{(?:[^{}\n\\]|\\.|\{[^{}\n]*\})*\}"
_TOKEN = re.compile(
    r"\\begin\s*\{(?P<environment>[A-Za-z]+\*?)\}"
    r"|\\(?:verb\*?|lstinline)(?:\[[^\]\n]*\])?(?P<mark>[^A-Za-z\s*\[{])"
    rf"|(?P<address>{_ADDRESS})"
    r"|\\[^A-Za-z]"
    r"|(?P<comment>%[^\n]*)",
    re.S,
)
_NAME_AT_END = re.compile(r"\\[A-Za-z@]+\Z")
_COMMENT_ENVIRONMENT = re.compile(
    r"\\(?:re)?newenvironment\s*\{([A-Za-z]+)\}\s*\{\s*\\comment\s*\}"
    r"|\\excludecomment\s*\{([A-Za-z]+)\}"
)


def comment_environments(texts: Iterable[str]) -> frozenset[str]:
    r"""Names of environments that print nothing: `comment`, and those a paper makes from it.

    `\newenvironment{history}{\comment}{\endcomment}` and `\excludecomment{history}` make one.
    """
    made = {a or b for text in texts for a, b in _COMMENT_ENVIRONMENT.findall(text)}
    return COMMENT | made


def without_comments(text: str, silent: Collection[str] = COMMENT) -> str:
    """Return the text as TeX reads it: comments and silent environments are gone.

    Linear in the length of the text.

    Args:
        text: a file's text, lines ended by a line feed.
        silent: names of environments that print nothing.
    """
    kept: list[str] = []
    missing: set[str] = set()  # ends that were looked for in vain: none comes later either
    at, position = 0, 0
    while (match := _TOKEN.search(text, position)) is not None:
        position = match.end()
        name, mark = match["environment"], match["mark"]
        if match["comment"] is not None:
            kept.append(text[at : match.start()])
            at = position = _after_comment(text, match.start(), match.end(), kept)
        elif name is not None and (name in VERBATIM or name in silent):
            closing = f"\\end{{{name}}}"
            found = -1 if name in missing else text.find(closing, position)
            if found < 0:
                missing.add(name)
                continue
            position = found + len(closing)
            if name in silent:
                kept.append(text[at : match.start()])
                alone = text[match.start() - 1 : match.start()] in ("", "\n")
                at = position = position + (alone and text[position : position + 1] == "\n")
        elif mark is not None:
            position = verb_end(text, position, mark)
    kept.append(text[at:])
    return "".join(kept)


def verb_end(text: str, position: int, mark: str) -> int:
    r"""Where the text of a `\verb` ends, with its mark; where it begins if it has no end.

    Args:
        text: of a file.
        position: behind the first mark.
        mark: what stands around the text; it ends on its line.
    """
    found = text.find(mark, position, position + LONGEST_VERB) if mark else -1
    return position if found < 0 or "\n" in text[position:found] else found + 1


def _after_comment(text: str, start: int, end: int, kept: list[str]) -> int:
    """Trim what stands before a comment; return where reading goes on."""
    line_start = text.rfind("\n", 0, start) + 1
    before = kept[-1]
    if line_start == start or text[line_start:start].isspace():  # nothing else is on the line
        kept[-1] = before.rstrip(" \t")
        return min(end + 1, len(text))
    if before[-1:] in (" ", "\t") or _NAME_AT_END.search(before[-100:]):
        kept[-1] = before.rstrip(" \t")
        return end
    following = end + 1
    while following < len(text) and text[following] in " \t":
        following += 1
    if following >= len(text) or text[following] == "\n":
        return end  # the end of a paragraph stays one
    return following
