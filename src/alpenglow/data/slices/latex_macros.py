r"""A paper's own LaTeX macros, written out where they are used.

Authors define the same thing under a thousand names; written out, their papers read alike. What is
understood: `\newcommand`, `\renewcommand`, `\providecommand`, `\DeclareRobustCommand` (starred or
not, name in braces or bare, arguments, a default for the first), `\def`, `\gdef`, `\edef`, `\xdef`
with undelimited arguments, `\DeclareMathOperator`. A definition stands for what follows it, is
never rewritten itself, and groups do not end it. What TeX would have to run is left as it stands:
conditionals, `\csname`, delimited arguments, internal names with an `@`.

Work is bounded. A macro's body is written out once, to at most `BODY` characters and `DEPTH` deep;
one that would grow beyond, or that contains itself, stays in place (`left`), and so does everything
once a paper has used up its share of work.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from alpenglow.data.slices.latex_comments import verb_end

BODY = 20_000
"""Characters that a macro's body may have when all in it is written out."""
DEPTH = 40
"""Macros inside macros, and braces that an argument may hold, before it is left alone."""
ARGUMENT = 50_000
"""Characters of one argument."""

_COMMANDS = ("newcommand", "renewcommand", "providecommand", "DeclareRobustCommand")
_DEFS = ("def", "gdef", "edef", "xdef")
_DEFINING = frozenset((*_COMMANDS, *_DEFS, "DeclareMathOperator"))
_WORD = re.compile(r"\\([A-Za-z]+)")
_DEFINITION = re.compile(
    r"\\(?:newcommand|renewcommand|providecommand|DeclareRobustCommand|DeclareMathOperator"
    r"|[gex]?def)(?![A-Za-z])"
)
_BRACED_NAME = re.compile(r"\*?\s*(?:\{\s*\\([A-Za-z]+)\s*\}|\\([A-Za-z]+))\s*")
_COUNT = re.compile(r"\[\s*([0-9])\s*\]\s*")
_DEFAULT = re.compile(r"\[((?:[^\[\]{}\\]|\\.|\{[^{}]*\})*)\]\s*", re.S)
_DEF_HEAD = re.compile(r"\s*\\([A-Za-z]+)((?:#[1-9])*)\s*(?=\{)")
_BRACE = re.compile(r"\\.|[{}]", re.S)
_PROGRAM = re.compile(
    r"\\(?:if[A-Za-z]*|else|or|fi|csname|endcsname|expandafter|noexpand|futurelet|let|catcode"
    r"|newif|loop|repeat|@?ifnextchar|begingroup|relax|aftergroup|afterassignment|string|number"
    r"|[gex]?def|(?:re)?newcommand|providecommand|number|the|advance)(?![A-Za-z])"
    r"|\\[A-Za-z]*@|\\verb|##|\\begin\{(?:verbatim|lstlisting|minted)"
)
_PARAMETER = re.compile(r"#([1-9])")
_SKIPPED = re.compile(r"[ \t]*(?:\n(?![ \t]*\n)[ \t]*)?")
_ENDS_IN_WORD = re.compile(r"\\[A-Za-z]+\Z")
_ENDS_IN_ENVIRONMENT = re.compile(r"\\(?:begin|end)\s*\{[^{}]*\}\s*\Z")
_ONE_TOKEN = re.compile(
    r"\s*(?:\\[A-Za-z]+|\\.|[^\\{}\s]|\{(?:[^{}\\]|\\.|\{[^{}]*\})*\})\s*\Z", re.S
)
_TOKEN = re.compile(r"#[1-9]|\\[A-Za-z]+|\\.|[^\\{}\s]", re.S)
_VERBATIM = re.compile(r"(verbatim\*?|Verbatim\*?|BVerbatim|LVerbatim|lstlisting|minted|alltt)\}")


@dataclass(frozen=True)
class Macro:
    """What a name stands for."""

    arguments: int
    default: str | None
    """Of the first argument, if that is optional."""
    body: str


class Macros:
    """The macros that a paper has defined so far.

    Args:
        work: characters that may be written in all, bodies and texts together.
    """

    def __init__(self, work: int) -> None:
        self.left: dict[str, int] = {}
        """Macros that were left in place: name -> uses."""
        self._work = work
        self._table: dict[str, Macro] = {}
        self._written: dict[str, str | None] = {}
        self._endless: set[str] = set()  # that contain themselves, or one that does

    def read(self, text: str) -> None:
        """Take up the definitions of a text that is not kept (a preamble)."""
        position = 0
        while (match := _DEFINITION.search(text, position)) is not None:
            end = self._define(text, match.group()[1:], match.end())
            position = match.end() if end is None else end

    def expand(self, text: str) -> str:
        """Return the text with the macros written out; its own definitions count from there on."""
        return "".join(self._expanded(text, 0, None))

    def _expanded(self, text: str, depth: int, active: frozenset[str] | None) -> Iterator[str]:
        """Yield a text's pieces.

        Args:
            text: a body, or an argument or what stands for a macro in it.
            depth: how deep in arguments.
            active: macros whose bodies are being written out; None in the paper's own text.
        """
        table, search, skips = self._table, _WORD.search, _Skips(text)
        at = 0
        tail = ""  # the end of what was passed on
        match = search(text)
        while match is not None:
            name, position = match[1], match.end()
            if name not in table and name not in _DEFINING and name not in _SPECIAL:
                match = search(text, position)
                continue
            if _escaped(text, match.start()):
                pass
            elif name in _SPECIAL:
                position = skips.after(name, position)
            elif name in _DEFINING:
                if active is None:
                    position = self._define(text, name, position) or position
            else:
                before = text[at : match.start()]
                used = self._use(text, name, position, (tail + before)[-60:], depth, active)
                if used is not None:
                    written, position = used
                    yield before
                    yield written
                    tail, at = (tail + before + written)[-60:], position
                elif active is None:
                    self.left[name] = self.left.get(name, 0) + 1
            match = search(text, position)
        yield text[at:]

    def _use(
        self,
        text: str,
        name: str,
        position: int,
        before: str,
        depth: int,
        active: frozenset[str] | None,
    ) -> tuple[str, int] | None:
        """What a use of a macro stands for, and where it ends; None leaves it in place."""
        macro = self._table[name]
        body = self._body(name, active or frozenset())
        if body is None or depth >= DEPTH:
            return None
        if macro.arguments:
            found = self._arguments(text, macro, position)
            if found is None:
                return None
            raw, position = found
            arguments = [
                "".join(self._expanded(part, depth + 1, active or frozenset()))
                if "\\" in part
                else part
                for part in raw
            ]
            places = body.count("#")
            if not self._afford(len(body) + places * sum(len(part) for part in arguments)):
                return None
            body = _substituted(body, arguments)
        else:
            if not self._afford(len(body)):
                return None
            position = _after_name(text, position, body)
        return _joined(before, body, text[position : position + 1]), position

    def _afford(self, characters: int) -> bool:
        """Take from the share of work; without any left the paper has no macros any more."""
        self._work -= characters + 1
        if self._work < 0:
            self._table.clear()
        return self._work >= 0

    def _body(self, name: str, active: frozenset[str]) -> str | None:
        """A macro's body with the macros in it written out; None where that has no end."""
        if name in active:
            self._endless |= active
            return None
        if name in self._written:
            return self._written[name]
        whole: str | None = None
        text = self._table[name].body
        if len(active) < DEPTH and self._afford(len(text)):
            parts, size = [], 0
            for part in self._expanded(text, 0, active | {name}):
                parts.append(part)
                size += len(part)
                if size > BODY:
                    break
            if size <= BODY and name not in self._endless:
                whole = "".join(parts)
        self._written[name] = whole
        return whole

    def _arguments(self, text: str, macro: Macro, position: int) -> tuple[list[str], int] | None:
        found: list[str] = []
        if macro.default is not None:
            skipped = _SKIPPED.match(text, position)
            start = skipped.end() if skipped else position
            optional = _DEFAULT.match(text, start, start + ARGUMENT)
            if optional:
                found.append(optional[1])
                position = start + len(optional[1]) + 2
            else:
                found.append(macro.default)
        while len(found) < macro.arguments:
            skipped = _SKIPPED.match(text, position)
            position = skipped.end() if skipped else position
            if text[position : position + 1] == "{":
                end = closing(text, position)
                if end is None:
                    return None
                found.append(text[position + 1 : end - 1])
                position = end
            else:
                token = _TOKEN.match(text, position)
                if token is None or token.group() in ("$", "&", "~"):
                    return None
                found.append(token.group())
                position = token.end()
        return found, position

    def _define(self, text: str, kind: str, position: int) -> int | None:
        """Take up the definition whose command ends at `position`; returns where it ends."""
        arguments, default = 0, None
        if kind in _DEFS:
            head = _DEF_HEAD.match(text, position)
            if head is None:
                return None
            name, arguments, position = head[1], len(head[2]) // 2, head.end()
            if head[2] != "".join(f"#{i + 1}" for i in range(arguments)):
                return None
        else:
            named = _BRACED_NAME.match(text, position)
            if named is None:
                return None
            starred = text[position : position + 1] == "*"
            name, position = named[1] or named[2], named.end()
            count = _COUNT.match(text, position)
            if count:
                arguments, position = int(count[1]), count.end()
                optional = _DEFAULT.match(text, position, position + ARGUMENT)
                if optional:
                    default, position = optional[1], optional.end()
        end = closing(text, position) if text[position : position + 1] == "{" else None
        if end is None:
            return None
        body = text[position + 1 : end - 1]
        if kind == "DeclareMathOperator":
            body = f"\\operatorname{'*' if starred else ''}{{{body}}}"
        if kind == "providecommand" and name in self._table:
            return end
        self._written.clear()
        self._endless.clear()
        used = [int(number) for number in _PARAMETER.findall(body)]
        usable = not _PROGRAM.search(body) and max(used, default=0) <= arguments
        if usable and name not in _UNTOUCHED:
            self._table[name] = Macro(arguments, default if arguments else None, body)
        else:
            self._table.pop(name, None)
        return end


_SPECIAL = frozenset(("begin", "verb", "lstinline", "url", "path", "nolinkurl"))
_UNTOUCHED = frozenset(
    ("begin", "end", "section", "subsection", "subsubsection", "chapter", "part", "paragraph",
     "subparagraph", "input", "include", "item", "label", "ref", "cite", "verb", "url", "par",
     "documentclass", "appendix", "bibliography", "footnote", "caption", "title", "author")
)  # fmt: skip
"""Names whose meaning a reader knows; a paper that redefines them changes their looks."""


class _Skips:
    """Finds the ends of what is not TeX: verbatim text and addresses."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._missing: set[str] = set()

    def after(self, name: str, position: int) -> int:
        text = self._text
        if name == "begin":
            match = _VERBATIM.match(text, position + 1)
            if match is None or match[1] in self._missing:
                return position
            end = text.find(f"\\end{{{match[1]}}}", match.end())
            if end < 0:
                self._missing.add(match[1])
            return end if end >= 0 else match.end()
        if name in ("verb", "lstinline") and text[position : position + 1] != "{":
            position += text[position : position + 1] == "*"
            mark = text[position : position + 1]
            return verb_end(text, position + 1, mark)
        end_of = closing(text, position) if text[position : position + 1] == "{" else None
        return end_of if end_of is not None else position


def _escaped(text: str, position: int) -> bool:
    r"""Whether a backslash is the second of a `\\`."""
    count = 0
    while position > count and text[position - 1 - count] == "\\":
        count += 1
    return count % 2 == 1


def closing(text: str, position: int) -> int | None:
    """Where the group that opens at `position` ends; None where it does not, or is too long."""
    depth = 0
    for match in _BRACE.finditer(text, position, position + ARGUMENT):
        mark = match.group()
        if mark == "{":
            depth += 1
            if depth > DEPTH:
                return None
        elif mark == "}":
            depth -= 1
            if depth == 0:
                return match.end()
    return None


def _after_name(text: str, position: int, body: str) -> int:
    """Skip what TeX skips after a macro's name: spaces, or the `{}` that authors put against it."""
    if text.startswith("{}", position):
        following = text[position + 2 : position + 3]
        return position if _ENDS_IN_WORD.search(body) and following.isalpha() else position + 2
    if _ENDS_IN_ENVIRONMENT.search(body[-80:]):
        return position
    skipped = _SKIPPED.match(text, position)
    return skipped.end() if skipped else position


def _joined(before: str, body: str, after: str) -> str:
    """Set a body between its neighbours so that no token of theirs changes."""
    if body and _ENDS_IN_WORD.search(before.rstrip()) and not _ONE_TOKEN.match(body):
        # \bar\x takes all of \x's body, as TeX would give it the one token \x.
        word = _ENDS_IN_WORD.search(before.rstrip())
        if word and word.group() not in _NO_ARGUMENT:
            return "{" + body + "}"
    if body[:1].isalpha() and _ENDS_IN_WORD.search(before):
        body = " " + body
    if after.isalpha() and _ENDS_IN_WORD.search(body):
        body += " "
    return body


def _substituted(body: str, arguments: list[str]) -> str:
    """Put arguments into a body; a name before one stays a name."""
    parts: list[str] = []
    at = 0
    for match in _PARAMETER.finditer(body):
        number = int(match[1])
        if number > len(arguments):
            continue
        before, argument = body[at : match.start()], arguments[number - 1]
        parts.append(before)
        if argument[:1].isalpha() and _ENDS_IN_WORD.search(before):
            parts.append(" ")
        parts.append(argument)
        at = match.end()
        if body[at : at + 1].isalpha() and _ENDS_IN_WORD.search(argument):
            parts.append(" ")
    parts.append(body[at:])
    return "".join(parts)


_NO_ARGUMENT = frozenset(
    f"\\{name}" for name in (
        "noindent", "par", "medskip", "smallskip", "bigskip", "quad", "qquad", "item", "in", "to",
        "times", "otimes", "oplus", "cdot", "cup", "cap", "circ", "leq", "le", "geq", "ge", "neq",
        "subset", "subseteq", "supset", "rightarrow", "longrightarrow", "leftarrow", "mapsto",
        "sim", "simeq", "cong", "equiv", "approx", "forall", "exists", "left", "right", "limits",
        "nolimits", "displaystyle", "textstyle", "bf", "it", "rm", "em", "sc", "tt", "sl", "sf",
        "centering", "small", "large", "Large", "footnotesize", "sum", "prod", "int", "lim", "sup",
        "inf", "max", "min", "log", "exp", "dots", "ldots", "cdots", "and", "or", "mid", "colon",
        "not", "setminus", "partial", "nabla", "infty", "wedge", "vee", "star", "ast", "bullet",
        "alpha", "beta", "gamma", "delta", "epsilon", "lambda", "mu", "pi", "sigma", "omega")
)  # fmt: skip
"""Commands that take no argument: what follows them is no argument of theirs."""
