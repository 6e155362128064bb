"""What a step is made of on each rank, and the curves of a run. No global state is touched.

What a figure shows is decided here, how it looks in `style.py`. Call them inside
`style.settings()`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from alpenglow_analysis.run import Run
from alpenglow_analysis.scaling import Rate
from alpenglow_analysis.style import FAINT, INK, figure, grid, paint
from alpenglow_analysis.units import count
from alpenglow_analysis.utilisation import IN_STEP, LABELS, Account

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STACK = (
    "compute", "recompute", "tensor", "gradient", "optimizer", "data", "pipeline", "inside",
)  # fmt: skip
"""`IN_STEP` from the foot of a bar to its top: work below, waiting above."""
MOST_RANKS = 128
"""More bars than this do not read: then a bar is the mean of a stage."""


def ranks(run: Run, account: Account) -> Figure | None:
    """What a mean step of each rank is made of, grouped by pipeline stage; None without steps."""
    if not len(account.step):
        return None
    layout = run.facts.layout
    stage = np.array([layout.coordinates(rank)[0] for rank in range(layout.world)])
    pieces, names = account.step_pieces, "rank"
    if layout.world > MOST_RANKS:
        pieces = np.array([pieces[stage == s].mean(axis=0) for s in range(layout.pipeline)])
        stage, names = (
            np.arange(layout.pipeline),
            f"mean of {layout.world // layout.pipeline} ranks",
        )
    scale, time_unit = (1e3, "ms") if account.step_s.mean() < 1 else (1.0, "s")
    gap = max(0.6, 0.02 * len(stage))
    x = np.arange(len(stage)) + gap * stage
    made = figure(4.4)
    axes = made.add_subplot()
    bottom, many = np.zeros(len(stage)), len(stage) > 48
    for name in STACK:
        height = pieces[:, IN_STEP.index(name)] * scale
        if height.max() <= 0:
            continue
        fill = paint(name) | ({"linewidth": 0.0} if many else {})
        width = 1.0 if many else 0.86
        axes.bar(x, height, bottom=bottom, width=width, label=LABELS[name], **fill)
        bottom += height
    median = float(np.median(account.step_s)) * scale
    axes.axhline(median, color=INK, lw=1, ls="--", label="Duration of the median step")
    _name_stages(axes, x, stage, names)
    axes.set_ylabel(f"mean time in a step ({time_unit})")
    axes.set_title("What a step is made of, rank by rank")
    axes.set_ylim(0, max(float(bottom.max()), median) * 1.06)
    axes.set_xlim(x[0] - 0.8, x[-1] + 0.8)
    handles, labels = axes.get_legend_handles_labels()
    made.legend(
        handles[::-1], labels[::-1], loc="outside lower center", ncols=3, fontsize=9,
        handlelength=1.6, columnspacing=1.6,
    )  # fmt: skip
    grid(axes, "y")
    return made


def _name_stages(axes: Axes, x: Any, stage: Any, names: str) -> None:
    """Rank numbers under the bars, as many as fit, and the stage under each group."""
    if names == "rank":
        every = max(1, -(-len(x) // 32))
        firsts = np.searchsorted(stage, stage)
        shown = (np.arange(len(x)) - firsts) % every == 0 if every > 1 else np.ones(len(x), bool)
        axes.set_xticks(x[shown], [str(rank) for rank in np.flatnonzero(shown)])
    else:
        axes.set_xticks([])
    axes.tick_params(axis="x", length=0, labelsize=8.5 if len(x) <= 32 else 7.5)
    stages = np.unique(stage)
    middle = [float(x[stage == s].mean()) for s in stages]
    second = axes.secondary_xaxis(-0.07)
    second.set_xticks(middle, [f"stage {s}" if len(stages) <= 8 else str(s) for s in stages])
    second.tick_params(length=0, labelsize=9)
    second.spines["bottom"].set_visible(False)
    word = "pipeline stage" if len(stages) > 8 else "grouped by pipeline stage"
    second.set_xlabel(f"{names}, above its {word}" if len(stages) > 8 else f"{names}, {word}")


def curves(run: Run, found: list[Rate]) -> Figure | None:
    """Loss and tokens/s over the steps that count, segments marked; None without steps."""
    metrics = run.metrics
    if not len(metrics):
        return None
    made = figure(5.2)
    loss, speed = made.subplots(2, 1, sharex=True)
    few = len(metrics) <= 40
    style = {"color": "#9CC9E3", "lw": 0.9, "marker": "o" if few else "", "ms": 3}
    for axes, name in ((loss, "loss"), (speed, "tokens_per_s")):
        axes.plot(metrics.step, metrics[name], label="each step", **style)
        smooth = _running_median(metrics[name])
        if smooth is not None:
            width = _window(len(metrics))
            axes.plot(
                metrics.step, smooth, color="#0072B2", lw=1.8, label=f"median of {width} steps"
            )
        grid(axes, "both")
    seen = ~np.isnan(metrics["val_loss"])
    held_out = []
    if seen.any():
        values = metrics["val_loss"][seen]
        held_out = loss.plot(
            metrics.step[seen], values, color="#CC79A7", marker="D", ms=5, lw=1.2,
            label="loss on held-out text",
        )  # fmt: skip
    dashes = {"compute": (":", "#D55E00"), "schedule": ("--", "#009E73")}
    for rate in found:
        if rate.key in dashes:
            line, colour = dashes[rate.key]
            speed.axhline(rate.tokens_per_s, ls=line, color=colour, lw=1.4, label=rate.label)
    speed.set_ylim(bottom=0)
    borders = [i for i in range(1, len(metrics)) if metrics.segment[i] != metrics.segment[i - 1]]
    for axes in (loss, speed):
        for i in borders:
            axes.axvline(metrics.step[i] - 0.5, color=FAINT, lw=0.9, ls=(0, (2, 2)))
    height = loss.get_xaxis_transform()
    if len(borders) <= 8:
        for i in [0, *borders]:
            loss.text(
                metrics.step[i], 1.01, f" job {metrics.segment[i]}", transform=height,
                fontsize=8, color=FAINT, va="bottom",
            )  # fmt: skip
    last = float(metrics.step[-1])
    speed.set_xlim(metrics.step[0] - 0.01 * last, 1.01 * last)
    loss.set_ylabel("loss (nats a token)")
    speed.set_ylabel("tokens/s")
    speed.set_xlabel("step")
    speed.yaxis.set_major_formatter(lambda value, _: count(value))
    loss.set_title("Loss and throughput of the steps that count", pad=20)
    speed.xaxis.get_major_locator().set_params(integer=True)
    handles, labels = speed.get_legend_handles_labels()
    handles, labels = [*handles, *held_out], [*labels, *(line.get_label() for line in held_out)]
    made.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9)
    return made


def _window(steps: int) -> int:
    return max(3, steps // 20) | 1


def _running_median(values: Any) -> Any:
    """Median over a window of about a twentieth of the run; None for a short one."""
    if len(values) < 20:
        return None
    width = _window(len(values))
    padded = np.pad(values, width // 2, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, width)
    return np.median(windows, axis=1)
