"""How the figures look: colours, hatches, fonts, and saving.

Colours are those of Okabe and Ito (2008), told apart with any form of colour blindness; every one
also has its own hatch or brightness, so that a grey print still reads. A figure is drawn on white.
Its files stay so, because they end in papers and slides; inside the page the neutral colours become
variables of the page (`themed`), which a dark page sets anew.
"""

from __future__ import annotations

import io
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from alpenglow_lsf.files import write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS: dict[str, tuple[str, str]] = {
    "charged": ("#444444", ""),
    "compute": ("#0072B2", ""),
    "useful": ("#0072B2", ""),
    "below_peak": ("#8CCBF0", "--"),
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
    "tensor": ("#E69F00", ""),
    "gradient": ("#D55E00", "\\\\"),
    "optimizer": ("#009E73", ""),
    "data": ("#F0E442", ""),
    "inside": ("#FFFFFF", "..."),
    "between": ("#FFFFFF", "..."),
    "unexplained": ("#FFFFFF", "xxx"),
    "checkpoint": ("#7A5195", ""),
    "startup": ("#8A8A8A", ""),
    "restart": ("#8A8A8A", "\\\\"),
    "launch": ("#B5B5B5", ""),
    "lost": ("#222222", ""),
    "evaluate": ("#CC79A7", ""),
    "unused": ("#5A5A5A", "xx"),
    "unrecorded": ("#CFCFCF", "xx"),
    "other": ("#CFCFCF", ""),
}
"""Colour and hatch of a piece or kind."""
INK = "#1A1A1A"
FAINT = "#626262"
LINES = "#E6E6E6"
PAPER = "#FEFEFE"
"""What is the colour of the page itself."""
ON_COLOUR = "#101010"
"""Dark text on a coloured box: it stays dark on a dark page."""
ON_DARK = "#FDFDFD"
"""Light text on a coloured box."""
IDEAL, ACTUAL = "#0072B2", "#D55E00"
WIDTH = 9.2
"""Inches; at 96 pixels an inch, the width of the report's column."""

THEME = {
    INK: "--figure-ink",
    FAINT: "--figure-faint",
    LINES: "--figure-lines",
    PAPER: "--figure-paper",
    "#ffffff": "--figure-blank",
    "#444444": "--figure-charged",
    "#222222": "--figure-lost",
    "#e4e4e4": "--figure-bubble",
    "#5a5a5a": "--figure-unused",
    "#004a75": "--figure-deep",
    "#7a5195": "--figure-plum",
    "#bbbbbb": "--figure-thread",
    "#777777": "--figure-edge",
}
"""Colours that the page may set anew, each by the name of its variable."""

_SETTINGS: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.facecolor": "none",
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "hatch.linewidth": 0.5,
    "svg.hashsalt": "alpenglow",
    # Text stays text: it is found, copied and read aloud. Verdana is as wide as DejaVu Sans, other
    # fonts of the page are narrower, so what fits here fits there.
    "svg.fonttype": "none",
    # Journals and agencies refuse PDF files with Type 3 letters.
    "pdf.fonttype": 42,
    "legend.frameon": False,
}


def figure(height: float, width: float = WIDTH) -> Figure:
    """A figure of the report's width; matplotlib is loaded here and not before."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), layout="constrained", facecolor=PAPER)
    FigureCanvasAgg(made)
    return made


def settings() -> Any:
    """A context to draw and save figures in; matplotlib's own settings stay as they are."""
    import matplotlib

    return matplotlib.rc_context(_SETTINGS)


def paint(key: str) -> dict[str, Any]:
    """Fill of a bar for a piece or kind; one that has no colour of its own is grey."""
    colour, hatch = COLOURS.get(key, COLOURS["other"])
    line = {"edgecolor": "#777777", "linewidth": 0.4}
    return {"facecolor": colour, "hatch": hatch, **line}


def to_svg(made: Figure) -> str:
    """The figure as an `<svg>` element, without XML prologue and without a date."""
    text = io.StringIO()
    made.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]


def themed(svg: str, name: str) -> str:
    """The element for the page: its colours as variables, its ids its own, no metadata.

    Args:
        svg: an element as of `to_svg`.
        name: the figure's name, which goes before its ids: several figures share a page.
    """
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    for colour, variable in THEME.items():
        svg = re.sub(f"{colour}\\b", f"var({variable}, {colour})", svg, flags=re.IGNORECASE)
    # The first path of a figure is its paper; the page draws that itself.
    width = re.search(r'viewBox="0 0 ([\d.]+)', svg)
    size = f"{float(width[1]):.0f}" if width else "660"
    head, rest = svg.split(">", 1)
    head = re.sub(r' (width|height|version|xmlns(:\w+)?)="[^"]*"', "", head)
    return f'{head} data-width="{size}" role="img" aria-labelledby="{name}-caption">{rest}'


def save_png(made: Figure, path: Path) -> None:
    """Write the figure at 150 dots an inch, under a temporary name first."""
    _save(made, path, format="png", dpi=150, metadata={"Software": None})


def save_pdf(made: Figure, path: Path) -> None:
    """Write the figure as PDF for LaTeX, its letters as TrueType and without a date."""
    metadata = {"CreationDate": None, "Creator": None, "Producer": None}
    _save(made, path, format="pdf", metadata=metadata)


def _save(made: Figure, path: Path, **options: Any) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        made.savefig(temporary, **options)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def save_svg(made: Figure, path: Path) -> str:
    """Write the figure as SVG in plain colours on white; returns its element."""
    svg = to_svg(made)
    write_text(path, f'<?xml version="1.0" encoding="utf-8"?>\n{svg}')
    return svg


def grid(axes: Axes, axis: Literal["x", "y", "both"]) -> None:
    """Light lines behind the data."""
    axes.grid(axis=axis, color=LINES, linewidth=0.8)
    axes.set_axisbelow(True)


def beside(axes: Axes, points: float, y: float, text: str, **looks: Any) -> None:
    """Write right of the axes, so many points from their edge, at a height of the data."""
    axes.annotate(
        text, (1, y), xytext=(points, 0), xycoords=axes.get_yaxis_transform(),
        textcoords="offset points", va="center", annotation_clip=False, **looks,
    )  # fmt: skip


def apart(wanted: list[float], least: float, low: float, high: float) -> list[float]:
    """Move places apart until neighbours are at least `least` from one another.

    Args:
        wanted: places, in any order.
        least: smallest distance; made smaller where there is no room for it.
        low: smallest place allowed.
        high: largest place allowed.

    Returns:
        A place for each, in the order given, as near to the wanted one as its neighbours allow.
    """
    if not wanted:
        return []
    least = min(least, (high - low) / max(1, len(wanted) - 1))
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    placed = [max(low, min(high, wanted[i])) for i in order]
    for i in range(1, len(placed)):
        placed[i] = max(placed[i], placed[i - 1] + least)
    placed[-1] = min(placed[-1], high)
    for i in range(len(placed) - 2, -1, -1):
        placed[i] = min(placed[i], placed[i + 1] - least)
    found = [0.0] * len(wanted)
    for place, i in zip(placed, order, strict=True):
        found[i] = place
    return found
