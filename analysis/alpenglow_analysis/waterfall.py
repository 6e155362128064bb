"""The waterfall: from the charge down to useful compute, one bar a loss, its numbers beside."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alpenglow_analysis.run import Run
from alpenglow_analysis.style import COLOURS, FAINT, beside, figure, grid, paint
from alpenglow_analysis.units import amount, percent, work
from alpenglow_analysis.utilisation import PIECES, Account

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SMALL = 0.0005
"""Pieces below this share of the charge share one bar."""
ALWAYS = "unexplained"
"""The piece that always has a bar of its own."""
USEFUL = "compute"
"""The piece that is left in the end."""


def bars(account: Account) -> list[tuple[str, str, int]]:
    """Key, label and ns of every loss that has a bar, in the order of the account."""
    charged = max(1, account.charged_ns)
    found, small = [], 0
    for key, ns in account.pieces.items():
        if key == USEFUL:
            continue
        if abs(ns) / charged >= SMALL or (key == ALWAYS and ns):
            found.append((key, PIECES.get(key, key), ns))
        else:
            small += ns
    if small:
        found.append(("other", "All smaller losses", small))
    return found


def waterfall(run: Run, account: Account) -> Figure:
    """Draw it; the columns on the right give share, equivalents and time of each bar."""
    unit, charged = run.facts.unit, max(1, account.charged_ns)
    left = charged
    rows = [("charged", "Charged", 0, charged)]
    for key, label, ns in bars(account):
        left -= ns
        rows.append((key, label, left, ns))
    rows.append((USEFUL, PIECES[USEFUL], 0, left))
    made = figure(1.15 + 0.29 * len(rows))
    axes = made.add_subplot()
    slots = account.charged_ns / max(1, sum(segment.elapsed_ns for segment in run.segments))
    heads = ("share", f"{unit}-eq.", work(0, charged, unit).split()[-1])
    places = (52, 104, 164)
    for place, head in zip(places, heads, strict=True):
        beside(axes, place, -0.85, head, ha="right", fontsize=8, color=FAINT)
    for y, (key, _, begin, ns) in enumerate(rows):
        fill = paint(key) if key in COLOURS else paint("other")
        axes.barh(y, 100 * ns / charged, left=100 * begin / charged, height=0.7, **fill)
        cells = (
            percent(ns / charged),
            amount(slots * ns / charged),
            work(ns, charged, unit).rsplit(" ", 1)[0],
        )
        for place, cell in zip(places, cells, strict=True):
            weight = "bold" if y in (0, len(rows) - 1) else "normal"
            beside(axes, place, y, cell, ha="right", fontsize=9, fontweight=weight)
        if y + 1 < len(rows):
            axes.plot([100 * begin / charged] * 2, [y, y + 1], color="#BBBBBB", lw=0.7, zorder=0)
    axes.set_yticks(range(len(rows)), [label for _, label, _, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, 100)
    axes.set_xlabel(f"share of the charged {unit}-hours (%)")
    axes.set_title(f"From charged {unit}-hours to useful compute", pad=18)
    axes.tick_params(axis="y", length=0)
    grid(axes, "x")
    return made
