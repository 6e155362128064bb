"""Published numbers beside predicted ones: rows, tables, errors.

Torch-free. An error is predicted over published, less one: positive where the model is too fast if
the table gives a rate, too slow if it gives seconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One published number and ours."""

    name: str
    published: float
    predicted: float

    @property
    def error(self) -> float:
        """Predicted over published, less one."""
        return self.predicted / self.published - 1


@dataclass(frozen=True)
class Table:
    """Published numbers of one source.

    Args:
        title: the source.
        unit: of its numbers.
        rows: numbers beside ours.
        sets: the constant that this table set; empty where it set none (held out).
        step: whether a row is a whole step of a run, and its configuration is published or
            assumed without choice, so that its error says how far a prediction may be off.
    """

    title: str
    unit: str
    rows: tuple[Row, ...]
    sets: str = ""
    step: bool = True

    @property
    def mean(self) -> float:
        """Mean absolute error."""
        return sum(abs(row.error) for row in self.rows) / len(self.rows)

    @property
    def bias(self) -> float:
        """Mean error with its sign."""
        return sum(row.error for row in self.rows) / len(self.rows)

    @property
    def worst(self) -> Row:
        """The row with the largest error."""
        return max(self.rows, key=lambda row: abs(row.error))

    @property
    def slower(self) -> tuple[float, ...]:
        """Of each row, by which share of the predicted time the published run took longer."""
        if self.unit.startswith(("seconds", "ms")):
            return tuple(1 / (1 + row.error) - 1 for row in self.rows)
        return tuple(row.error for row in self.rows)

    def __str__(self) -> str:
        lines = [f"{self.title}, {self.role} ({self.unit})"]
        lines += [
            f"  {row.name:<40} {row.published:9.4g} {row.predicted:9.4g} {row.error:+7.1%}"
            for row in self.rows
        ]
        return "\n".join([*lines, f"  {self.summary()}"])

    @property
    def role(self) -> str:
        """What it set, or that it set nothing."""
        return f"sets {self.sets}" if self.sets else "held out"

    def summary(self) -> str:
        """Mean, worst and signed error in one line."""
        return (
            f"{len(self.rows)} points: mean {self.mean:.1%}, worst {self.worst.error:+.1%} "
            f"({self.worst.name}), signed {self.bias:+.1%}"
        )


def percentile(values: Iterable[float], share: float) -> float:
    """Smallest value that at least `share` of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
