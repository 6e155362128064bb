"""Pictures of a campaign: how long it takes and what it charges, and what each choice changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from alpenglow_analysis.campaign_choices import Effect
from alpenglow_analysis.campaign_outcome import PIECES, STEPS, Outcome, percentiles
from alpenglow_analysis.style import (
    ACTUAL,
    COLOURS,
    FAINT,
    IDEAL,
    INK,
    beside,
    figure,
    grid,
    paint,
)
from alpenglow_analysis.units import hours, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def campaign_figure(outcome: Outcome) -> Figure:
    """Left: in how many campaigns the run is over by which day. Right: the node-hours in pieces."""
    made = figure(3.3)
    left, right = made.subplots(1, 2, width_ratios=[1, 1.15])
    days = np.sort(outcome.days)
    share = 100 * (np.arange(len(days)) + 1) / len(days)
    left.plot(days, share, color=IDEAL, lw=1.8, drawstyle="steps-post")
    spans = percentiles(outcome.days)
    for value, at in zip(spans, (10, 50, 90), strict=True):
        left.plot([value], [at], "o", ms=4, color=ACTUAL)
        left.annotate(
            f"{value:.3g} days", (value, at), xytext=(7, -3), textcoords="offset points",
            fontsize=8.5, va="top",
        )  # fmt: skip
    left.set_ylim(0, 100)
    left.set_yticks([0, 10, 25, 50, 75, 90, 100])
    # The last hundredth of campaigns would take half the width.
    left.set_xlim(left=0, right=1.12 * float(np.percentile(days, 99)))
    left.set_xlabel("calendar days, queue included")
    left.set_ylabel("% of campaigns that are over")
    left.set_title("How long")
    grid(left, "both")
    _pieces(right, outcome)
    return made


def _pieces(axes: Axes, outcome: Outcome) -> None:
    """All pieces but the steps that count as bars; those are told in the title."""
    split = {name: value for name, value in outcome.split().items() if name != STEPS and value}
    total = float(outcome.node_hours.mean())
    for y, (name, value) in enumerate(split.items()):
        axes.barh(y, 100 * value / total, height=0.62, **paint(name))
        beside(axes, 8, y, f"{percent(value / total)}, {hours(value)} node-h", fontsize=8.5)
    axes.set_yticks(range(len(split)), [_short(name) for name in split])
    axes.set_ylim(len(split) - 0.4, -0.6)
    axes.set_xlim(left=0)
    axes.set_xlabel("% of the node-hours, mean")
    useful = outcome.split()[STEPS] / total
    axes.set_title(f"What is no step that counts: {percent(1 - useful)}")
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.spines["left"].set_color(FAINT)
    grid(axes, "x")


SHORT = {
    "unused": "Spare nodes",
    "launch": "Shutdown",
    "restart": "Reading checkpoints",
    "lost": "Lost steps",
    "checkpoint": "Checkpoints",
    "slow_ranks": "Slow nodes",
}
"""Words for labels of a narrow figure; PIECES has them whole."""


def _short(name: str) -> str:
    assert name in COLOURS
    return SHORT.get(name, PIECES[name])


def choices_figure(effects: Sequence[Effect]) -> Figure | None:
    """Bars of what each choice changes, days and node-hours side by side; None without choices."""
    if not effects:
        return None
    groups: dict[str, list[Effect]] = {}
    for effect in effects:
        groups.setdefault(effect.choice.group, []).append(effect)
    ordered = sorted(groups.values(), key=lambda group: -max(_weight(each) for each in group))
    rows = [each for group in ordered for each in sorted(group, key=lambda e: e.days)]
    base = effects[0].base
    days, charged = percentiles(base.days)[1], percentiles(base.node_hours)[1]
    made = figure(1.2 + 0.27 * len(rows))
    left, right = made.subplots(1, 2, sharey=True)
    columns = (
        (left, "calendar days", [each.days / days for each in rows]),
        (right, "node-hours", [each.node_hours / charged for each in rows]),
    )
    for axes, what, values in columns:
        reach = max(2.0, *(100 * abs(value) for value in values))
        # One choice that turns all over would flatten the others.
        others = sorted(100 * abs(value) for value in values)
        reach = min(reach, max(5.0, 1.3 * others[-3] if len(others) > 2 else reach))
        for y, value in enumerate(values):
            _bar(axes, y, 100 * value, reach)
        axes.axvline(0, color=INK, lw=0.8)
        axes.set_xlim(-1.42 * reach, 1.42 * reach)
        axes.set_xlabel(f"change of {what}, median (%)")
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.spines["left"].set_color(FAINT)
        grid(axes, "x")
    left.set_yticks(range(len(rows)), [each.choice.label for each in rows])
    left.set_ylim(len(rows) - 0.4, -0.6)
    left.set_title(f"Days ({days:.3g} as planned)")
    right.set_title(f"Node-hours ({hours(charged)})")
    return made


def _weight(effect: Effect) -> float:
    base = effect.base
    days, charged = percentiles(base.days)[1], percentiles(base.node_hours)[1]
    return max(abs(effect.days) / days, abs(effect.node_hours) / charged)


def _bar(axes: Axes, y: int, value: float, reach: float) -> None:
    """A bar with its number at its end; one that is longer than the axis is cut and says so."""
    shown = max(-reach, min(reach, value))
    less = value < 0
    axes.barh(
        y, shown, height=0.62, facecolor=IDEAL if less else ACTUAL, hatch="" if less else "///",
        edgecolor="#777777", linewidth=0.4,
    )  # fmt: skip
    text = f"{value:+.3g}".replace("-", "−") if abs(value) >= 0.05 else "0"
    cut = "…" if abs(value) > reach else ""
    axes.annotate(
        cut + text, (shown, y), xytext=(-4 if less else 4, 0), textcoords="offset points",
        ha="right" if less else "left", va="center", fontsize=8,
    )  # fmt: skip
