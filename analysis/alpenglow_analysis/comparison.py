"""Steps of several runs below one another, on one axis of time: schedules side by side.

    python -m alpenglow_analysis.comparison runs/rehearsal/pp12-m8-* --output pp12-m8.png

One rank of each stage is drawn, in the step whose bubble is the median; the title of each part sets
that bubble beside the one that the schedule has by itself.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alpenglow_analysis import style
from alpenglow_analysis.bubble import ideal_bubble, schedule_name
from alpenglow_analysis.run import Run
from alpenglow_analysis.segment import RunError
from alpenglow_analysis.timeline import draw, legend, spans_of_step
from alpenglow_profiling.events import Kind
from alpenglow_profiling.passes import idle

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def median_step(run: Run, shown: list[int]) -> tuple[int, float]:
    """The step of median bubble on some ranks, and that bubble; the first step is left out.

    Raises:
        RunError: no step was recorded.
    """
    stages = run.facts.layout.pipeline
    found: dict[int, float] = {}
    for events in run.events.values():
        rows = events.rows
        rows = rows[np.isin(rows["rank"], shown)]
        for step in np.unique(rows["step"][rows["kind"] == Kind.STEP]).tolist():
            found[step] = idle(rows[rows["step"] == step], stages)[0]
    if not found:
        raise RunError(f"{run.path}: no step was recorded")
    # The first allocates buffers and exchanges shapes.
    steps = sorted(found)[1:] or list(found)
    ordered = sorted(steps, key=lambda step: found[step])
    middle = ordered[len(ordered) // 2]
    return middle, found[middle]


def comparison(runs: Sequence[Run]) -> Figure:
    """Draw a step of each run, all to the scale of the longest.

    Raises:
        RunError: a run without a recorded step.
    """
    parts = []
    for run in runs:
        layout = run.facts.layout
        shown = [layout.rank(stage, 0, 0) for stage in range(layout.pipeline)]
        step, measured = median_step(run, shown)
        drawn = spans_of_step(run, step, shown)
        if drawn is None:
            raise RunError(f"{run.path}: no spans of step {step}")
        parts.append((run, shown, step, measured, drawn))
    rows = [len(shown) for _, shown, *_ in parts]
    made = style.figure(0.9 + sum(0.75 + 0.3 * count for count in rows))
    grid = made.add_gridspec(len(parts), 1, height_ratios=[2 + count for count in rows])
    longest = max(end - begin for *_, (_, begin, end) in parts) / 1e6
    used: dict[str, Any] = {}
    for place, (run, shown, step, measured, (spans, begin, _)) in enumerate(parts):
        axes = made.add_subplot(grid[place])
        draw(axes, run.facts.layout, shown, spans, begin, longest, used)
        m = run.facts.micro_batches
        whose = f"{run.facts.name}: " if len({r.facts.name for r in runs}) == len(runs) > 1 else ""
        axes.set_title(
            f"{whose}{schedule_name(run).upper()}, {len(shown)} stages, {m} micro-batches, "
            f"step {step}: "
            f"{100 * measured:.1f} % idle (the schedule itself: {100 * ideal_bubble(run, m):.1f} %)"
        )
    axes.set_xlabel("time since the step began (ms); the number in a box is the micro-batch")
    split = any(schedule_name(run) != "zb-h1" for run in runs)
    legend(made, used, *(["Backward (under ZB-H1: of the input)"] if split else []))
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw and save; 0, or 1 after one sentence on stderr."""
    parser = argparse.ArgumentParser(prog="python -m alpenglow_analysis.comparison")
    parser.add_argument("runs", type=Path, nargs="+", help="run directories, first on top")
    parser.add_argument("--output", type=Path, default=Path("comparison.png"), metavar="PNG")
    options = parser.parse_args(arguments)
    try:
        runs = [Run.load(path) for path in options.runs]
        with style.settings():
            style.save_png(comparison(runs), options.output)
    except ModuleNotFoundError as error:
        sys.stderr.write(
            f"alpenglow_analysis.comparison: {error.name} is not installed: "
            "pip install 'alpenglow[report]'\n"
        )
        return 1
    except (RunError, OSError) as error:
        sys.stderr.write(f"alpenglow_analysis.comparison: {error}\n")
        return 1
    sys.stdout.write(f"{options.output}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
