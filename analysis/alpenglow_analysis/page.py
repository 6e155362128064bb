"""What a report is made of: sections of blocks, as plain text ready to be laid out.

The templates only place what stands here; every block names its form.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar


@dataclass(frozen=True)
class Sentences:
    """A list of sentences, the weightiest first."""

    form: ClassVar[str] = "sentences"
    lines: list[str]


@dataclass(frozen=True)
class Note:
    """A paragraph in small type: how to read what stands above it."""

    form: ClassVar[str] = "note"
    text: str


@dataclass(frozen=True)
class Prose:
    """A paragraph."""

    form: ClassVar[str] = "prose"
    text: str


@dataclass(frozen=True)
class Table:
    """Column heads and rows; the first column is text, the rest is set to the right."""

    form: ClassVar[str] = "table"
    heads: list[str]
    rows: list[list[str]]
    sum: bool = False
    """The last row is the sum of the others."""
    text: frozenset[int] = frozenset()
    """Further columns that hold text."""
    wordy: bool = False
    """The last column holds sentences."""


@dataclass(frozen=True)
class Pairs:
    """Names with their values."""

    form: ClassVar[str] = "pairs"
    rows: list[tuple[str, str]]


@dataclass(frozen=True)
class Terms:
    """Words with what they mean."""

    form: ClassVar[str] = "terms"
    rows: list[tuple[str, str]]


@dataclass(frozen=True)
class Branch:
    """A number of a tree, and the numbers whose product it is."""

    label: str
    value: str
    formula: str
    share: float
    """Between 0 and 1, for the bar."""
    parts: tuple[Branch, ...] = ()


@dataclass(frozen=True)
class Tree:
    """Numbers that are products of others."""

    form: ClassVar[str] = "tree"
    roots: tuple[Branch, ...]


@dataclass(frozen=True)
class Figure:
    """A figure three times: as files beside the markdown, and as an element inside the page."""

    form: ClassVar[str] = "figure"
    name: str
    alt: str
    caption: str
    svg: str = ""
    """An `<svg>` element in the page's own colours."""

    @property
    def png(self) -> str:
        """Path relative to report/."""
        return f"figures/{self.name}.png"


@dataclass(frozen=True)
class Group:
    """Texts that belong together, folded until somebody opens them."""

    title: str
    about: str
    """How many there were, and how many are shown."""
    texts: list[tuple[str, str]]
    """Where each comes from, and its beginning."""


@dataclass(frozen=True)
class Samples:
    """Texts of others, to read: shown as they are, never as part of the page."""

    form: ClassVar[str] = "samples"
    groups: list[Group]


Block = Sentences | Prose | Note | Table | Pairs | Terms | Tree | Figure | Samples


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    key: str
    title: str
    blocks: list[Block] = field(default_factory=list)


@dataclass(frozen=True)
class Card:
    """One number of the first screen."""

    what: str
    value: str
    against: str
    """The baseline, or what else belongs to it."""


@dataclass(frozen=True)
class Loss:
    """One of the largest losses, and what is done about it."""

    key: str
    label: str
    share: str
    equivalents: str
    cure: str


@dataclass(frozen=True)
class Page:
    """A whole report, or one of several runs."""

    title: str
    subtitle: str
    cards: list[Card]
    losses: list[Loss]
    sections: list[Section]
    made: str
    losses_title: str = "The largest losses, and what cures them"
    about: str = "where the time went"
    source: str = "Numbers come from this run directory alone."
    by: str = "alpenglow report"
    refresh: int | None = None
    """Seconds after which a browser loads the page again, while the run goes on."""
    missing: list[str] = field(default_factory=list)
    """What is missing and what that does to the numbers; the first screen says that it is there."""
