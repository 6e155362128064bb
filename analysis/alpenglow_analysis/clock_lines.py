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


def fit(
    moment: Floats, lower: Floats, upper: Floats, guess: Floats, about: float, known: Floats
) -> Lines:
    """Fit a line to the bounds of each node.

    It is the least-squares line through the guesses, each step weighed by the width that bounds
    usually have in it, or by what guesses are off where that is less: weights that all nodes share
    keep two nodes that are bound closely to each other close. What leaves the bounds is moved to
    the next line within them: first its slope, to what every pair of steps allows, then its offset.
    A line with a slope that every pair allows exists always; where pairs contradict one another no
    line fits.

    Args:
        moment: [steps], ns from t0.
        lower: [steps, nodes], ns; infinite where nothing is known.
        upper: the same.
        guess: the same: where between them the correction is thought to be.
        about: standard deviation of the guesses, ns.
        known: [nodes]: slope that is in the bounds' times already; slopes are thought to be near
            `USUAL` together with it.
    """
    there, _ = middles(lower, upper)
    widths = zip((upper - lower) / 2, there, strict=True)
    usual = np.array([np.median(width[t]) if t.any() else np.inf for width, t in widths])
    variance = np.minimum(np.square(usual) / 3, about**2) + 1  # a third: uniform within bounds
    weight = there / variance[:, None]
    total = np.maximum(weight.sum(axis=0), 1e-300)
    centre = (weight * moment[:, None]).sum(axis=0) / total
    mean = (weight * np.where(there, guess, 0)).sum(axis=0) / total
    away = moment[:, None] - centre
    prior = 1 / USUAL**2
    slope = (weight * away * np.where(there, guess - mean, 0)).sum(axis=0) - prior * known
    slope /= (weight * away**2).sum(axis=0) + prior
    steepest, flattest = _slopes(moment, lower, upper, there, known)
    slope = np.clip(slope, np.minimum(flattest, steepest), np.maximum(flattest, steepest))
    leaning = away * slope
    least = np.where(there, lower - leaning, -np.inf).max(axis=0)
    most = np.where(there, upper - leaning, np.inf).min(axis=0)
    fits = (flattest <= steepest) & (least <= most + TOLERANCE)
    mean = np.where(fits, np.clip(mean, least, np.maximum(least, most)), mean)
    doubt = np.maximum(np.maximum(steepest - slope, slope - flattest), 0)
    doubt = np.where(fits, doubt, FASTEST + np.abs(known + slope)) + WANDER
    return Lines(mean - centre * slope, slope, doubt, fits)


def middles(lower: Floats, upper: Floats) -> tuple[npt.NDArray[np.bool_], Floats]:
    """Where there are bounds on both sides, and their middles; zero elsewhere."""
    there = np.isfinite(lower) & np.isfinite(upper)
    return there, np.where(there, lower, 0) / 2 + np.where(there, upper, 0) / 2


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
