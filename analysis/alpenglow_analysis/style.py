"""How the figures look: colours, hatches, fonts, and saving.

Colours are those of Okabe and Ito (2008), told apart with any form of colour blindness; every one
also has its own hatch or brightness, so that a grey print still reads. Figures are drawn on white:
the report frames them so on a dark page.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS: dict[str, tuple[str, str]] = {
    "compute": ("#0072B2", ""),
    "forward": ("#8CCBF0", ""),
    "backward": ("#0072B2", ""),
    "weight_grad": ("#004A75", ""),
    "recompute": ("#CC79A7", "xx"),
    "pipeline": ("#E4E4E4", "///"),
    "bubble": ("#E4E4E4", "///"),
    "imbalance": ("#56B4E9", "\\\\"),
    "slow_ranks": ("#D55E00", "xx"),
    "jitter": ("#F0E442", ".."),
    "waiting": ("#E4E4E4", "\\\\"),
    "p2p": ("#009E73", "//"),
    "unexplained": ("#FFFFFF", "xxx"),
    "restart": ("#8A8A8A", "\\\\"),
    "tensor": ("#E69F00", ""),
    "gradient": ("#D55E00", "\\\\"),
    "optimizer": ("#009E73", ""),
    "data": ("#F0E442", ""),
    "inside": ("#FFFFFF", "..."),
    "between": ("#FFFFFF", "..."),
    "checkpoint": ("#7A5195", ""),
    "startup": ("#8A8A8A", ""),
    "launch": ("#B5B5B5", ""),
    "lost": ("#222222", ""),
    "evaluate": ("#CC79A7", ""),
    "unused": ("#5A5A5A", "xx"),
    "unrecorded": ("#CFCFCF", "xx"),
}
"""Colour and hatch of a piece or kind."""
INK = "#1A1A1A"
FAINT = "#6B6B6B"
WIDTH = 9.2
"""Inches; at 96 pixels an inch, the width of the report's column."""

_SETTINGS: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "hatch.linewidth": 0.5,
    "svg.hashsalt": "alpenglow",
    "legend.frameon": False,
}


def figure(height: float) -> Figure:
    """A figure of the report's width; matplotlib is loaded here and not before."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(WIDTH, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(made)
    return made


def settings() -> Any:
    """A context to draw and save figures in; matplotlib's own settings stay as they are."""
    import matplotlib

    return matplotlib.rc_context(_SETTINGS)


def paint(key: str) -> dict[str, Any]:
    """Fill of a bar for a piece or kind."""
    colour, hatch = COLOURS[key]
    line = {"edgecolor": "#777777", "linewidth": 0.4}
    return {"facecolor": colour, "hatch": hatch, **line}


def to_svg(made: Figure) -> str:
    """The figure as an `<svg>` element, without XML prologue and without a date."""
    text = io.StringIO()
    made.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]


def save_png(made: Figure, path: Path) -> None:
    """Write the figure at 150 dots an inch, under a temporary name first."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        made.savefig(temporary, format="png", dpi=150, metadata={"Software": None})
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def grid(axes: Axes, axis: Literal["x", "y", "both"]) -> None:
    """Light lines behind the data."""
    axes.grid(axis=axis, color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)
