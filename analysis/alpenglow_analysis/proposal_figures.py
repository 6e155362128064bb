"""Pictures of a proposal: scaling, a step's parts, memory by stage, the request, the campaign."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from alpenglow.parallel.memory import GIGABYTE
from alpenglow_analysis import style
from alpenglow_analysis.campaign_figure import campaign_figure, choices_figure
from alpenglow_analysis.proposal import Proposal
from alpenglow_analysis.proposal_scaling import Series
from alpenglow_analysis.style import ACTUAL, FAINT, IDEAL, INK, beside, figure, grid, paint

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAINTS = {
    "products forward": "forward", "products of input gradients": "backward",
    "products of weight gradients": "weight_grad", "kernels": "compute", "host": "launch",
    "tensor collectives": "tensor", "recompute": "recompute", "p2p": "p2p", "bubble": "bubble",
    "gradient reduction": "gradient", "optimizer": "optimizer",
}  # fmt: skip
"""Part of a step -> what paints it in the report."""
MEMORY = {
    "weights": "backward", "gradients": "gradient", "optimizer": "optimizer",
    "activations": "forward", "buffers": "startup",
}  # fmt: skip


def drawings(own: Proposal) -> Iterator[tuple[str, Figure | None]]:
    """Draw all figures; None where one has no data."""
    for kind in ("strong", "weak"):
        yield kind, scaling([each for each in own.series if each.kind == kind])
    yield "step", parts(own)
    yield "memory", memory(own)
    yield "request", requested(own)
    yield "campaign", campaign_figure(own.outcome)
    yield "choices", choices_figure(own.effects)


def scaling(series: list[Series]) -> Figure | None:
    """Left: time to solution, actual and ideal; right: parallel efficiency."""
    shown = [each for each in series if len(each.points) > 1]
    if not shown:
        return None
    made = figure(3.4)
    left, right = made.subplots(1, 2)
    for each in shown:
        x = [point.processes for point in each.points]
        measured = each.mark != "P"
        word = {"M": "measured", "A": "synthetic"}.get(each.mark, "predicted")
        looks = {"color": ACTUAL if measured else IDEAL, "marker": "o" if measured else "s",
                 "ms": 5, "lw": 1.6, "ls": "-" if measured else "--",
                 "mfc": ACTUAL if measured else "none"}  # fmt: skip
        left.plot(x, [point.seconds for point in each.points], label=word, **looks)
        left.plot(x, [each.ideal(p) for p in each.points], color=FAINT, lw=1, ls=":",
                  label=f"ideal, of {word}")  # fmt: skip
        right.plot(x, [100 * each.efficiency(p) for p in each.points], label=word, **looks)
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        ticks = sorted({p.processes for each in shown for p in each.points})
        # Labels need about half a doubling's width each where two studies share the axis.
        every = -(-len(ticks) // 6)
        told = {t for i, t in enumerate(reversed(ticks)) if i % every == 0}
        axes.set_xticks(ticks, [f"{t:,}" if t in told else "" for t in ticks])
        axes.minorticks_off()
        axes.set_xlabel("nProc (ranks, one a GPU)")
        grid(axes, "both")
    kind = shown[0].kind
    if kind == "strong":
        left.set_yscale("log", base=2)
        left.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    else:
        left.set_ylim(0, 1.25 * max(p.seconds for each in shown for p in each.points))
    left.set_ylabel("seconds of a step")
    left.set_title(f"{kind.capitalize()} scaling: time to solution")
    left.legend(fontsize=8)
    best = max(100 * each.efficiency(p) for each in shown for p in each.points)
    right.set_ylim(0, 1.12 * best)
    right.axhline(100, color=FAINT, lw=1, ls=":")
    right.set_ylabel("parallel efficiency (%)")
    right.set_title("Efficiency")
    return made


def _bars(axes: Axes, rows: list[tuple[str, float, str, str]]) -> None:
    """Bars to the right: label, length, paint, words behind."""
    for y, (_, value, key, words) in enumerate(rows):
        axes.barh(y, value, height=0.62, **paint(key))
        beside(axes, 8, y, words, fontsize=8.5)
    axes.set_yticks(range(len(rows)), [row[0] for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(left=0)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.spines["left"].set_color(FAINT)
    grid(axes, "x")


def parts(own: Proposal) -> Figure:
    """Where a predicted step goes."""
    cost = own.chosen.cost
    rows = [
        (name, 1e3 * seconds, PAINTS[name], f"{100 * seconds / cost.seconds:.1f} %")
        for name, seconds in cost.parts().items()
        if seconds / cost.seconds >= 5e-4
    ]
    made = figure(0.8 + 0.27 * len(rows))
    axes = made.subplots()
    _bars(axes, rows)
    axes.set_xlabel("ms of a step, along its slowest stage")
    axes.set_title(f"A predicted step: {cost.seconds:.3g} s")
    return made


def memory(own: Proposal) -> Figure:
    """Bytes of a GPU by stage."""
    stages = own.chosen.cost.memory
    made = figure(2.9)
    axes = made.subplots()
    base = [0.0] * len(stages)
    for name, key in MEMORY.items():
        values = [stage.parts[name] / GIGABYTE for stage in stages]
        axes.bar(range(len(stages)), values, 0.7, bottom=base, label=name, **paint(key))
        base = [low + value for low, value in zip(base, values, strict=True)]
    room = own.chosen.cost.hardware.memory_bytes / GIGABYTE
    axes.axhline(room, color=ACTUAL, lw=1.4, ls="--", label=f"a GPU has {room:g} GB")
    axes.set_ylim(0, 1.08 * max(room, *base))
    axes.set_xticks(range(len(stages)))
    axes.set_xlabel("pipeline stage")
    axes.set_ylabel("GB, at least")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.set_title("Memory of a GPU by stage, predicted")
    grid(axes, "y")
    return made


def requested(own: Proposal) -> Figure:
    """Lines of the request."""
    rows = [
        (row.what, row.node_hours, "bubble" if row.contingency else "compute",
         f"{row.node_hours:,.1f}")
        for row in own.request.rows
    ]  # fmt: skip
    made = figure(0.9 + 0.27 * len(rows))
    axes = made.subplots()
    _bars(axes, rows)
    axes.set_xlabel("node-hours (hatched: contingency)")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_title(f"Request: {own.request.total:,.1f} node-hours, predicted")
    return made


def draw(own: Proposal, folder: Path) -> dict[str, str]:
    """Draw and save all figures as PNG, SVG and PDF; call it inside `style.settings()`.

    Args:
        own: the proposal.
        folder: where they go; it must exist.

    Returns:
        Name -> its `<svg>` element in the page's colours.

    Raises:
        OSError: a file cannot be written.
    """
    found = {}
    for name, made in drawings(own):
        if made is None:
            continue
        style.save_png(made, folder / f"{name}.png")
        style.save_pdf(made, folder / f"{name}.pdf")
        found[name] = style.themed(style.save_svg(made, folder / f"{name}.svg"), name)
    return found
