"""Every figure of a report: drawn, saved as PNG and SVG, and made ready for the page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from alpenglow_analysis import style
from alpenglow_analysis.chain_strip import chain_strip
from alpenglow_analysis.comparison import comparison
from alpenglow_analysis.contents import Material, slow_ranks
from alpenglow_analysis.figures import curves, ranks
from alpenglow_analysis.gains import gains
from alpenglow_analysis.heat_map import heat_map, stages_apart
from alpenglow_analysis.ideal import ideal_and_actual
from alpenglow_analysis.page import Figure
from alpenglow_analysis.power import power_figure
from alpenglow_analysis.timeline import timeline
from alpenglow_analysis.waterfall import waterfall

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

CAPTIONS: dict[str, tuple[str, str]] = {
    "waterfall": (
        "Waterfall from the charge to useful compute",
        "Every moment of every charged {unit} belongs to one bar; of nested spans the innermost "
        "counts. Eq.: {unit}-equivalents, the share times the {unit}s charged.",
    ),
    "ideal": (
        "Tokens/s over nodes, ideal and actual",
        "Lines: what this run's own passes would give on that many nodes, more replicas of the "
        "same pipeline. Filled points: measured. The number behind a rate is its gap to the one "
        "above, against the first; the gaps add up.",
    ),
    "schedules": (
        "One step of each run below one another",
        "The step whose bubble is the median, one rank of each stage, all to one scale.",
    ),
    "timeline": (
        "Pipeline timeline of one step",
        "A strip along the foot of a box is a collective inside that pass.",
    ),
    "ranks": (
        "What a mean step of each rank is made of",
        "Means over all steps that count, slow first steps of a job included; lost and cut steps "
        "are left out.",
    ),
    "heat": (
        "Heat map of ranks over steps",
        "Compute of a rank (forward, backward, weight gradient, recompute) over {against}.{lines} "
        "Ranks that were slow for a while are named.",
    ),
    "gains": (
        "Gains of what-if scenarios",
        "The sampled steps played again with one thing changed, against the same replay unchanged.",
    ),
    "chain": (
        "Jobs of the run over time",
        "Thin bars: from the end of one job to the start of the next. Lost steps end at the last "
        "sign of life of their job.",
    ),
    "power": (
        "Power over the time of the run",
        "Sum over sampled devices of their mean power in each period; dotted verticals: a new job.",
    ),
    "curves": (
        "Loss and tokens/s over the steps",
        "Steps that were trained again after a restart appear once, as they stand. Dotted "
        "verticals: a new job.",
    ),
}
"""What a screen reader says of a figure, and what stands below it."""


def drawings(material: Material, step: int | None) -> Iterator[tuple[str, Drawing | None]]:
    """Draw all figures, one at a time; None where a figure has no data."""
    run, account, rates = material.run, material.account, material.rates
    others = [(other, found) for other, _, found in material.others]
    yield "waterfall", waterfall(run, account)
    yield "ideal", ideal_and_actual([(run, rates), *others])
    if others:
        yield "schedules", comparison([run, *(other for other, _ in others)])
    yield "timeline", None if step is None else timeline(run, step)
    yield "ranks", ranks(run, account)
    if material.study.heat is not None:
        yield "heat", heat_map(run, material.study.heat, slow_ranks(material.study))
    yield "gains", gains(run, material.changes)
    yield "chain", chain_strip(run)
    if material.power is not None:
        yield "power", power_figure(run, material.power)
    yield "curves", curves(run, rates)


def pictures(material: Material, step: int | None, folder: Path) -> dict[str, Figure]:
    """Draw, save and return all figures that have data; call it inside `style.settings()`.

    Args:
        material: what is known.
        step: the step of the timeline.
        folder: where NAME.png and NAME.svg go; it must exist.

    Raises:
        OSError: a file cannot be written.
    """
    found: dict[str, Figure] = {}
    for name, made in drawings(material, step):
        if made is None:
            continue
        style.save_png(made, folder / f"{name}.png")
        plain = style.save_svg(made, folder / f"{name}.svg")
        lines = " Lines part the stages." if stages_apart(material.run) else ""
        against = "" if material.study.heat is None else material.study.heat.against
        alt, caption = (
            text.format(unit=material.run.facts.unit, against=against, lines=lines)
            for text in CAPTIONS[name]
        )
        found[name] = Figure(name, alt, caption, style.themed(plain, name))
    for path in folder.iterdir():
        # What an earlier report drew, and this one has no data for.
        if path.suffix in (".png", ".svg") and path.stem in CAPTIONS and path.stem not in found:
            path.unlink()
    return found
