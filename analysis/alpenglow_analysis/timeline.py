"""The pipeline of one step as a picture: stages as rows, micro-batches as numbered boxes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from alpenglow.parallel.layout import Layout
from alpenglow_analysis.run import Run
from alpenglow_analysis.style import ON_COLOUR, ON_DARK, WIDTH, figure, paint
from alpenglow_analysis.utilisation import LABELS, PIECE_OF_KIND, Account
from alpenglow_profiling.kind import OUTER, Kind, Rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_ROWS = 16
"""With more ranks than this a row is one rank of each stage: data rank 0, tensor rank 0."""
_OWN_COLOUR = {Kind.FORWARD: "forward", Kind.BACKWARD: "backward", Kind.WEIGHT_GRAD: "weight_grad"}
_NAMES = {"forward": "Forward", "backward": "Backward", "weight_grad": "Weight gradient"}
_INPUT_ONLY = "Backward (of the input)"
"""What a backward pass is called where weight gradients are passes of their own."""
SMALLEST_TEXT = 4.0
"""Points; a box too narrow for its number at this size has none."""
_DIGIT = 0.636
"""Width of a digit of DejaVu Sans, in its size."""
_LIGHT_TEXT = ("backward", "weight_grad")


def median_step(run: Run, account: Account) -> int | None:
    """The step whose duration is nearest to the median, of those that have spans inside.

    None if there is none.
    """
    kept = [events.kept for events in run.events.values()]
    there = np.isin(account.step, np.concatenate([np.zeros(0, np.int64), *kept]))
    if not there.any():
        return None
    away = np.abs(account.step_s[there] - np.median(account.step_s))
    return int(account.step[there][int(np.argmin(away))])


def rows_of_step(run: Run, step: int) -> Rows | None:
    """Spans of a step in the last segment that trained all of it; None if none did."""
    for segment in reversed(run.segments):
        if segment.name not in run.events:
            continue
        rows = run.events[segment.name].spans([step])
        if (rows["kind"] == Kind.STEP).any():
            return rows
    return None


def shown_ranks(layout: Layout) -> list[int]:
    """The ranks that get a row, first stage first."""
    if layout.world <= MOST_ROWS:
        return list(range(layout.world))
    return [layout.rank(stage, 0, 0) for stage in range(layout.pipeline)]


def timeline(run: Run, step: int) -> Figure | None:
    """Draw a step; None where no span of it is known."""
    layout = run.facts.layout
    shown = shown_ranks(layout)
    drawn = spans_of_step(run, step, shown)
    if drawn is None:
        return None
    rows, begin, end = drawn
    made = figure(1.7 + 0.36 * len(shown))
    axes = made.add_subplot()
    used: dict[str, Any] = {}
    draw(axes, layout, shown, rows, begin, (end - begin) / 1e6, used)
    axes.set_xlabel("time since the step began (ms)")
    which = "" if len(shown) == layout.world else ", one rank of each stage"
    axes.set_title(f"Step {step}{which}; the number in a box is the micro-batch")
    legend(made, used)
    return made


def spans_of_step(run: Run, step: int, shown: list[int]) -> tuple[Rows, int, int] | None:
    """Spans inside a step of some ranks, and its begin and end in ns; None where there are none."""
    rows = rows_of_step(run, step)
    if rows is None:
        return None
    whole = rows[(rows["kind"] == Kind.STEP) & np.isin(rows["rank"], shown)]
    # A checkpoint or an evaluation after the step carries its number, and is no part of it.
    rows = rows[np.isin(rows["rank"], shown) & ~np.isin(rows["kind"], [*OUTER])]
    if not len(whole):
        return None
    begin, end = int(whole["begin_ns"].min()), int(whole["end_ns"].max())
    return rows[(rows["begin_ns"] >= begin) & (rows["begin_ns"] < end)], begin, end


def draw(
    axes: Axes,
    layout: Layout,
    shown: list[int],
    rows: Rows,
    begin: int,
    span_ms: float,
    used: dict[str, Any],
) -> None:
    """Draw the rows of ranks from `begin` (ns) on; `used` gets what the legend must name."""
    axes.set_xlim(0, 1.005 * span_ms)
    points_per_ms = 0.86 * WIDTH * 72 / span_ms
    for y, rank in enumerate(shown):
        _draw_rank(axes, y, rows[rows["rank"] == rank], begin, points_per_ms, used)
    labels = []
    for rank in shown:
        stage, data, tensor = layout.coordinates(rank)
        whose = f"  d{data} t{tensor}" if len(shown) == layout.world > layout.pipeline else ""
        labels.append(f"stage {stage}{whose}  rank {rank}")
    axes.set_yticks(range(len(shown)), labels)
    for y in range(1, len(shown)):
        if layout.coordinates(shown[y])[0] != layout.coordinates(shown[y - 1])[0]:
            axes.axhline(y - 0.5, color="#999999", lw=0.6)
    axes.set_ylim(len(shown) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)


def legend(made: Figure, used: dict[str, Any], backward: str = _INPUT_ONLY) -> None:
    """Name what was drawn; `backward` is the name beside weight gradients."""
    order = [name for name in (*_NAMES, *LABELS) if name in used]
    names = _NAMES | ({"backward": backward} if "weight_grad" in used else {})
    made.legend(
        [used[name] for name in order], [names.get(name) or LABELS[name] for name in order],
        loc="outside lower center", ncols=3, fontsize=9, handlelength=1.6,
    )  # fmt: skip


def _draw_rank(
    axes: Axes, y: int, rows: Rows, begin: int, points_per_ms: float, used: dict[str, Any]
) -> None:
    """One row: boxes for spans, a collective inside a pass as a strip along its foot."""
    order = np.lexsort((-rows["end_ns"], rows["begin_ns"]))
    reach = -1
    for row in rows[order]:
        kind = Kind(int(row["kind"])) if int(row["kind"]) in Kind._value2member_map_ else None
        if kind is None:
            continue
        name = _OWN_COLOUR.get(kind, PIECE_OF_KIND[kind])
        left = (int(row["begin_ns"]) - begin) / 1e6
        width = (int(row["end_ns"]) - int(row["begin_ns"])) / 1e6
        nested = int(row["end_ns"]) <= reach
        foot, height = (y + 0.2, 0.2) if nested else (y - 0.4, 0.8)
        bar = axes.barh(foot, width, left=left, height=height, align="edge", **paint(name))
        used.setdefault(name, bar)
        reach = max(reach, int(row["end_ns"]))
        number = int(row["micro_batch"])
        text = str(number)
        if nested or name not in _OWN_COLOUR.values() or number < 0:
            continue
        size = min(8.0, (width * points_per_ms - 1.5) / (_DIGIT * len(text)))
        if size >= SMALLEST_TEXT:
            colour = ON_DARK if name in _LIGHT_TEXT else ON_COLOUR
            axes.text(
                left + width / 2, y - 0.04, text, ha="center", va="center", fontsize=size,
                color=colour,
            )  # fmt: skip
