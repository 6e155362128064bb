"""A rule over one column of signals: a document is kept where its value lies between two bounds."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

Limit = float | str | None
"""A number; a percentile of the slice's own stored column, such as "60%"; or none."""

_PERCENTILE = re.compile(r"\d{1,3}(?:\.\d+)?%")


@dataclass(frozen=True)
class Bound:
    """What replaces a rule's bounds: a recipe's `thresholds` are rule -> bound."""

    least: Limit = None
    most: Limit = None

    def __post_init__(self) -> None:
        for name, limit in (("least", self.least), ("most", self.most)):
            _check(name, limit)
        numbers = isinstance(self.least, float | int) and isinstance(self.most, float | int)
        if numbers and self.least > self.most:  # type: ignore[operator]
            raise ValueError(f"least = {self.least} and most = {self.most} keep nothing")


@dataclass(frozen=True)
class Rule:
    """Kept where least <= value <= most. A value that is no number (NaN) breaks the rule."""

    name: str
    """The reason that the ledger shows for what it drops."""
    signal: str
    """The column."""
    least: Limit = None
    most: Limit = None
    optional: bool = False
    """Passed over where the column was not computed: a list of words or a classifier that the user
    brings, or does not."""

    def __post_init__(self) -> None:
        Bound(self.least, self.most)

    @property
    def resolved(self) -> bool:
        """Tell whether no bound is a percentile."""
        return not isinstance(self.least, str) and not isinstance(self.most, str)


def percentile(limit: Limit) -> float | None:
    """Return the percentile that a bound names, 0 to 100; None for a number or none."""
    return float(limit[:-1]) if isinstance(limit, str) else None


def _check(name: str, limit: Limit) -> None:
    if isinstance(limit, str):
        if not _PERCENTILE.fullmatch(limit) or float(limit[:-1]) > 100:
            raise ValueError(f'{name} = {limit!r} is not a percentile such as "60%", nor a number')
    elif limit is not None and math.isnan(limit):
        raise ValueError(f"{name} = nan bounds nothing")
