"""An allocation: node-hours granted from one day to another, as a facility gives them.

# allocation.toml
name = "ABC123"
node_hours = 2_000_000
start = 2023-01-01
until = 2023-12-31
program = "INCITE"          # whose under-use dates hold; leave out for none
price_per_node_hour = 4.0   # optional
"""

from __future__ import annotations

import datetime
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from alpenglow_analysis.segment import RunError

DAY = 86_400.0


@dataclass(frozen=True)
class Rule:
    """What a facility takes back on a day from an allocation that was used too little."""

    month: int
    day: int
    below: float
    """Share of the allocation: holds where less than this is used."""
    taken: float
    """Share of what remains that may be taken back."""


INCITE_RULES = (
    Rule(5, 1, 0.10, 0.30),
    Rule(5, 1, 0.15, 0.15),
    Rule(9, 1, 0.10, 0.75),
    Rule(9, 1, 0.33, 0.50),
    Rule(9, 1, 0.50, 0.33),
)
"""INCITE's pull-back policy as OLCF states it in its documentation ("INCITE Allocation Under-
utilization Policy"): by 1 May below 10 % used up to 30 % of the remainder, below 15 % up to 15 %;
by 1 September below 10 % 75 %, below 33 % 50 %, below 50 % 33 %. Ask the facility for today's."""
PROGRAMS: dict[str, tuple[Rule, ...]] = {"INCITE": INCITE_RULES, "": ()}


@dataclass(frozen=True)
class Allocation:
    """What was granted."""

    node_hours: float
    start: datetime.date
    until: datetime.date
    """The last day."""
    name: str = ""
    program: str = ""
    price_per_node_hour: float | None = None

    def __post_init__(self) -> None:
        if not self.node_hours > 0:
            raise RunError(f"allocation: node_hours = {self.node_hours}: is not above 0")
        if self.until < self.start:
            raise RunError(f"allocation: until = {self.until} lies before start = {self.start}")
        if self.program not in PROGRAMS:
            known = ", ".join(repr(name) for name in PROGRAMS if name)
            raise RunError(
                f"allocation: program = {self.program!r}: known is {known}; leave it out for one "
                "without dates"
            )

    @property
    def begin_s(self) -> float:
        """Unix time at which it begins, 00:00 UTC of its first day."""
        return seconds_of(self.start)

    @property
    def end_s(self) -> float:
        """Unix time at which it ends, 24:00 UTC of its last day."""
        return seconds_of(self.until) + DAY

    def even(self, unix: float) -> float:
        """Node-hours that an even use would have taken by a time."""
        share = (unix - self.begin_s) / (self.end_s - self.begin_s)
        return self.node_hours * min(1.0, max(0.0, share))

    def dates(self) -> list[tuple[float, list[Rule]]]:
        """Unix time of each under-use date inside the allocation, with its rules, by time."""
        found: dict[float, list[Rule]] = {}
        for year in range(self.start.year, self.until.year + 1):
            for rule in PROGRAMS[self.program]:
                at = seconds_of(datetime.date(year, rule.month, rule.day))
                if self.begin_s < at < self.end_s:
                    found.setdefault(at, []).append(rule)
        return sorted(found.items())

    @classmethod
    def load(cls, path: Path) -> Allocation:
        """Read a TOML file.

        Raises:
            RunError: it cannot be read, or a key is missing, unknown or of the wrong type.
        """
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"{path}: not a readable allocation: {error}") from None
        known = {field.name for field in fields(cls)}
        for key in table:
            if key not in known:
                raise RunError(f"{path}: unknown key {key}; known are {', '.join(sorted(known))}")
        for key in ("node_hours", "start", "until"):
            if key not in table:
                raise RunError(f"{path}: {key} is missing")
        price = table.get("price_per_node_hour")
        try:
            return cls(
                node_hours=float(table["node_hours"]),
                start=day_of(table["start"]),
                until=day_of(table["until"]),
                name=str(table.get("name", "")),
                program=str(table.get("program", "")),
                price_per_node_hour=None if price is None else float(price),
            )
        except (TypeError, ValueError) as error:
            raise RunError(f"{path}: {error}") from None


def day_of(value: Any) -> datetime.date:
    """A date, from TOML or from text as 2023-01-31.

    Raises:
        RunError: not a date.
    """
    if isinstance(value, datetime.datetime):
        return value.date()
    if isinstance(value, datetime.date):
        return value
    try:
        return datetime.date.fromisoformat(str(value))
    except ValueError:
        raise RunError(f"{value!r}: a date is written as 2023-01-31") from None


def seconds_of(day: datetime.date) -> float:
    """Unix time of 00:00 UTC of a day."""
    return datetime.datetime(day.year, day.month, day.day, tzinfo=datetime.UTC).timestamp()
