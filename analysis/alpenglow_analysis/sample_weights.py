"""Weights of sampled steps that make them stand for all by what is known of all: their lengths.

A few dozen steps are replayed, and by chance they may be a little longer than the rest. As the
length of every step is known, the weights are moved as little as they must for the sample to have
the mean length of the whole (the regression estimator in the form of Deville and Saerndal 1992,
doi 10.1080/01621459.1992.10475217, linear distance). What a cause costs goes with the length, so
its error falls too: by half or more on runs with jitter.

Two numbers of each step count: the level around it (the median of its neighbours of the same
group), which tells for how much of the time something held, and how much longer than that it is.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

NEIGHBOURS = 10
"""Steps on either side that tell the level."""
LEAST = 8
"""Sampled steps of a group below which its weights stay equal: two numbers are fitted."""
SMALLEST = 0.25
"""No weight falls below this part of an equal one; the correction is reduced instead."""
_FAR = 5.0
"""Median deviations beyond which a step counts as no longer than that."""


def calibrated(length: Floats, group: Ints, chosen: Ints) -> Floats:
    """Find how many steps each sampled one counts for.

    Args:
        length: [steps], of every step, in their order.
        group: [steps]: groups of like steps, from 0.
        chosen: [n], indices of those that were sampled; of every group that has any, some.

    Returns:
        [n]: positive; those of a group sum to its size.
    """
    weight = np.zeros(len(chosen))
    for each in np.unique(group[chosen]):
        mine = np.flatnonzero(group == each)
        taken = np.flatnonzero(group[chosen] == each)
        equal = len(mine) / len(taken)
        weight[taken] = equal
        if len(taken) >= LEAST and len(taken) < len(mine):
            known = _known(length[mine])
            seen = known[np.searchsorted(mine, chosen[taken])]
            weight[taken] = equal * (1 + _correction(known.mean(axis=0), seen))
    return weight


def _known(length: Floats) -> Floats:
    """[steps, 2]: the level around each step, and what it is longer; in units of their spread."""
    around = np.pad(length, NEIGHBOURS, mode="reflect" if len(length) > NEIGHBOURS else "edge")
    windows = np.lib.stride_tricks.sliding_window_view(around, 2 * NEIGHBOURS + 1)
    level = np.median(windows, axis=1)
    longer = length - level
    most = _FAR * float(np.median(np.abs(longer)))
    table = np.stack([level, np.clip(longer, -most, most)], axis=1)
    spread = table.std(axis=0)
    # A level that is the same everywhere but for rounding tells nothing.
    table[:, spread <= 1e-6 * float(np.abs(length).mean())] = 0
    return np.asarray((table - table.mean(axis=0)) / np.where(spread > 0, spread, 1))


def _correction(mean: Floats, seen: Floats) -> Floats:
    """[n]: by how much of itself an equal weight changes; sums to 0."""
    away = seen - seen.mean(axis=0)
    inverse = np.linalg.pinv(away.T @ away / len(seen), rcond=1e-3, hermitian=True)
    change = away @ (inverse @ (mean - seen.mean(axis=0)))
    return np.asarray(change * min(1.0, (1 - SMALLEST) / max(-float(change.min()), 1e-12)))
