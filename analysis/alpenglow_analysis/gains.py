"""What-if scenarios as bars: how much of a step each change would take away or add."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from alpenglow_analysis.run import Run
from alpenglow_analysis.style import ACTUAL, FAINT, IDEAL, INK, beside, figure, grid
from alpenglow_analysis.units import seconds
from alpenglow_analysis.whatif import Scenario

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def gains(run: Run, changes: Sequence[Scenario]) -> Figure | None:
    """Draw them, the biggest gain on top; None where there are none."""
    if not changes:
        return None
    made = figure(1.1 + 0.3 * len(changes))
    axes = made.add_subplot()
    for y, change in enumerate(changes):
        shorter = change.gain >= 0
        axes.barh(
            y, 100 * change.gain, height=0.62, facecolor=IDEAL if shorter else ACTUAL,
            hatch="" if shorter else "///", edgecolor="#777777", linewidth=0.4,
        )  # fmt: skip
        sign = "−" if shorter else "+"
        text = f"{sign}{100 * abs(change.gain):.1f} %, {seconds(change.step_s)} a step"
        beside(axes, 8, y, text, fontsize=8.5)
    axes.axvline(0, color=INK, lw=0.8)
    axes.set_yticks(range(len(changes)), [change.label for change in changes])
    axes.set_ylim(len(changes) - 0.4, -0.6)
    low, high = (f(0.0, *(100 * change.gain for change in changes)) for f in (min, max))
    axes.set_xlim(low - 0.04 * (high - low + 1), high + 0.04 * (high - low + 1))
    axes.set_xlabel("share of a step that the change takes away (%)")
    axes.set_title("What one change would bring")
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.spines["left"].set_color(FAINT)
    grid(axes, "x")
    return made
