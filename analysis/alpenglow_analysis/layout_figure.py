"""Pictures of a search: time against memory, and where the time of chosen layouts goes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from alpenglow_analysis.search import Choice, Search, room
from alpenglow_analysis.style import (
    ACTUAL,
    FAINT,
    IDEAL,
    INK,
    beside,
    figure,
    grid,
    paint,
)
from alpenglow_analysis.units import seconds

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PARTS = {
    "compute": ("products forward", "products of input gradients", "products of weight gradients",
                "kernels", "host"),
    "recompute": ("recompute",),
    "tensor": ("tensor collectives",),
    "p2p": ("p2p",),
    "bubble": ("bubble",),
    "gradient": ("gradient reduction",),
    "optimizer": ("optimizer",),
}  # fmt: skip
"""Colour -> parts of a step that share it."""
WORDS = {
    "compute": "compute", "recompute": "recompute", "tensor": "tensor collectives", "p2p": "p2p",
    "bubble": "bubble", "gradient": "gradient reduction", "optimizer": "optimizer",
}  # fmt: skip


def front_figure(found: Search, named: Sequence[tuple[str, Choice]]) -> Figure:
    """Every layout that fits as a point; those that nothing beats joined; named ones marked."""
    made = figure(3.6)
    axes = made.subplots()
    limit = 4 * found.best.seconds
    shown = [each for each in found.found if each.seconds <= limit]
    axes.plot(
        [each.seconds for each in shown], [each.memory.total / 1e9 for each in shown],
        ".", ms=3, color=FAINT, alpha=0.35, rasterized=True,
    )  # fmt: skip
    front = [each for each in found.front if each.seconds <= limit]
    axes.plot(
        [each.seconds for each in front], [each.memory.total / 1e9 for each in front],
        "o-", ms=3.5, lw=1.2, color=IDEAL,
    )  # fmt: skip
    for label, each in named:
        at = (each.seconds, each.memory.total / 1e9)
        axes.plot(*at, "D", ms=6, color=ACTUAL)
        axes.annotate(label, at, xytext=(8, 6), textcoords="offset points", fontsize=8.5)
    axes.axhline(room(found.run) / 1e9, color=INK, lw=0.8, ls="--")
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0.9 * found.best.seconds)
    axes.set_xlabel("seconds of a step, predicted")
    axes.set_ylabel("GB of the fullest GPU")
    axes.set_title(f"{len(found.found):,} layouts that fit; none beats those on the line")
    grid(axes, "both")
    return made


def parts_figure(named: Sequence[tuple[str, Choice]]) -> Figure:
    """A bar a layout, by part."""
    made = figure(0.9 + 0.55 * len(named))
    axes = made.subplots()
    longest = max(each.seconds for _, each in named)
    for y, (_, each) in enumerate(named):
        parts, left = each.cost.parts(), 0.0
        for key, names in PARTS.items():
            width = sum(parts[name] for name in names)
            axes.barh(
                y, width, left=left, height=0.6, label=WORDS[key] if y == 0 else None, **paint(key)
            )
            left += width
        beside(axes, 5, y, seconds(each.seconds), fontsize=8.5)
    axes.set_yticks(range(len(named)), [label for label, _ in named])
    axes.set_ylim(len(named) - 0.4, -0.6)
    axes.set_xlim(0, 1.02 * longest)
    axes.set_xlabel("seconds of a step along its slowest stage, predicted")
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    made.legend(
        *axes.get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False,
        fontsize=8.5,
    )  # fmt: skip
    grid(axes, "x")
    return made
