"""A straight line through bounds: offset and drift of a clock that may be anywhere between them.

Each step says that a node's correction lies in an interval. A clock that runs evenly is a line
through all intervals (Duda et al. 1987; Zhang, Liu & Xia 2002, "Clock synchronization algorithms
for network measurements", INFOCOM, find it from convex hulls). Steps are few here, so hulls are
written as pairs of steps, for all nodes at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

FASTEST = 500e-6
"""No clock of two runs faster than the other by more: what the kernel's NTP may slew a clock by
(MAXFREQ in linux/timex.h); a bare quartz is off by up to 50e-6."""
USUAL = 20e-6
"""Standard deviation of the rate of two clocks of which nothing else is known."""
WANDER = 1e-6
"""How far the rate of a clock may be off its line within a step: temperature."""
TOLERANCE = 1.0
"""ns."""


@dataclass(frozen=True)
class Lines:
    """A line for each node: correction at moment t is offset + slope (t - t0)."""

    offset: Floats
    """[nodes], at t0, ns."""
    slope: Floats
    """[nodes]"""
    doubt: Floats
    """[nodes]: how far another slope within all bounds can be from this one, and `WANDER`."""
    fits: npt.NDArray[np.bool_]
    """[nodes]: whether the line lies within every bound."""

    def at(self, moment: Floats) -> Floats:
        """[moments, nodes]: corrections, of moments from t0."""
        return np.asarray(self.offset + moment[:, None] * self.slope)


def fit(moment: Floats, lower: Floats, upper: Floats, guess: Floats, known: Floats) -> Lines:
    """Fit a line to the bounds of each node.

    The first try is the least-squares line through the guesses, each step weighed by the width
    that bounds usually have in it: weights that all nodes share keep two nodes that are bound
    closely to each other close. Where that leaves a node's bounds, the line is taken that stays
    nearest to the middles relative to each bound's width (Chebyshev): it lies within all of them if
    any line does.

    Args:
        moment: [steps], ns from t0.
        lower: [steps, nodes], ns; infinite where nothing is known.
        upper: the same.
        guess: the same: where between them the correction is thought to be.
        known: [nodes]: slope that is in the bounds' times already; slopes are thought to be near
            `USUAL` together with it.
    """
    there, middle = middles(lower, upper)
    guess = np.where(there, guess, 0)
    half = np.where(there, (upper - lower) / 2, np.inf)
    with np.errstate(invalid="ignore"):
        usual = np.array(
            [np.median(h[t]) if t.any() else np.inf for h, t in zip(half, there, strict=True)]
        )
    offset, slope = _least_squares(moment, guess, usual, there, known)
    steepest, flattest = _slopes(moment, lower, upper, there, known)
    slope_ok = np.clip(slope, flattest, np.maximum(steepest, flattest))
    offset, slope = offset + (slope - slope_ok) * _mean(moment, usual, there), slope_ok
    fits = _inside(moment, offset, slope, lower, upper, there)
    for node in np.flatnonzero(~fits & (there.sum(axis=0) > 1)):
        mine = there[:, node]
        of_node = (moment[mine], middle[mine, node], half[mine, node])
        offset[node], slope[node] = _chebyshev(*of_node, float(known[node]))
    fits = _inside(moment, offset, slope, lower, upper, there)
    doubt = np.maximum(steepest - slope, slope - flattest)
    doubt = np.where(fits, np.maximum(doubt, 0), FASTEST + np.abs(known + slope)) + WANDER
    return Lines(offset, slope, doubt, fits)


def middles(lower: Floats, upper: Floats) -> tuple[npt.NDArray[np.bool_], Floats]:
    """Where there are bounds on both sides, and their middles; zero elsewhere."""
    there = np.isfinite(lower) & np.isfinite(upper)
    return there, np.where(there, lower, 0) / 2 + np.where(there, upper, 0) / 2


def _mean(moment: Floats, usual: Floats, there: npt.NDArray[np.bool_]) -> Floats:
    weight = there / np.square(usual[:, None] + 1)
    return np.asarray(
        (weight * moment[:, None]).sum(axis=0) / np.maximum(weight.sum(axis=0), 1e-300)
    )


def _least_squares(
    moment: Floats,
    guess: Floats,
    usual: Floats,
    there: npt.NDArray[np.bool_],
    known: Floats,
) -> tuple[Floats, Floats]:
    """Lines through the guesses; with few or wide bounds the slope stays what is usual."""
    weight = 3 / np.square(usual[:, None] + 1) * there  # of a uniform distribution
    total = np.maximum(weight.sum(axis=0), 1e-300)
    time = moment[:, None] - (weight * moment[:, None]).sum(axis=0) / total
    mean = (weight * guess).sum(axis=0) / total
    spread = (weight * time**2).sum(axis=0)
    prior = 1 / USUAL**2
    slope = ((weight * time * (guess - mean)).sum(axis=0) - prior * known) / (spread + prior)
    return mean - slope * (moment[:, None] - time)[0], slope


def _slopes(
    moment: Floats, lower: Floats, upper: Floats, there: npt.NDArray[np.bool_], known: Floats
) -> tuple[Floats, Floats]:
    """The steepest and the flattest line that any two steps allow, within `FASTEST`."""
    steepest, flattest = FASTEST - known, -FASTEST - known
    for first in range(len(moment)):
        for last in range(first + 1, len(moment)):
            both, apart = there[first] & there[last], moment[last] - moment[first]
            up = np.where(both, (upper[last] - lower[first]) / apart, np.inf)
            down = np.where(both, (lower[last] - upper[first]) / apart, -np.inf)
            steepest, flattest = np.minimum(steepest, up), np.maximum(flattest, down)
    return steepest, flattest


def _inside(
    moment: Floats,
    offset: Floats,
    slope: Floats,
    lower: Floats,
    upper: Floats,
    there: npt.NDArray[np.bool_],
) -> npt.NDArray[np.bool_]:
    value = offset + moment[:, None] * slope
    within = (value >= lower - TOLERANCE) & (value <= upper + TOLERANCE)
    return np.asarray((within | ~there).all(axis=0))


def _chebyshev(moment: Floats, middle: Floats, half: Floats, known: float) -> tuple[float, float]:
    """The line a + b t with the least max |a + b t - middle| / half, by halving the slopes.

    For a slope the least maximum is the largest of (c_i - c_j) / (half_i + half_j) over pairs of
    steps, c = middle - b t: convex in b.
    """
    width = half[:, None] + half[None, :] + 1e-9

    def excess(slope: float) -> tuple[float, float]:
        c = middle - slope * moment
        ratio = (c[:, None] - c[None, :]) / width
        i, j = np.unravel_index(int(np.argmax(ratio)), ratio.shape)
        return float(ratio[i, j]), float((moment[j] - moment[i]) / width[i, j])

    left, right = -FASTEST - known, FASTEST - known
    for _ in range(80):
        slope = (left + right) / 2
        if excess(slope)[1] > 0:  # the maximum grows with the slope
            right = slope
        else:
            left = slope
    slope = (left + right) / 2
    most, c = excess(slope)[0], middle - slope * moment
    return float((np.max(c - most * half) + np.min(c + most * half)) / 2), slope
