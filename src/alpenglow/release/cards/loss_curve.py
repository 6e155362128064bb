"""The loss of a run as a picture for its card, where matplotlib is installed.

Training loss of each step, faint, with its running median; validation where the run made any. Blue
and vermilion are of Okabe and Ito's palette (2008), told apart with any form of colour blindness.
Called by `alpenglow release card`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from alpenglow.release.hub.series_names import amount
from alpenglow.release.record import RunRecord

PLACE = "assets/loss.png"
"""In the release folder."""
FEWEST = 20
"""Steps below which a curve says nothing."""
MOST_POINTS = 2000

_TRAINING, _VALIDATION, _INK, _LINES = "#0072B2", "#D55E00", "#1A1A1A", "#E6E6E6"

Points = npt.NDArray[np.float64]


def draw_loss(record: RunRecord, step: int | None, folder: Path) -> str | None:
    """Draw the losses up to a step into a release folder.

    Args:
        record: the run.
        step: of the release; None draws all.
        folder: of the release; the picture appears in it as a whole.

    Returns:
        Its place in the folder; None where there are too few steps, or no matplotlib.
    """
    lines = [line for line in record.steps if step is None or line["step"] <= step]
    training = _points(lines, "loss")
    if len(training) < FEWEST:
        return None
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    figure = Figure(figsize=(8.0, 3.0), dpi=150, layout="constrained")
    axes = figure.subplots()
    every = math.ceil(len(training) / MOST_POINTS)
    axes.plot(*training[::every].T, color=_TRAINING, alpha=0.25, linewidth=0.8)
    smooth = _median(training, max(5, len(training) // 20))
    axes.plot(*smooth[::every].T, color=_TRAINING, linewidth=1.6, label="training, running median")
    validation = _points(lines, "val_loss")
    if len(validation):
        marks: dict[str, Any] = {"marker": "o", "markersize": 3.5, "linewidth": 1.2}
        axes.plot(*validation.T, color=_VALIDATION, label="validation", **marks)
    _finish(axes, training)
    path = folder / PLACE
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        figure.savefig(temporary, format="png", metadata={"Software": None})
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return PLACE


def _points(lines: Sequence[dict[str, Any]], key: str) -> Points:
    """(tokens, loss) of the steps that have one: [n, 2]."""
    found = [
        (line["tokens"], line[key])
        for line in lines
        if isinstance(line.get("tokens"), int) and isinstance(line.get(key), float)
    ]
    points = np.array(found, np.float64).reshape(-1, 2)
    return points[np.isfinite(points[:, 1])]


def _median(points: Points, width: int) -> Points:
    """A running median over an odd number of points, at their middle ones."""
    width |= 1
    windows = np.lib.stride_tricks.sliding_window_view(points[:, 1], width)
    middle = points[width // 2 : len(points) - width // 2, 0]
    return np.column_stack([middle, np.median(windows, axis=1)])


def _finish(axes: Any, training: Points) -> None:
    axes.xaxis.set_major_formatter(lambda tokens, _: amount(round(tokens)).upper())
    axes.set_xlabel("tokens", color=_INK)
    axes.set_ylabel("loss, nats a token", color=_INK)
    axes.set_xlim(0, 1.01 * training[-1, 0])
    axes.grid(color=_LINES, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False, loc="upper right")
