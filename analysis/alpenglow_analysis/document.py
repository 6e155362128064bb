"""A document of marked text: sections of paragraphs, lists, tables and figures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from alpenglow_analysis.marked import Line, Value


@dataclass(frozen=True)
class Paragraph:
    """Running text."""

    form: ClassVar[str] = "paragraph"
    line: Line


@dataclass(frozen=True)
class Items:
    """A list."""

    form: ClassVar[str] = "items"
    lines: list[Line]


@dataclass(frozen=True)
class Grid:
    """A table; columns of numbers are set to the right."""

    form: ClassVar[str] = "grid"
    caption: Line
    heads: list[str]
    rows: list[list[Line]]
    wide: dict[int, float] = field(default_factory=lambda: {0: 0.4})
    """Columns of text -> share of the page's width."""
    sums: frozenset[int] = frozenset()
    """Rows that add others up."""

    @property
    def spaced(self) -> bool:
        """Whether its rows take several lines and stand apart."""
        return any(column for column in self.wide if column) and len(self.heads) > 2


@dataclass(frozen=True)
class Picture:
    """A figure, as files beside the document."""

    form: ClassVar[str] = "picture"
    name: str
    alt: str
    caption: Line


Block = Paragraph | Items | Grid | Picture


@dataclass(frozen=True)
class Part:
    """A section, or a subsection of the one before."""

    key: str
    title: str
    blocks: list[Block]
    sub: bool = False


@dataclass(frozen=True)
class Document:
    """A whole document."""

    title: str
    subtitle: Line
    parts: list[Part]
    made: str
    banner: str = ""
    """Stands on every page where it is not empty."""

    def blocks(self) -> Iterator[Block]:
        """All blocks in order."""
        for part in self.parts:
            yield from part.blocks

    def lines(self) -> Iterator[Line]:
        """All lines in the order in which they are written."""
        yield self.subtitle
        for block in self.blocks():
            yield from lines(block)

    def values(self) -> Iterator[Value]:
        """All values in order."""
        for line in self.lines():
            yield from line.values


def lines(block: Block) -> Iterator[Line]:
    """The lines of a block in the order in which they are written."""
    if isinstance(block, Paragraph):
        yield block.line
    elif isinstance(block, Items):
        yield from block.lines
    elif isinstance(block, Picture):
        yield block.caption
    else:
        yield block.caption
        for row in block.rows:
            yield from row
