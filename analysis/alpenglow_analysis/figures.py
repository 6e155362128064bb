"""The report's figures. Each function draws one on a figure of its own; no global state is touched.

What a figure shows is decided here, how it looks in `style.py`. Call them inside
`style.settings()`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from alpenglow_analysis.run import Run
from alpenglow_analysis.scaling import Rate, idle_equivalents
from alpenglow_analysis.style import COLOURS, FAINT, INK, figure, grid, paint
from alpenglow_analysis.units import count, percent, work
from alpenglow_analysis.utilisation import IN_STEP, LABELS, PIECES, Account

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STACK = (
    "compute", "recompute", "tensor", "gradient", "optimizer", "data", "pipeline", "inside",
)  # fmt: skip
"""`IN_STEP` from the foot of a bar to its top: work below, waiting above."""
MOST_RANKS = 128
"""More bars than this do not read: then a bar is the mean of a stage."""
SMALL = 0.0005
"""Pieces below this share of the charge share one bar of the waterfall."""


def waterfall(run: Run, account: Account) -> Figure:
    """From what was charged down to useful compute, one bar a loss."""
    unit = run.facts.unit
    charged = max(1, account.charged_ns)
    bars: list[tuple[str, str, int]] = []
    small = 0
    for key, label in PIECES.items():
        ns = account.pieces[key]
        if key == "compute":
            continue
        if ns / charged >= SMALL:
            bars.append((key, label, ns))
        else:
            small += ns
    if small:
        bars.append(("unrecorded", "All smaller losses", small))
    made = figure(1.2 + 0.36 * (len(bars) + 2))
    axes = made.add_subplot()
    left = charged
    rows = [("charged", "Charged", 0, charged)]
    for key, label, ns in bars:
        left -= ns
        rows.append((key, label, left, ns))
    rows.append(("compute", PIECES["compute"], 0, left))
    for y, (key, _, begin, ns) in enumerate(rows):
        fill = paint(key) if key in COLOURS else {"facecolor": "#444444"}
        axes.barh(y, 100 * ns / charged, left=100 * begin / charged, height=0.72, **fill)
        text = f"{percent(ns / charged)}  ({work(ns, charged, unit)})"
        right = 100 * (begin + ns) / charged
        inside = right > 70
        # Beside a bar that ends far right there is room on its left only, or inside a long one.
        x = 100 * begin / charged - 0.8 if inside and begin > 0 else right + 0.8
        align = "right" if inside and begin > 0 else "left"
        if inside and begin == 0:
            x, align = 1.2, "left"
        white = inside and begin == 0
        axes.text(x, y, text, va="center", ha=align, color="white" if white else INK, fontsize=9)
        if y + 1 < len(rows):
            axes.plot([100 * begin / charged] * 2, [y, y + 1], color="#BBBBBB", lw=0.7, zorder=0)
    axes.set_yticks(range(len(rows)), [label for _, label, _, _ in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel(f"share of the charged {unit}-hours (%)")
    axes.set_title(f"From charged {unit}-hours to useful compute")
    axes.tick_params(axis="y", length=0)
    grid(axes, "x")
    return made


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


def ideal_and_actual(run: Run, found: list[Rate]) -> Figure | None:
    """Ideal and actual tokens/s as bars, each gap in ranks or GPUs; None with nothing measured."""
    shown = [rate for rate in found if rate.key != "peak"]
    if not any(rate.measured for rate in shown):
        return None
    top = shown[0]
    made = figure(1.1 + 0.55 * len(shown))
    axes = made.add_subplot()
    for y, rate in enumerate(shown):
        fill: dict[str, Any] = {"facecolor": "#0072B2"}
        if not rate.measured:
            fill = {"facecolor": "#DCEBF5", "edgecolor": "#0072B2", "linewidth": 1.0, "hatch": "//"}
        axes.barh(y, rate.tokens_per_s, height=0.62, **fill)
        text = f"{count(rate.tokens_per_s)} tokens/s"
        if rate is not top and not top.measured:
            lost = idle_equivalents(run.facts.ranks, rate.tokens_per_s, top.tokens_per_s)
            text += f"\n{lost:.3g} of {run.facts.ranks} {run.facts.unit}s idle"
        axes.text(
            rate.tokens_per_s + 0.008 * top.tokens_per_s, y, text, va="center", fontsize=9,
            linespacing=1.35,
        )  # fmt: skip
    axes.set_yticks(range(len(shown)), [rate.label for rate in shown])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.24 * max(rate.tokens_per_s for rate in shown))
    axes.set_xlabel("tokens/s of the whole run")
    axes.set_title(
        "Ideal and actual throughput"
        + ("" if top.measured else f"; idle counted against '{top.label.lower()}'")
    )
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_formatter(lambda value, _: count(value))
    grid(axes, "x")
    return made


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
