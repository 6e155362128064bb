"""Arithmetic of sets of time: unions of intervals [begin, end) in integer nanoseconds, exact.

A set is a pair of equally long int64 columns, sorted, disjoint and without empty or touching
pieces.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Times:
    """A set of time: `begin` and `end` of its pieces in ns."""

    begin: Integers
    end: Integers

    @property
    def total(self) -> int:
        """Nanoseconds in the set."""
        return int((self.end - self.begin).sum())

    def __and__(self, other: Times) -> Times:
        """The time in both sets."""
        return _covered(self, other, at_least=2)

    def __or__(self, other: Times) -> Times:
        """The time in either set."""
        return union(
            np.concatenate((self.begin, other.begin)), np.concatenate((self.end, other.end))
        )

    def __sub__(self, other: Times) -> Times:
        """The time in this set and not in the other."""
        if not len(self.begin):
            return self
        edges = np.concatenate((self.begin[:1], other.end))
        until = np.concatenate((other.begin, self.end[-1:]))
        keep = until > edges
        return self & Times(edges[keep], until[keep])

    def within(self, begin: int, end: int) -> Times:
        """The part between two times."""
        low, high = np.maximum(self.begin, begin), np.minimum(self.end, end)
        keep = high > low
        return Times(low[keep], high[keep])


def union(begin: Integers, end: Integers) -> Times:
    """The time covered by any of the intervals; those of no length cover none."""
    some = end > begin
    begin, end = begin[some], end[some]
    if not len(begin):
        return Times(begin, end)
    order = np.argsort(begin, kind="stable")
    begin, end = begin[order], np.maximum.accumulate(end[order])
    opens = np.concatenate(([True], begin[1:] > end[:-1]))
    return Times(begin[opens], end[np.concatenate((opens[1:], [True]))])


def _covered(first: Times, second: Times, at_least: int) -> Times:
    """Where at least so many of the two sets are; each has at most one piece at a time."""
    edges = np.concatenate((first.begin, second.begin, first.end, second.end))
    opening = len(first.begin) + len(second.begin)
    change = np.where(np.arange(len(edges)) < opening, 1, -1)
    order = np.lexsort((change, edges))  # ends before begins at the same time: no empty pieces
    level = np.cumsum(change[order])
    inside = np.flatnonzero(level >= at_least)
    edges = edges[order]
    return union(edges[inside], edges[inside + 1])
