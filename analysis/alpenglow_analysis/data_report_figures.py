"""Pictures of a ledger: what became of the bytes, which rules took most, tokens beside others'."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from alpenglow.data.ledger import Count, SliceLedger
from alpenglow.data.published_counts import values
from alpenglow_analysis.data_report_lengths import PERCENTILES, Lengths
from alpenglow_analysis.data_report_words import STAGES, named, stage_word
from alpenglow_analysis.style import FAINT, IDEAL, INK, beside, figure, grid
from alpenglow_analysis.units import count, percent, size

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KEPT = ("#0072B2", "")
TRIMMED = ("#8CCBF0", "--")
OTHER = ("#CFCFCF", "xx")
COLOURS: Mapping[str, tuple[str, str]] = {
    "read": ("#E4E4E4", "///"),
    "paragraphs": ("#E69F00", ""),
    "filters": ("#D55E00", "\\\\"),
    "duplicates": ("#009E73", "//"),
}
"""Colour and hatch of what a stage drops; as in alpenglow_analysis.style."""
MOST_RULES = 12
COMPARABLE = 0.01
"""Of RedPajama's tokens: from here on amounts are drawn beside one another, not only shares."""


def flow_figure(accounts: Mapping[str, SliceLedger]) -> Figure:
    """A bar a slice: of the bytes read, what each stage took and what was kept."""
    names = list(accounts)
    rows = [(named(name), [accounts[name]]) for name in names]
    if len(names) > 1:
        rows.append(("All slices", [accounts[name] for name in names]))
    made = figure(1.35 + 0.42 * len(rows))
    axes = made.add_subplot()
    labelled: set[str] = set()
    for place, head in ((58, "read"), (118, "kept")):
        beside(axes, place, -0.75, head, ha="right", fontsize=8, color=FAINT)
    for y, (_, found) in enumerate(rows):
        total = sum(account.read.bytes for account in found)
        kept = sum(account.kept.bytes for account in found)
        left = 0.0
        for label, fill, width in _pieces(found, kept):
            share = 100 * width / total if total else 0.0
            if width:
                # A piece in the legend is named by the first bar that has it.
                word = None if label in labelled else label
                axes.barh(y, share, left=left, height=0.66, label=word, **_paint(fill))
                labelled.add(label)
            left += share
        bold = "bold" if len(found) > 1 else "normal"
        for place, amount in ((58, total), (118, kept)):
            beside(axes, place, y, size(amount), ha="right", fontsize=9, fontweight=bold)
    axes.set_yticks(range(len(rows)), [label for label, _ in rows])
    axes.set_ylim(len(rows) - 0.45, -0.55)
    axes.set_xlim(0, 100)
    axes.set_xlabel("share of the bytes read (%)")
    axes.set_title("What became of the bytes", pad=18)
    axes.tick_params(axis="y", length=0)
    handles, labels = axes.get_legend_handles_labels()
    made.legend(
        handles, labels, loc="outside lower center", ncols=3, fontsize=9, handlelength=1.6,
        columnspacing=1.6,
    )  # fmt: skip
    grid(axes, "x")
    return made


def _pieces(found: Sequence[SliceLedger], kept: int) -> list[tuple[str, tuple[str, str], int]]:
    pieces = [("kept", KEPT, kept)]
    pieces.append(("taken out of texts", TRIMMED, _bytes(a.trimmed for a in found)))
    stages = list(dict.fromkeys([*STAGES, *(s.name for a in found for s in a.stages)]))
    for name in stages[::-1]:
        dropped = _bytes(s.dropped for a in found for s in a.stages if s.name == name)
        pieces.append((f"dropped: {stage_word(name)}", COLOURS.get(name, OTHER), dropped))
    return pieces


def _bytes(tables: Any) -> int:
    return sum(count.bytes for table in tables for count in table.values())


def rules_figure(accounts: Mapping[str, SliceLedger]) -> Figure | None:
    """The rules that took most bytes, of all slices; None where none took any."""
    rows = largest_rules(accounts)[:MOST_RULES]
    if not rows:
        return None
    made = figure(1.0 + 0.3 * len(rows))
    axes = made.add_subplot()
    most = rows[0].taken.bytes
    labelled: set[str] = set()
    for y, row in enumerate(rows):
        fill = TRIMMED if row.trims else COLOURS.get(row.stage, OTHER)
        word = "taken out of texts" if row.trims else f"dropped: {stage_word(row.stage)}"
        label = None if word in labelled else word
        axes.barh(y, row.taken.bytes / most, height=0.66, label=label, **_paint(fill))
        labelled.add(word)
        share = row.taken.bytes / max(1, accounts[row.slice].read.bytes)
        beside(axes, 62, y, size(row.taken.bytes), ha="right", fontsize=9)
        beside(axes, 128, y, percent(share), ha="right", fontsize=9, color=FAINT)
    beside(axes, 62, -0.8, "bytes", ha="right", fontsize=8, color=FAINT)
    beside(axes, 128, -0.8, "of the slice", ha="right", fontsize=8, color=FAINT)
    texts = [f"{named(row.slice)}: {_short(row.rule)}" for row in rows]
    axes.set_yticks(range(len(rows)), texts)
    axes.set_ylim(len(rows) - 0.45, -0.55)
    axes.set_xlim(0, 1)
    axes.set_xticks([])
    axes.set_title("The rules that took most bytes", pad=18)
    axes.tick_params(axis="y", length=0)
    axes.spines["bottom"].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    made.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=9, handlelength=1.6)
    return made


class Taken(NamedTuple):
    """What one rule of a slice dropped, or took out of texts that went on."""

    slice: str
    stage: str
    rule: str
    trims: bool
    taken: Count


def largest_rules(accounts: Mapping[str, SliceLedger]) -> list[Taken]:
    """All rules that took anything, most bytes first."""
    rows = [
        Taken(name, stage.name, rule, trims, taken)
        for name, account in accounts.items()
        for stage in account.stages
        for trims, table in ((False, stage.dropped), (True, stage.trimmed))
        for rule, taken in table.items()
        if taken.bytes
    ]
    return sorted(rows, key=lambda row: (-row.taken.bytes, row[:3]))


def tokens_figure(tokens: Mapping[str, int]) -> Figure:
    """Shares of tokens by slice beside RedPajama's and LLaMA's; amounts too where comparable."""
    redpajama, llama = values("redpajama", "tokens"), values("llama", "tokens")
    weights = values("llama", "mixture")
    names = list(redpajama)
    total = sum(tokens.values())
    amounts = total >= COMPARABLE * sum(redpajama.values())
    made = figure(1.3 + 0.58 * len(names))
    panels: Any = made.subplots(1, 2 if amounts else 1, squeeze=False, sharey=True)[0]
    sides = (
        ("these shards", tokens, (IDEAL, "")),
        ("RedPajama v1", redpajama, ("#E69F00", "//")),
        ("LLaMA, estimated", llama, ("#CFCFCF", "")),
        ("LLaMA's mixture, of the tokens trained on", weights, ("#FFFFFF", "...")),
    )
    for axes, share in zip(panels, (True, False), strict=False):
        # Nobody published amounts of a mixture: there it is the share of a run.
        drawn = sides if share else sides[:-1]
        step = 0.84 / len(drawn)
        for i, (label, found, fill) in enumerate(drawn):
            whole = sum(found.values()) / 100 if share else 1e9
            widths = [found.get(name, 0) / max(whole, 1e-9) for name in names]
            places = [y + step * (i - (len(drawn) - 1) / 2) for y in range(len(names))]
            axes.barh(
                places, widths, height=0.92 * step, label=label if share else None, **_paint(fill)
            )
            for y, value in zip(places, widths, strict=True):
                text = "none" if not value else percent(value / 100) if share else _amount(value)
                _after(axes, value, y, text)
        axes.set_xlabel("share of all tokens (%)" if share else "billion tokens")
        axes.set_xlim(0, _end(axes))
        axes.tick_params(axis="y", length=0)
        grid(axes, "x")
    panels[0].set_yticks(range(len(names)), [named(name) for name in names])
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    panels[0].set_title("Tokens by slice beside the published counts")
    made.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8.5,
        handlelength=1.6, columnspacing=1.4,
    )  # fmt: skip
    return made


def _after(axes: Axes, x: float, y: float, text: str) -> None:
    axes.annotate(
        text, (x, y), xytext=(4, 0), textcoords="offset points", va="center", fontsize=7.5,
        color=FAINT,
    )  # fmt: skip


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _end(axes: Axes) -> float:
    """Room for the numbers behind the longest bar."""
    return 1.12 * float(axes.get_xlim()[1])


def lengths_figure(found: Mapping[str, Lengths]) -> Figure | None:
    """Percentiles of tokens a document by slice, on a logarithmic axis; None without documents."""
    rows = [(name, each) for name, each in found.items() if each.percentiles[-1] > 0]
    if not rows:
        return None
    made = figure(1.0 + 0.36 * len(rows))
    axes = made.add_subplot()
    for y, (_, each) in enumerate(rows):
        least, first, middle, third, most = each.percentiles.tolist()
        axes.plot([least, most], [y, y], color=FAINT, lw=1.2, solid_capstyle="butt", zorder=1)
        axes.barh(
            y, third - first, left=first, height=0.5, zorder=2, facecolor="#8CCBF0",
            edgecolor="#777777", linewidth=0.4,
        )  # fmt: skip
        axes.plot([middle] * 2, [y - 0.25, y + 0.25], color=INK, lw=1.8, zorder=3)
        beside(axes, 70, y, f"{count(middle)}", ha="right", fontsize=9)
    beside(axes, 70, -0.85, "median", ha="right", fontsize=8, color=FAINT)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: count(value))
    axes.set_yticks(range(len(rows)), [named(name) for name, _ in rows])
    axes.set_ylim(len(rows) - 0.45, -0.55)
    axes.set_xlabel("tokens a document")
    low, high = PERCENTILES[0], PERCENTILES[-1]
    axes.set_title(f"Length of documents, {low}th to {high}th percentile", pad=18)
    axes.tick_params(axis="y", length=0)
    grid(axes, "x")
    return made


def _paint(fill: tuple[str, str]) -> dict[str, Any]:
    return {"facecolor": fill[0], "hatch": fill[1], "edgecolor": "#777777", "linewidth": 0.4}


def _short(text: str, most: int = 34) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
