"""Pictures of simulated steps: how long they take, and what each disturbance takes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from alpenglow.parallel.slowdown import Cost, Slowdown
from alpenglow_analysis.style import ACTUAL, FAINT, IDEAL, INK, beside, figure, grid, paint
from alpenglow_analysis.units import amount, percent, seconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOOKS = {"slow_links": "p2p", "hiccups": "checkpoint"}
"""Disturbance -> the piece whose colour it has, where there is none of its own name."""
WORDS = {
    "slow_ranks": "Slow ranks",
    "jitter": "Jitter",
    "slow_links": "Slow links",
    "hiccups": "Pauses",
}


def simulate_figure(found: Slowdown) -> Figure:
    """Left: lengths of steps as a histogram. Right: GPUs lost, alone and together."""
    made = figure(1.9 + 0.34 * max(3, len(found.costs)))
    left, right = made.subplots(1, 2, width_ratios=[1, 1.1])
    _steps(left, found)
    _losses(right, found)
    return made


def _steps(axes: Axes, found: Slowdown) -> None:
    got = found.together
    axes.hist(
        got.seconds, bins=min(40, max(8, len(got.seconds) // 8)), color=ACTUAL, alpha=0.85, lw=0
    )
    axes.axvline(got.undisturbed, color=IDEAL, lw=1.8)
    # Room on the left, where the undisturbed step is the leftmost thing.
    low, high = got.undisturbed, float(got.seconds.max())
    axes.set_xlim(low - 0.06 * (high - low) - 1e-9, high + 0.06 * (high - low) + 1e-9)
    axes.annotate(
        f"undisturbed\n{seconds(got.undisturbed)}", (got.undisturbed, 1), xytext=(5, -2),
        xycoords=axes.get_xaxis_transform(), textcoords="offset points", va="top", fontsize=8.5,
    )  # fmt: skip
    axes.set_xlabel("seconds of a step")
    axes.set_ylabel("simulated steps")
    axes.set_title(f"Mean {seconds(got.mean)}, S = {got.slowdown:.3f}")
    grid(axes, "y")


def _losses(axes: Axes, found: Slowdown) -> None:
    labels = ["Together"]
    start = 0.0
    for cost in found.costs:
        width = found.equivalents(cost.added)
        axes.barh(0, width, left=start, height=0.62, **_paint(cost))
        start += width
    world = found.together.job.layout.world
    beside(axes, 8, 0, f"{amount(start)} GPUs, {percent(start / world)}", fontsize=8.5)
    for y, cost in enumerate(found.costs, 1):
        alone = max(0.0, found.alone(cost))
        axes.barh(y, alone, height=0.62, **_paint(cost))
        beside(axes, 8, y, f"{amount(alone)} GPUs", fontsize=8.5)
        labels.append(f"{word(cost)} alone")
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_xlim(left=0)
    axes.set_xlabel(f"GPUs lost of {world:,}")
    axes.set_title("What disturbances take")
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.spines["left"].set_color(FAINT)
    grid(axes, "x")


def word(cost: Cost) -> str:
    """A disturbance in one or two words."""
    per = getattr(cost.disturbance, "per", None)
    return f"Slow {'nodes' if per == 'node' else 'GPUs'}" if per else WORDS[cost.disturbance.key]


def _paint(cost: Cost) -> dict[str, Any]:
    key = cost.disturbance.key
    return paint(LOOKS.get(key, key))
