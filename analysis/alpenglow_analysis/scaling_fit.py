"""Laws of scaling fitted to a series, with intervals.

- Amdahl (1967), strong: t(n) = t1 (s + (1 - s) n1 / n), s the serial share of the first size's
  time;
- Gustafson (1988), weak: scaled speed-up n/n1 - s (n/n1 - 1), t(n) = t1 / (1 - s + s n1 / n);
- log-linear: log t = a + b log n: b = -1 is ideal strong scaling, 0 ideal weak scaling.

Fitted by least squares on the logarithm of every repeat; intervals are 5 to 95 % of 500 bootstrap
samples drawn from the repeats of each size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alpenglow_analysis.scaling_study import Series

SAMPLES = 500
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Fit:
    """One law."""

    law: str
    parameter: str
    value: float
    interval: tuple[float, float] | None
    """5 to 95 %; None where each size was run once."""
    error: float
    """Largest |fitted / measured - 1| of the points."""
    seconds: Callable[[float], float]
    """Ranks -> seconds of a step."""


def fits(series: Series, seed: int = 1) -> list[Fit]:
    """Fit the laws of a series; none to fewer than two sizes."""
    points = series.points
    if len(points) < 2:
        return []
    ranks = np.array([p.ranks / points[0].ranks for p in points])
    groups = [np.array([r.seconds for r in p.repeats]) for p in points]
    laws: list[tuple[str, str, Callable[[Floats, Floats], tuple[float, float]],
                     Callable[[float, float, Floats], Floats]]] = [
        ("Amdahl", "serial share", _amdahl, _amdahl_time) if series.kind == "strong" else
        ("Gustafson", "serial share", _gustafson, _gustafson_time),
        ("log-linear", "exponent", _power, _power_time),
    ]  # fmt: skip
    found = []
    for law, parameter, fit, time in laws:
        first, value = fit(ranks, np.array([np.median(g) for g in groups]))
        fitted = time(first, value, ranks)
        error = float(np.max(np.abs(fitted / np.array([p.seconds for p in points]) - 1)))
        base = points[0].ranks

        def seconds(
            n: float, first: float = first, value: float = value,
            time: Callable[[float, float, Floats], Floats] = time, base: int = base,
        ) -> float:  # fmt: skip
            return float(time(first, value, np.array([n / base]))[0])

        found.append(
            Fit(law, parameter, value, _interval(ranks, groups, fit, seed), error, seconds)
        )
    return found


def _interval(
    ranks: Floats, groups: list[Floats], fit: Callable[[Floats, Floats], tuple[float, float]],
    seed: int,
) -> tuple[float, float] | None:  # fmt: skip
    if max(len(group) for group in groups) < 2:
        return None
    chance = np.random.default_rng(seed)
    values = []
    for _ in range(SAMPLES):
        drawn = [float(np.median(chance.choice(group, len(group)))) for group in groups]
        values.append(fit(ranks, np.array(drawn))[1])
    low, high = np.percentile(values, [5, 95])
    return float(low), float(high)


def _best(
    ranks: Floats, seconds: Floats, time: Callable[[float, float, Floats], Floats]
) -> tuple[float, float]:
    """Least squares on logarithms over a serial share from 0 to 1; the first time is free."""

    def loss(share: float) -> tuple[float, float]:
        shape = np.log(time(1.0, share, ranks))
        scale = float(np.mean(np.log(seconds) - shape))
        return float(np.sum((np.log(seconds) - shape - scale) ** 2)), scale

    low, high = 0.0, 1.0
    for _ in range(40):  # one minimum in between: each turn keeps three quarters around the best
        grid = np.linspace(low, high, 9)
        best = int(np.argmin([loss(s)[0] for s in grid]))
        low, high = float(grid[max(0, best - 1)]), float(grid[min(8, best + 1)])
        if high - low < 1e-9:
            break
    share = (low + high) / 2
    share = min((0.0, share, 1.0), key=lambda s: loss(s)[0])
    return float(np.exp(loss(share)[1])), share


def _amdahl(ranks: Floats, seconds: Floats) -> tuple[float, float]:
    return _best(ranks, seconds, _amdahl_time)


def _amdahl_time(first: float, share: float, ranks: Floats) -> Floats:
    return first * (share + (1 - share) / ranks)


def _gustafson(ranks: Floats, seconds: Floats) -> tuple[float, float]:
    return _best(ranks, seconds, _gustafson_time)


def _gustafson_time(first: float, share: float, ranks: Floats) -> Floats:
    # At a serial share of 1 n ranks do in n times the time what n of them were given.
    return first / np.maximum(1 - share + share / ranks, 1e-12)


def _power(ranks: Floats, seconds: Floats) -> tuple[float, float]:
    slope, level = np.polyfit(np.log(ranks), np.log(seconds), 1)
    return float(np.exp(level)), float(slope)


def _power_time(first: float, exponent: float, ranks: Floats) -> Floats:
    return np.asarray(first * ranks**exponent)
