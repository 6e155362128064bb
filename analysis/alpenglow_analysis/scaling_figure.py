"""Pictures of a scaling study: time to solution and efficiency, rates and communication."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from alpenglow_analysis.scaling_fit import Fit
from alpenglow_analysis.scaling_predicted import Predicted
from alpenglow_analysis.scaling_study import ScalingStudy, Series
from alpenglow_analysis.style import ACTUAL, FAINT, IDEAL, figure, grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOOKS = {"strong": (IDEAL, "o"), "weak": (ACTUAL, "s")}
PREDICTED = "#7A5195"


def series_figure(series: Series, fits: list[Fit], ahead: Predicted, error: float) -> Figure:
    """Left: seconds of a step, measured, ideal, fitted, predicted. Right: efficiency."""
    made = figure(3.3)
    left, right = made.subplots(1, 2)
    ranks = [p.ranks for p in series.points]
    seconds = [p.seconds for p in series.points]
    ideal = [series.ideal(p) for p in series.points]
    left.plot(ranks, ideal, "--", lw=1.2, color=FAINT, label="ideal")
    if ahead:
        there = [ahead[i] for i in range(len(ranks))]
        low, high = ([v * (1 + sign * error) for v in there] for sign in (-1, 1))
        left.fill_between(ranks, low, high, color=PREDICTED, alpha=0.15, lw=0)
        left.plot(ranks, there, "-.", lw=1.2, color=PREDICTED, label="predicted")
    for fit in fits[:1]:
        line = np.geomspace(ranks[0], ranks[-1], 60)
        left.plot(line, [fit.seconds(n) for n in line], ":", lw=1.2, color=IDEAL,
                  label=f"{fit.law}, fitted")  # fmt: skip
    left.plot(ranks, seconds, "o-", ms=4.5, lw=1.6, color=IDEAL, label="measured")
    for point in series.points:
        values = [r.seconds for r in point.repeats]
        left.plot([point.ranks] * len(values), values, "_", ms=7, color=IDEAL, alpha=0.6)
    _log_ranks(left, ranks)
    if series.kind == "strong":
        left.set_yscale("log")
    else:
        left.set_ylim(bottom=0)
    left.set_ylabel("seconds of a step")
    left.set_title(f"{series.kind.capitalize()} scaling: time to solution")
    left.legend(fontsize=8)
    grid(left, "both")
    right.plot(ranks, [100 * series.efficiency(p) for p in series.points], "o-", ms=4.5, lw=1.6,
               color=IDEAL)  # fmt: skip
    right.axhline(100, ls="--", lw=1.2, color=FAINT)
    _log_ranks(right, ranks)
    right.set_ylim(0, 112)
    right.set_ylabel("% parallel efficiency")
    right.set_title("Efficiency: ideal / measured")
    grid(right, "both")
    return made


def rates_figure(study: ScalingStudy) -> Figure:
    """Left: tokens a second of all ranks. Right: communication's share of their time."""
    made = figure(3.1)
    left, right = made.subplots(1, 2)
    every = sorted({p.ranks for s in study.series for p in s.points})
    for series in study.series:
        colour, marker = LOOKS[series.kind]
        ranks = [p.ranks for p in series.points]
        rate = [p.tokens_per_second for p in series.points]
        left.plot(ranks, rate, f"{marker}-", ms=4.5, lw=1.5, color=colour, label=series.kind)
        first = series.points[0]
        left.plot(ranks, [first.tokens_per_second * r / first.ranks for r in ranks], "--", lw=1.0,
                  color=FAINT)  # fmt: skip
        known = [(p.ranks, 100 * p.communication) for p in series.points
                 if p.communication is not None]  # fmt: skip
        if known:
            right.plot(*zip(*known, strict=True), f"{marker}-", ms=4.5, lw=1.5, color=colour,
                       label=series.kind)  # fmt: skip
    for axes in (left, right):
        _log_ranks(axes, every)
        grid(axes, "both")
    left.set_yscale("log")
    left.set_ylabel("tokens/s")
    left.set_title("Rate (dashed: ideal)")
    left.legend(fontsize=8)
    right.set_ylim(0, 100)
    right.set_ylabel("% of ranks' time in steps")
    right.set_title("In messages and collectives, waiting included")
    return made


def _log_ranks(axes: Axes, ranks: list[int]) -> None:
    if len(ranks) > 1:
        axes.set_xscale("log", base=2)
    axes.set_xticks(ranks, [f"{n:,}" for n in ranks])
    axes.minorticks_off()
    axes.set_xlabel("nProc (ranks)")
