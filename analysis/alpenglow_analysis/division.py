"""The waiting of all steps that count, divided by cause after those that were replayed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alpenglow_analysis.apportion import apportion
from alpenglow_analysis.charge import SegmentCharge
from alpenglow_analysis.study import Study

NEIGHBOURS = 4
"""Steps on each side that a step is compared with."""

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class GroupShare:
    """A group of like steps."""

    group: int
    """In `sample.strata`."""
    steps: int
    replayed: int
    ns: dict[str, float]
    """ns of all ranks by cause; they sum to the waiting of these steps."""


def divide(
    charges: Sequence[SegmentCharge], found: Study
) -> tuple[tuple[GroupShare, ...], tuple[str, ...]]:
    """Divide the waiting of steps by cause, and say what that rests on.

    Each group of like steps has the proportions of those of it that were replayed. Of a group in
    which ranks waited long for data and of which no step was, what it waits beyond the steps next
    to it that are like it otherwise is its data; any other one has the proportions of all.

    Args:
        charges: of the segments of the run's layout.
        found: the run's study.

    Returns:
        Nothing where no step can be replayed, and a sentence.
    """
    step = np.concatenate([np.zeros(0, np.int64), *(of.step for of in charges)])
    waiting = np.concatenate([np.zeros(0, np.int64), *(of.waiting for of in charges)])
    if not len(step) or not waiting.any():
        return (), ()
    if found.sample is None or found.causes is None:
        return (), (
            "No step has the spans of all ranks, so nothing was replayed: waiting in steps is one "
            "piece, its causes unknown.",
        )
    sample, causes = found.sample, found.causes
    group = dict(zip(sample.strata.step.tolist(), sample.strata.group.tolist(), strict=True))
    of_step = np.array([group.get(number, 0) for number in step.tolist()])
    shares = []
    for each in np.unique(of_step).tolist():
        mine, replayed = of_step == each, sample.group == each
        count, mean = int(mine.sum()), float(waiting[mine].mean())
        like = int(sample.strata.like[each])
        if replayed.any() or like == each or not (sample.group == like).any():
            ns = causes.expected(replayed if replayed.any() else ~replayed, mean)
        else:
            usual = _nearby(step[mine], step[of_step == like], waiting[of_step == like])
            ns = causes.expected(sample.group == like, usual)
            ns["data"] += mean - usual
        total = {cause: value * count for cause, value in ns.items()}
        shares.append(GroupShare(each, count, int(replayed.sum()), total))
    left = sum(share.ns["unexplained"] for share in shares) / float(waiting.sum())
    told = (
        f"Causes of waiting come from replays of {len(sample)} of {len(step):,} steps"
        + (f", divided into {len(shares)} groups of like ones" if len(shares) > 1 else "")
        + f": {100 * left:.2g} % of the waiting is left unexplained."
    )
    return tuple(shares), (told, *sample.notes)


def _nearby(step: Ints, others: Ints, waiting: Ints) -> float:
    """Mean waiting of the steps next to some, among others."""
    order = np.argsort(others, kind="stable")
    others, waiting = others[order], waiting[order]
    place = np.searchsorted(others, step)
    near = np.clip(place[:, None] + np.arange(-NEIGHBOURS, NEIGHBOURS), 0, len(others) - 1)
    return float(waiting[near].mean())


def whole(shares: Sequence[GroupShare], waiting: int) -> dict[str, int]:
    """Ns by cause over all groups; they sum to `waiting`, or are none where nothing was divided."""
    if not shares:
        return {}
    return apportion(
        waiting, {cause: sum(share.ns[cause] for share in shares) for cause in shares[0].ns}
    )
