"""Markdown of the cards: sections, short tables, and a word for what is not known.

Values come from recipes, file names and logs, so every cell is made safe: a bar, a line break or an
opening bracket of HTML stays text. Called by the cards; torch-free.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

UNKNOWN = "unknown"

Rows = Iterable[tuple[str, str]]


def cell(value: str) -> str:
    """A table's cell that reads as the value, whatever it holds."""
    return " ".join(value.split()).replace("<", "&lt;").replace("|", "\\|")


def line(text: str) -> str:
    """One line of text that opens no tag."""
    return " ".join(text.split()).replace("<", "&lt;")


def code(value: object) -> str:
    """A value in fixed type; `unknown` where there is none."""
    text = " ".join(str(value).split()) if value not in (None, "") else ""
    return f"`{text.replace('`', chr(39))}`" if text else UNKNOWN


def known(value: Any, form: str = "{}") -> str:
    """A value in a form, or `unknown`."""
    return UNKNOWN if value is None or value == "" else form.format(value)


def count(value: Any) -> str:
    """A whole number with commas, or `unknown`."""
    return UNKNOWN if value is None else f"{value:,}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; a head that begins with `>` is of numbers, and its column is set to the right."""
    names = [name.removeprefix(">") for name in head]
    marks = ["--:" if name.startswith(">") else "---" for name in head]
    lines = [_row(names), "|" + "|".join(marks) + "|"]
    return "\n".join([*lines, *(_row([cell(value) for value in row]) for row in rows)])


def facts(rows: Rows) -> str:
    """Two columns without a head."""
    lines = [_row([cell(name), cell(value)]) for name, value in rows]
    return "\n".join(["| | |", "|---|---|", *lines])


def section(title: str, *parts: str) -> str:
    """A heading and what stands below it; empty parts are left out."""
    return "\n\n".join([f"## {title}", *(part for part in parts if part)])


def most(counts: Mapping[str, float], show: int, form: str = "{:,}") -> str:
    """The largest few of some counts, and how many more there are."""
    largest = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    words = [f"{shortened(name)} ({form.format(value)})" for name, value in largest[:show]]
    more = len(largest) - show
    return ", ".join([*words, *([f"{more} more"] if more > 0 else [])]) or "none"


def shortened(name: str, length: int = 40) -> str:
    """A name that may be long, such as a licence expression, cut for a table."""
    return name if len(name) <= length else name[: length - 1].rstrip() + "…"


def size(number: float | None) -> str:
    """Bytes in decimal units, three digits."""
    if number is None:
        return UNKNOWN
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(number) < 999.5 or unit == "TB":
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.3g} {unit}"
        number /= 1000
    raise AssertionError


def day(seconds: Any) -> str:
    """The UTC day and minute of unix seconds."""
    if not isinstance(seconds, (int, float)):
        return UNKNOWN
    return f"{datetime.datetime.fromtimestamp(seconds, datetime.UTC):%Y-%m-%d %H:%M}"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |" if any(cells) else "|" + " |" * len(cells)
