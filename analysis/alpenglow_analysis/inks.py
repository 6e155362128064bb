"""One line of marked text as markdown, LaTeX or HTML; the three number their notes alike."""

from __future__ import annotations

from abc import ABC, abstractmethod
from html import escape as html_escape

from alpenglow_analysis import latex
from alpenglow_analysis.marked import MARKS, Blank, Formula, Line, Name, Notes, Value

SHORT = 16
"""Letters of a value that is not broken over two lines."""


def unbroken(text: str) -> str:
    """A short value with spaces that do not break."""
    return text.replace(" ", "\u00a0") if len(text) <= SHORT else text


class Ink(ABC):
    """Writes lines; a value gets its mark and the number of its note."""

    def __init__(self, notes: Notes | None = None) -> None:
        self.notes = Notes() if notes is None else notes

    def line(self, line: Line) -> str:
        """A line, whole."""
        return "".join(self._part(part) for part in line.parts)

    def _part(self, part: object) -> str:
        if isinstance(part, Value):
            return self.value(part, self.notes.number(part))
        if isinstance(part, Formula):
            return self.formula(part)
        if isinstance(part, Name):
            return self.name(part.text)
        if isinstance(part, Blank):
            return self.fill_in(part.text)
        return self.text(str(part))

    @abstractmethod
    def text(self, text: str) -> str:
        """Plain words."""

    @abstractmethod
    def value(self, value: Value, note: int) -> str:
        """A value with its mark and note."""

    @abstractmethod
    def formula(self, formula: Formula) -> str:
        """A formula."""

    @abstractmethod
    def name(self, text: str) -> str:
        """A path or a command."""

    @abstractmethod
    def fill_in(self, text: str) -> str:
        """What a person writes."""


class Markdown(Ink):
    """Markdown with footnotes."""

    def text(self, text: str) -> str:  # noqa: D102 - as in Ink, as the rest
        return text.replace("|", "\\|").replace("[", "\\[").replace("]", "\\]").replace("\n", " ")

    def value(self, value: Value, note: int) -> str:  # noqa: D102
        return f"{self.text(value.text)} ({value.mark})[^{note}]"

    def formula(self, formula: Formula) -> str:  # noqa: D102
        return f"`{formula.plain}`"

    def name(self, text: str) -> str:  # noqa: D102
        return f"`{text}`"

    def fill_in(self, text: str) -> str:  # noqa: D102
        return f"**\\[fill in: {self.text(text)}\\]**"


class Latex(Ink):
    """LaTeX; the macros stand in proposal.tex.j2."""

    def text(self, text: str) -> str:  # noqa: D102
        return latex.escape(text)

    def value(self, value: Value, note: int) -> str:  # noqa: D102
        return rf"{latex.escape(unbroken(value.text))}\marked{{{value.mark}}}{{{note}}}"

    def formula(self, formula: Formula) -> str:  # noqa: D102
        return f"${formula.tex}$"

    def name(self, text: str) -> str:  # noqa: D102
        return latex.verbatim(text)

    def fill_in(self, text: str) -> str:  # noqa: D102
        return rf"\fillin{{{latex.escape(text)}}}"


class Html(Ink):
    """HTML; hovering over a value shows what it is and where it is from."""

    def text(self, text: str) -> str:  # noqa: D102
        return html_escape(text)

    def value(self, value: Value, note: int) -> str:  # noqa: D102
        title = html_escape(f"{MARKS[value.mark]}. {value.source}", quote=True)
        return (
            f'<abbr class="{value.mark}" title="{title}">{self.text(unbroken(value.text))}'
            f'<sup><a href="#note-{note}">{value.mark}{note}</a></sup></abbr>'
        )

    def formula(self, formula: Formula) -> str:  # noqa: D102
        return f"<code>{html_escape(formula.plain)}</code>"

    def name(self, text: str) -> str:  # noqa: D102
        return f"<code>{html_escape(text)}</code>"

    def fill_in(self, text: str) -> str:  # noqa: D102
        return f"<mark>[fill in: {html_escape(text)}]</mark>"
