"""What a plan leaves in its folder: a page, the same as markdown and JSON, and its figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from alpenglow_analysis.page import Figure, Page
from alpenglow_lsf.files import write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing


class Picture(NamedTuple):
    """A drawing with its words."""

    name: str
    drawing: Drawing
    alt: str
    caption: str


def draw(folder: Path, pictures: Sequence[Picture]) -> list[Figure]:
    """Write drawings as PNG and SVG into folder/figures; returns them for the page.

    Draw and call this within `style.settings()`.

    Raises:
        OSError: they cannot be written.
    """
    from alpenglow_analysis import style

    (folder / "figures").mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, drawing, alt, caption in pictures:
        style.save_png(drawing, folder / "figures" / f"{name}.png")
        svg = style.save_svg(drawing, folder / "figures" / f"{name}.svg")
        drawn.append(Figure(name, alt, caption, style.themed(svg, name)))
    return drawn


def write(folder: Path, name: str, page: Page, json: str) -> None:
    """Write index.html, NAME.md and NAME.json.

    Raises:
        OSError: they cannot be written.
    """
    from alpenglow_analysis import rendering

    write_text(folder / f"{name}.json", json)
    write_text(folder / f"{name}.md", rendering.markdown(page))
    write_text(folder / "index.html", rendering.html(page))
