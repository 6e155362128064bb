"""Steps of a run in groups of like ones, by what is known of every step.

A sample of steps stands for all only if it has no more of the odd ones than there are: data may
stall at every fiftieth step, and if each fiftieth is among the sampled every time, a plain mean
would say ten times too much. Length, wait for data and slow spells are known of every step from its
sums, so the steps are divided by these first, and each sampled step counts for as many as its group
has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alpenglow_analysis.episodes import Episode
from alpenglow_analysis.run import Run
from alpenglow_profiling.events import Events, Kind

LONG = 1.5
"""A step this many times as long as the median is a group's of its own kind."""
STALLED = 0.02
"""So is one in which some rank waited for data this share of the median step longer than usual."""
MOST_SPELLS = 3
"""Slow spells that divide steps, those that cost most."""

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Strata:
    """Groups of steps that count."""

    segment: tuple[str, ...]
    """Names of the segments; `of` is an index into these."""
    of: Ints
    """[steps]: segment of each step."""
    step: Ints
    """[steps]: number."""
    length: Floats
    """[steps]: the mean over ranks, ns."""
    group: Ints
    """[steps]: 0 is the largest group."""
    long: npt.NDArray[np.bool_]
    """[groups]: far longer than the median step."""
    like: Ints
    """[groups]: the group whose steps differ only in that no rank waited long for data; the group
    itself where it is one of these, or there is none."""

    def size(self) -> Ints:
        """[groups]: how many steps each has."""
        return np.bincount(self.group, minlength=len(self.long))


def strata(run: Run, slow: Sequence[Episode] = ()) -> Strata:
    """Divide the steps that count of segments of the run's layout."""
    names: list[str] = []
    of, steps, lengths, waits = [], [], [], []
    for segment in run.segments:
        events = run.events.get(segment.name)
        if events is None or events.world_size != run.facts.layout.world:
            continue
        step, length, wait = _known(events, run.lost_from(segment))
        of.append(np.full(len(step), len(names)))
        names.append(segment.name)
        steps.append(step)
        lengths.append(length)
        waits.append(wait)
    none = [np.zeros(0)]
    number = np.concatenate([*none, *steps]).astype(np.int64)
    length, wait = np.concatenate([*none, *lengths]), np.concatenate([*none, *waits])
    owner = np.concatenate([*none, *of]).astype(np.int64)
    if not len(number):
        return Strata((), owner, number, length, owner, np.zeros(1, bool), np.zeros(1, np.int64))
    middle = float(np.median(length))
    far = length > LONG * middle
    key = far.astype(np.int64)
    for one in slow[:MOST_SPELLS]:
        if not one.whole_run:
            key = 2 * key + ((number >= one.first_step) & (number <= one.last_step))
    key = 2 * key + (wait > float(np.median(wait)) + STALLED * middle)
    values, group = np.unique(key, return_inverse=True)
    largest = np.argsort(-np.bincount(group), kind="stable")
    place = np.empty(len(values), np.int64)
    place[largest] = np.arange(len(values))
    group = place[group]
    long = np.array([bool(far[group == each].all()) for each in range(len(values))])
    at = {int(value): int(place[index]) for index, value in enumerate(values.tolist())}
    like = np.arange(len(values))
    for value, mine in at.items():
        like[mine] = at.get(value - value % 2, mine)
    return Strata(tuple(names), owner, number, length, group, long, like)


def _known(events: Events, lost_from: int | None) -> tuple[Ints, Floats, Floats]:
    """Steps that count, their mean length over ranks, and the longest wait for data in each, ns."""
    sums = events.sums
    counts = (sums.step > 0) & (sums.own_ns.shape[1] > 0)
    if lost_from is not None:
        counts &= sums.step < lost_from
    length = sums.own_ns.sum(axis=2, dtype=np.float64)
    known = np.maximum(1, (length > 0).sum(axis=1))
    wait = sums.own(Kind.DATA_WAIT).max(axis=1, initial=0).astype(np.float64)
    mean = length.sum(axis=1) / known
    counts &= mean > 0
    return sums.step[counts].astype(np.int64), mean[counts], wait[counts]
