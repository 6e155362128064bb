"""Which checkpoints a series takes, and their names.

Names are those of published series: `step1000` (Pythia's branches) or `240b_tokens`
(RedPajama-INCITE's). A name in tokens has three digits, more where two checkpoints would share one.
Torch-free.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Literal

from alpenglow.release.error import ReleaseError

Names = Literal["steps", "tokens"]

_UNITS = {"": 0, "k": 3, "m": 6, "b": 9, "t": 12}
_EVERY = re.compile(r"(\d+(?:\.\d+)?)([kmbt]?)-(tokens|steps)", re.IGNORECASE)


@dataclass(frozen=True)
class Point:
    """A whole checkpoint of a run."""

    step: int
    tokens: int | None
    path: Path
    manifest: str
    """xxh3-64 of its manifest: another checkpoint of the same step has another."""


@dataclass(frozen=True)
class Every:
    """How far the checkpoints of a series lie apart; an amount of 0 takes all."""

    amount: int
    unit: Names

    @classmethod
    def parse(cls, text: str) -> Every:
        """Read `10B-tokens`, `1000-steps` or `all`.

        Raises:
            ReleaseError: anything else, or an amount that is no whole number above 0.
        """
        if text == "all":
            return cls(0, "steps")
        found = _EVERY.fullmatch(text)
        amount = Decimal(0)
        if found is not None:
            amount = Decimal(found[1]).scaleb(_UNITS[found[2].lower()])
        if found is None or amount <= 0 or amount != int(amount):
            raise ReleaseError(f"--every {text}: 10B-tokens, 1000-steps or all")
        return cls(int(amount), "tokens" if found[3].lower() == "tokens" else "steps")

    def of(self, point: Point) -> int:
        """Where a checkpoint lies, in this unit.

        Raises:
            ReleaseError: it does not say how many tokens it has seen.
        """
        if self.unit == "steps":
            return point.step
        if point.tokens is None:
            raise ReleaseError(
                f"{point.path}: it does not say how many tokens it has seen; choose by steps"
            )
        return point.tokens


def choose(points: Sequence[Point], every: Every) -> tuple[list[Point], list[int]]:
    """The first checkpoint at or after each multiple but before the next one, and the last of all.

    Args:
        points: ascending by step.
        every: the distance.

    Returns:
        The chosen ones, a checkpoint of step 0 among them where there is one; and the multiples
        that have none.
    """
    if not every.amount:
        return list(points), []
    first: dict[int, Point] = {}
    for point in points:
        place = every.of(point)
        if place >= every.amount or place == 0:
            first.setdefault(place // every.amount, point)
    chosen = list(first.values())
    if points and points[-1] not in chosen:
        chosen.append(points[-1])
    last = every.of(points[-1]) // every.amount if points else 0
    return chosen, [n * every.amount for n in range(1, last + 1) if n not in first]


def name_of(point: Point, names: Names, taken: Collection[str]) -> str:
    """A name that no other checkpoint of the series has.

    Raises:
        ReleaseError: it is to be named by tokens and does not say them, or even all of their
            digits are taken.
    """
    if names == "steps":
        return f"step{point.step}"
    tokens = Every(1, "tokens").of(point)
    for digits in range(3, len(str(tokens)) + 4):
        if (name := f"{amount(tokens, digits)}_tokens") not in taken:
            return name
    raise ReleaseError(f"{point.path}: another checkpoint of {tokens} tokens is in the series")


def amount(number: int, digits: int = 3) -> str:
    """`240b` of 240,123,456,789: a number with a unit and at most so many digits."""
    if number == 0:
        return "0"
    size = int(math.log10(number))
    rounded = round(Decimal(number), digits - 1 - size) if size >= digits else Decimal(number)
    exponent = max(power for power in _UNITS.values() if rounded >= Decimal(10) ** power)
    letter = next(letter for letter, power in _UNITS.items() if power == exponent)
    return f"{rounded.scaleb(-exponent).normalize():f}{letter}"
