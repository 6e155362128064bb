"""Text whose numbers say what they are: measured, predicted, assumed or stated, and from where.

    step = Value("1.68 s", "P", "alpenglow.parallel.step_cost, env/machines/summit.toml", 1.68)
    say("A step takes {step} on {nodes} nodes.", step=step, nodes=...)

A document (alpenglow_analysis.document) is made of such lines; each layout writes a value with its
mark and a note that names its source.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from string import Formatter
from typing import Literal, get_args

Mark = Literal["M", "P", "A", "S"]
MARKS: dict[Mark, str] = {
    "M": "measured in a run",
    "P": "predicted or computed, by what the note names",
    "A": "assumed, for the reason in the note",
    "S": "stated: by an option, a recipe, a machine file or a publication",
}
"""Mark -> what it says of a number."""


@dataclass(frozen=True)
class Value:
    """A number, or numbers that belong together, as people read them."""

    text: str
    mark: Mark
    source: str
    number: float | None = None
    """The same for machines; None where the text holds several."""

    def __post_init__(self) -> None:
        if self.mark not in get_args(Mark) or not self.source.strip():
            raise ValueError(f"{self.text!r}: a value has a mark and a source")


@dataclass(frozen=True)
class Formula:
    """A formula, as plain text and as TeX in math mode."""

    plain: str
    tex: str


@dataclass(frozen=True)
class Name:
    """A path, a command, an option: what is set in a typewriter's letters."""

    text: str


@dataclass(frozen=True)
class Blank:
    """What a person has to write."""

    text: str


Part = str | Value | Formula | Name | Blank


@dataclass(frozen=True)
class Line:
    """A sentence, a paragraph or the cell of a table."""

    parts: tuple[Part, ...] = ()

    @property
    def values(self) -> list[Value]:
        """Its values, in order."""
        return [part for part in self.parts if isinstance(part, Value)]

    def __str__(self) -> str:
        return "".join(plain(part) for part in self.parts)

    def __add__(self, other: Line) -> Line:
        return Line((*self.parts, *other.parts))


def plain(part: Part) -> str:
    """A part without its mark."""
    if isinstance(part, Formula):
        return part.plain
    return part if isinstance(part, str) else part.text


def say(template: str, **named: Part | Line) -> Line:
    """Put named parts into a sentence: `{name}` stands for one of them.

    Raises:
        KeyError: the sentence names a part that is not given.
    """
    parts: list[Part] = []
    for text, name, _, _ in Formatter().parse(template):
        if text:
            parts.append(text)
        if name is not None:
            found = named[name]
            parts += found.parts if isinstance(found, Line) else (found,)
    return Line(tuple(parts))


def line(part: Part | Line) -> Line:
    """A line of one part; a line stays as it is."""
    return part if isinstance(part, Line) else Line((part,))


def joined(lines: Iterable[Line], between: str = " ") -> Line:
    """Lines behind one another."""
    parts: list[Part] = []
    for each in lines:
        parts += [*([between] if parts else []), *each.parts]
    return Line(tuple(parts))


@dataclass
class Notes:
    """Sources in the order of their first use: a note says mark and source, and has a number."""

    _numbers: dict[tuple[Mark, str], int] = field(default_factory=dict)

    def number(self, value: Value) -> int:
        """The note of a value."""
        return self._numbers.setdefault((value.mark, value.source), len(self._numbers) + 1)

    def __iter__(self) -> Iterator[tuple[int, Mark, str]]:
        """Number, mark and source of all notes."""
        return ((n, mark, source) for (mark, source), n in self._numbers.items())
