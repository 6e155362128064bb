"""Every rank in every step: its own compute beside the median of its peers.

A run of thousands of ranks and steps has more cells than a page has points. A drawn cell is then
the slowest of a few neighbouring ranks, each by its mean over a few neighbouring steps: a rank that
is slow for long keeps its colour, one slow step of one rank is thinned out. The title says how many
of each.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from alpenglow_analysis.heat import Heat
from alpenglow_analysis.run import Run
from alpenglow_analysis.style import FAINT, figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Cells = npt.NDArray[np.float64]

MOST_ROWS, MOST_COLUMNS = 384, 720
MOST_NAMED = 12


def binned(cells: Cells, ranks: int, steps: int) -> Cells:
    """The slowest of `ranks` neighbouring ranks, each by its mean over `steps` neighbours.

    Args:
        cells: [all ranks, all steps]; nan is left out.
        ranks: ranks of a bin; the last may hold fewer.
        steps: steps of a bin, likewise.
    """
    high, wide = cells.shape
    padded = np.full((-(-high // ranks) * ranks, -(-wide // steps) * steps), np.nan)
    padded[:high, :wide] = cells
    mean = _of(np.nanmean, padded.reshape(len(padded), -1, steps), 2)
    return _of(np.nanmax, mean.reshape(-1, ranks, mean.shape[1]), 1)


def _of(function: object, values: Cells, axis: int) -> Cells:
    """Apply a nan-function of numpy, without its warning where there is nothing but nan."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(function(values, axis=axis))  # type: ignore[operator]


def heat_map(run: Run, shown: Heat, slow: Sequence[int] = ()) -> Figure:
    """Draw it.

    Args:
        run: whose it is.
        shown: the cells, [steps, ranks].
        slow: ranks to name on the axis, the slowest first.
    """
    from matplotlib.colors import LinearSegmentedColormap

    layout = run.facts.layout
    slow = list(slow)[:MOST_NAMED]
    table = np.asarray(shown.ratio, np.float64).T
    ranks, steps = (
        -(-have // most) for have, most in zip(table.shape, (MOST_ROWS, MOST_COLUMNS), strict=True)
    )
    cells = binned(table, ranks, steps)
    known = cells[np.isfinite(cells)]
    most = max(1.1, float(np.quantile(known, 0.999))) if len(known) else 1.1
    made = figure(max(2.6, min(5.4, 1.5 + 0.16 * len(cells))))
    axes = made.add_subplot()
    colours = LinearSegmentedColormap.from_list(
        "relative", [(0, "#0072B2"), (0.5, "#F2F2F2"), (1, "#C24A00")]
    )
    image = axes.imshow(
        cells, aspect="auto", interpolation="nearest", cmap=colours, vmin=2 - most, vmax=most,
        extent=(-0.5, cells.shape[1] - 0.5, len(cells) - 0.5, -0.5),
    )  # fmt: skip
    _steps(axes, shown.step, steps)
    rows = _rows(slow, ranks, shown.nodes, len(cells))
    axes.set_yticks(list(rows), list(rows.values()), fontsize=8)
    for tick, row in zip(axes.get_yticklabels(), rows, strict=True):
        if any(rank // ranks == row for rank in slow):
            tick.set_fontweight("bold")
    if stages_apart(run):
        for stage in range(1, layout.pipeline):
            axes.axhline(stage * layout.data * layout.tensor / ranks - 0.5, color=FAINT, lw=0.5)
    bar = made.colorbar(image, ax=axes, fraction=0.025, pad=0.015)
    bar.ax.set_title("x peers", fontsize=8.5)
    bar.outline.set_visible(False)
    axes.set_xlabel("step")
    axes.set_title(f"Compute of each rank beside its peers; {cell_in_words(ranks, steps)}")
    for spine in axes.spines.values():
        spine.set_visible(False)
    return made


def stages_apart(run: Run) -> bool:
    """Whether the ranks of a stage follow one another, so that lines part the stages."""
    layout = run.facts.layout
    return layout.order == "pipe-major" and layout.pipeline > 1


def cell_in_words(ranks: int, steps: int) -> str:
    """What one drawn cell is."""
    if ranks == steps == 1:
        return "a cell is one rank in one step"
    if ranks == 1:
        return f"a cell is the mean of {steps} steps of a rank"
    over = f" by their mean over {steps} steps" if steps > 1 else ""
    return f"a cell is the slowest of {ranks} ranks{over}"


def _steps(axes: object, step: npt.NDArray[np.int64], bin_steps: int) -> None:
    columns = -(-len(step) // bin_steps)
    places = sorted({round(i * (columns - 1) / 6) for i in range(7)})
    labels = [f"{int(step[min(p * bin_steps, len(step) - 1)]):,}" for p in places]
    axes.set_xticks(places, labels)  # type: ignore[attr-defined]


def _rows(slow: Sequence[int], bin_ranks: int, nodes: Sequence[str], rows: int) -> dict[int, str]:
    """Row to label: slow ranks by name, and a few others where there is room between."""
    apart = max(1, -(-rows // 26))
    found: dict[int, str] = {}
    for rank in slow:
        row = rank // bin_ranks
        if all(abs(row - other) >= apart for other in found):
            found[row] = f"{nodes[rank]}  rank {rank}"
    room = max(apart, -(-rows // 10)) if rows > 16 else 1
    for row in range(0, rows, room):
        if all(abs(row - other) >= apart for other in found):
            found[row] = f"rank {row * bin_ranks}"
    return dict(sorted(found.items()))
