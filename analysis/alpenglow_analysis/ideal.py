"""The founding picture of this project: throughput over nodes, ideal and actual, each gap in GPUs.

One run gives one place on the axis of nodes. The ideals are lines from the origin there: more
replicas of the same pipeline would go along them. What was measured is a point, and no line says
what was not run; several runs give several points.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from alpenglow_analysis.facts_table import some
from alpenglow_analysis.run import Run
from alpenglow_analysis.scaling import Rate
from alpenglow_analysis.style import FAINT, INK, apart, figure, grid
from alpenglow_analysis.units import amount, count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOOKS: dict[str, tuple[str, str, str]] = {
    "compute": (FAINT, "-", ""),
    "schedule": ("#009E73", "--", ""),
    "model": ("#CC79A7", "-.", "D"),
    "steps": ("#0072B2", ":", "o"),
    "charged": ("#D55E00", ":", "s"),
    "calendar": ("#7A5195", ":", "^"),
}
"""Colour, line and marker of each rate."""
LOG_FROM = 12.0
"""With node counts that differ by this factor both axes are logarithmic."""


@dataclass(frozen=True)
class Gap:
    """What lies between two rates of one run."""

    above: Rate
    below: Rate
    equivalents: float
    """N x (above - below) / top: the gaps of a run add up to N x (1 - actual / top)."""


def shown(rates: Sequence[Rate]) -> list[Rate]:
    """The rates that are drawn, the most ideal first; the peak of the machine is off the scale."""
    return [rate for rate in rates if rate.key in LOOKS]


def gaps(run: Run, rates: Sequence[Rate]) -> list[Gap]:
    """Gaps between neighbours of `shown`, all against the first, which is the baseline."""
    drawn = shown(rates)
    ranks = run.facts.ranks
    return [
        Gap(above, below, ranks * (above.tokens_per_s - below.tokens_per_s) / drawn[0].tokens_per_s)
        for above, below in itertools.pairwise(drawn)
    ]


def ideal_and_actual(runs: Sequence[tuple[Run, Sequence[Rate]]]) -> Figure | None:
    """Draw runs, the one that the report is on first; None where nothing was measured."""
    drawn = [(run, shown(rates)) for run, rates in runs]
    drawn = [(run, rates) for run, rates in drawn if any(rate.measured for rate in rates)]
    if not drawn:
        return None
    made = figure(4.5)
    axes = made.add_subplot()
    nodes = [run.facts.nodes for run, _ in drawn]
    top = max(rate.tokens_per_s for _, rates in drawn for rate in rates)
    log = max(nodes) / min(nodes) >= LOG_FROM
    if log:
        low = min(rate.tokens_per_s for _, rates in drawn for rate in rates)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlim(min(nodes) / 1.3, max(nodes) * 1.15)
        axes.set_ylim(low / 1.6, top * 1.4)
    else:
        axes.set_xlim(0, 1.04 * max(nodes))
        axes.set_ylim(0, 1.06 * top)
    for run, rates in drawn:
        _points(axes, run.facts.nodes, rates)
    keys = dict.fromkeys(rate.key for _, rates in drawn for rate in rates)
    if len(drawn) > 1:
        _joined(axes, drawn, keys)
    axes.set_xticks(sorted({*nodes} | (set() if log else {0})))
    axes.minorticks_off()
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.yaxis.set_major_formatter(lambda value, _: count(value))
    run, rates = drawn[0]
    axes.set_xlabel("nodes" if run.facts.nodes > 1 or len(drawn) > 1 else "node")
    axes.set_ylabel("tokens/s of the whole run")
    axes.set_title(
        f"Ideal and actual throughput; gaps in {run.facts.unit}-equivalents against "
        f"'{rates[0].label.lower()}'"
    )
    grid(axes, "both")
    _flops(axes, run)
    _labels(made, axes, run, rates, named=len(drawn) > 1)
    return made


def _points(axes: Axes, nodes: int, rates: Sequence[Rate]) -> None:
    for rate in rates:
        colour, line, marker = LOOKS[rate.key]
        if not rate.measured:
            axes.plot([0, nodes], [0, rate.tokens_per_s], color=colour, ls=line, lw=1.5, zorder=2)
        axes.plot(
            [nodes], [rate.tokens_per_s], color=colour, marker=marker or "|",
            ms=7 if rate.measured else 5, zorder=4, clip_on=False, ls="",
        )  # fmt: skip
    for above, below in itertools.pairwise(rates):
        axes.plot(
            [nodes, nodes], [above.tokens_per_s, below.tokens_per_s], color=LOOKS[below.key][0],
            lw=2.4, zorder=3, solid_capstyle="butt",
        )  # fmt: skip


def _joined(axes: Axes, drawn: Sequence[tuple[Run, Sequence[Rate]]], keys: Any) -> None:
    for key in keys:
        places = sorted(
            (run.facts.nodes, rate.tokens_per_s)
            for run, rates in drawn
            for rate in rates
            if rate.key == key and rate.measured
        )
        if len(places) > 1:
            x, y = zip(*places, strict=True)
            axes.plot(x, y, color=LOOKS[key][0], ls=LOOKS[key][1], lw=1.2, zorder=2)


def _flops(axes: Axes, run: Run) -> None:
    """A second axis in model FLOP/s, where the model's FLOPs are known."""
    flops = run.facts.flops_per_token
    if not flops:
        return
    highest = axes.get_ylim()[1] * flops
    factor, name = next(
        ((f, n) for f, n in ((1e18, "EFLOP/s"), (1e15, "PFLOP/s"), (1e12, "TFLOP/s"))
         if highest >= f), (1e9, "GFLOP/s"),
    )  # fmt: skip
    scale = flops / factor
    right = axes.secondary_yaxis(
        "right", functions=(partial(np.multiply, scale), partial(np.multiply, 1 / scale))
    )
    right.set_ylabel(f"model {name}")
    right.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    right.minorticks_off()


def _labels(made: Figure, axes: Axes, run: Run, rates: Sequence[Rate], *, named: bool) -> None:
    """Name each rate of a run at the right, with its gap below the one before."""
    transform = axes.transData + axes.transAxes.inverted()
    lost = [0.0, *(gap.equivalents for gap in gaps(run, rates))]
    wanted = [float(transform.transform((1, rate.tokens_per_s))[1]) for rate in rates]
    placed = apart(wanted, 0.15, 0.05, 0.86 if named else 0.96)
    from matplotlib.transforms import ScaledTranslation

    x = 62 if run.facts.flops_per_token else 18
    total = run.facts.ranks

    def write(points: float, height: float, text: str, **looks: Any) -> None:
        axes.annotate(
            text, (1, height), xytext=(x + points, 0), xycoords="axes fraction",
            textcoords="offset points", annotation_clip=False, **looks,
        )  # fmt: skip

    if named:
        whose = f"{run.facts.name}, {some(run.facts.nodes, 'node')}:"
        write(0, 0.99, whose, fontsize=8.5, va="top", color=FAINT)
    for rate, gone, place in zip(rates, lost, placed, strict=True):
        axes.plot(
            [1], [place], marker="s", ms=6, ls="", color=LOOKS[rate.key][0], clip_on=False,
            transform=axes.transAxes + ScaledTranslation((x + 4) / 72, 0, made.dpi_scale_trans),
        )  # fmt: skip
        text = f"{count(rate.tokens_per_s)} tokens/s"
        if rate is not rates[0]:
            text += f"; {'−' if gone >= 0 else '+'}{amount(abs(gone))}"
            text += f" of {total:,} {run.facts.unit}s"
        weight = "bold" if rate.measured else "normal"
        write(14, place + 0.005, rate.label, fontsize=9, va="bottom", color=INK, fontweight=weight)
        write(14, place - 0.012, text, fontsize=8.5, va="top", color=FAINT)
