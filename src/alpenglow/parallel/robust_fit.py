"""A few positive constants fitted to many measured times, with intervals.

Torch-free. What is made small is the sum of |log(predicted / measured)|: relative errors, of which
a few wild ones (another user's job, a kernel that the model does not know) do not pull. Steps are
Gauss and Newton's, each of them a least-absolute-deviations problem solved by reweighting
(Schlossmacher 1973, doi:10.1080/01621459.1973.10481416), and then one constant at a time, since a
model with tiles and rounds has corners.

Intervals are percentiles of a bootstrap over points (Efron 1979, doi:10.1214/aos/1176344552). A
resample is not fitted from the start: the best for it is taken of all constants that were ever
tried (thousands, around every beginning), of fits to resamples of the model made linear around the
optimum, and of profiles, where one constant is moved and the others follow. A percentile says
little of a constant at the end of its range, so an interval also holds whatever was tried that fits
about as well (profile likelihood, errors taken as Laplace's and SHARED of them as one). So an
interval is wide where points tell two constants apart badly, also far from the optimum. It says how
well these points fix a constant, not whether the model is right; held-out points say that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Predict = Callable[[Mapping[str, float]], Sequence[float]]
STEP = 0.02
"""By what share a constant is moved to see what hangs on it."""
FELT = 1e-3
"""A constant is fitted only if moving it moves the mean point by this share of it, or more."""
SPREAD = 0.6
"""Of the beginnings: standard deviation of the constants' logarithms."""
RESAMPLES = 400
SHARED = 2.0
"""Points that miss together, since they have like shapes: so many count as one."""
PROFILE = (0.3, 0.5, 0.7, 0.85, 0.95, 1.05, 1.2, 1.5, 2.2, 4.0, 8.0)
"""Multiples of a constant at which the others are fitted again, for intervals."""


@dataclass(frozen=True)
class Constant:
    """A constant to fit: where to begin, and its range."""

    name: str
    start: float
    least: float = 1e-12
    most: float = float("inf")


@dataclass(frozen=True)
class Estimate:
    """A constant as it was fitted."""

    name: str
    value: float
    low: float
    high: float
    """95 % interval."""


@dataclass(frozen=True)
class Errors:
    """Predicted over measured, less one, point by point."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean absolute error."""
        return float(np.mean(np.abs(self.values)))

    @property
    def worst(self) -> float:
        """The largest error, with its sign."""
        return max(self.values, key=abs)


def errors(predicted: Sequence[float], measured: Sequence[float]) -> Errors:
    """Compare point by point."""
    return Errors(tuple(float(p / m - 1) for p, m in zip(predicted, measured, strict=True)))


class Fit:
    """Constants fitted to points.

    Args:
        predict: constants by name -> seconds of each point.
        measured: seconds of each point.
        constants: what to fit.
        screen: whether constants that no point feels stay out; else all are fitted.
        starts: beginnings that are tried, an odd number: all but the first lie around it in pairs.

    Raises:
        ValueError: no points.
    """

    def __init__(
        self,
        predict: Predict,
        measured: Sequence[float],
        constants: Sequence[Constant],
        starts: int = 7,
        *,
        screen: bool = True,
    ) -> None:
        if not measured:
            raise ValueError("no points to fit to")
        self._predict = predict
        self._log = np.log(np.asarray(measured, dtype=np.float64))
        self._fixed = {c.name: c.start for c in constants}
        self._free = list(constants)
        self._tried: list[tuple[Array, Array]] = []
        begin, chance = self._begin(), np.random.default_rng(7)
        thrown = [chance.normal(0.0, SPREAD, len(begin)) for _ in range(starts // 2)]
        begins = [begin, *(self._within(begin + way * by) for by in thrown for way in (1, -1))]
        felt = np.max([np.abs(self._slopes(x)).mean(axis=0) for x in begins], axis=0) >= FELT
        felt = felt if screen else np.ones_like(felt)
        self._free = [c for c, some in zip(constants, felt, strict=True) if some]
        reached = sorted((self._stride(x[felt]) for x in begins), key=self._loss)
        self._x = min(map(self._polish, reached[:2]), key=self._loss)

    @property
    def values(self) -> dict[str, float]:
        """Every constant, those that nothing was learnt of as they were given."""
        return self._named(self._x)

    @property
    def learnt(self) -> list[str]:
        """Constants that points feel."""
        return [c.name for c in self._free]

    def estimates(self, seed: int = 1) -> list[Estimate]:
        """Constants that points feel, with intervals."""
        if not self._free:
            return []
        chance = np.random.default_rng(seed)
        count = len(self._log)
        slopes, residuals = self._slopes(self._x), self._residuals(self._x)
        for _ in range(RESAMPLES // 4):
            drawn = chance.integers(count, size=count)
            self._loss(self._within(self._x + _least_absolute(slopes[drawn], residuals[drawn])))
        for i in range(len(self._x)):
            self._profile(i, slopes)
        tried = np.stack([x for x, _ in self._tried])
        misses = np.stack([miss for _, miss in self._tried])
        drawn = chance.multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
        chosen = tried[np.argmin(misses @ drawn.T, axis=0)]
        low, high = np.percentile(chosen, [2.5, 97.5], axis=0)
        losses = misses.sum(axis=1)
        # 1.92: half of chi-squared's 95 % for one constant.
        near = tried[losses <= losses.min() * (1 + 1.92 * SHARED / count)]
        low = np.exp(np.minimum(low, near.min(axis=0)))
        high = np.exp(np.maximum(high, near.max(axis=0)))
        return [
            Estimate(c.name, float(v), min(float(a), float(v)), max(float(b), float(v)))
            for c, v, a, b in zip(self._free, np.exp(self._x), low, high, strict=True)
        ]

    def _profile(self, i: int, slopes: Array) -> None:
        """Try multiples of a constant, the others fitted again around each; slopes of the fit."""
        others = [j for j in range(len(self._x)) if j != i]
        for way in (PROFILE[4::-1], PROFILE[5:]):
            x = self._x
            for times in way:
                x = x.copy()
                x[i] = self._x[i] + np.log(times)
                x = self._within(x)
                for _ in range(2):
                    step, free = np.zeros(len(x)), slopes[:, others]
                    step[others] = np.clip(_least_absolute(free, self._residuals(x)), -0.5, 0.5)
                    tried = [self._within(x + share * step) for share in (1.0, 0.3, 0.0)]
                    x = tried[int(np.argmin([self._loss(each) for each in tried]))]

    def _begin(self) -> Array:
        return np.log([np.clip(c.start, c.least, c.most) for c in self._free])

    def _named(self, x: Array) -> dict[str, float]:
        values = {c.name: float(v) for c, v in zip(self._free, np.exp(x), strict=True)}
        return self._fixed | values

    def _residuals(self, x: Array) -> Array:
        return np.log(np.asarray(self._predict(self._named(x)), dtype=np.float64)) - self._log

    def _slopes(self, x: Array) -> Array:
        """Slopes of log(predicted) over log(constant), a row for each point."""
        columns = []
        for i in range(len(x)):
            away = np.zeros(len(x))
            away[i] = STEP
            above, below = self._within(x + away), self._within(x - away)
            moved = self._residuals(above) - self._residuals(below)
            columns.append(moved / (above[i] - below[i]))
        return np.stack(columns, axis=1) if columns else np.zeros((len(self._log), 0))

    def _within(self, x: Array) -> Array:
        least = np.log([c.least for c in self._free])
        most = np.log([c.most for c in self._free])
        clipped: Array = np.clip(x, least, most)
        return clipped

    def _loss(self, x: Array) -> float:
        misses = np.abs(self._residuals(x))
        self._tried.append((x, misses))
        return float(misses.sum())

    def _stride(self, x: Array) -> Array:
        """Gauss and Newton's steps until they lead nowhere."""
        best = self._loss(x)
        for _ in range(12 if len(x) else 0):
            step = _least_absolute(self._slopes(x), self._residuals(x))
            before = best
            for share in (1.0, 0.5, 0.2, 0.05):
                tried = self._within(x + share * np.clip(step, -1.0, 1.0))
                loss = self._loss(tried)
                if loss < best:
                    x, best = tried, loss
                    break
            if best > before * (1 - 1e-3):
                break
        return x

    def _polish(self, x: Array) -> Array:
        """One constant at a time, in ever smaller steps."""
        best = self._loss(x)
        for width in (0.5, 0.2, 0.08, 0.03, 0.01, 0.004):
            again = True
            while again:
                again = False
                for i in range(len(x)):
                    for way in (width, -width):
                        tried = x.copy()
                        tried[i] += way
                        tried = self._within(tried)
                        loss = self._loss(tried)
                        if loss < best * (1 - 1e-5):
                            x, best, again = tried, loss, True
                            break
        return x


def _least_absolute(slopes: Array, residuals: Array) -> Array:
    """The step that makes sum |residuals + slopes step| small."""
    step: Array = np.zeros(slopes.shape[1])
    # A trace of ridge: two constants that points cannot tell apart stay where they are.
    ridge = 1e-4 * len(residuals) * np.eye(len(step))
    for _ in range(25):
        weights = 1 / np.maximum(np.abs(residuals + slopes @ step), 1e-3)
        weighted = slopes * weights[:, None]
        moved = np.linalg.solve(weighted.T @ slopes + ridge, -(weighted.T @ residuals))
        if np.max(np.abs(moved - step)) < 1e-5:
            return np.asarray(moved)
        step = np.asarray(moved, dtype=np.float64)
    return step
