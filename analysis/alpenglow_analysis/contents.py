"""Which sections a report has, and what stands in each; a section without data is not there."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from alpenglow_analysis import method
from alpenglow_analysis.account_table import Entry, account_table
from alpenglow_analysis.efficiencies import Efficiencies
from alpenglow_analysis.facts_table import (
    day,
    facts_pairs,
    jobs_table,
    moment,
    other_jobs,
    some,
)
from alpenglow_analysis.findings import findings
from alpenglow_analysis.ideal import gaps, shown
from alpenglow_analysis.missing import missing, unknown
from alpenglow_analysis.page import (
    Block,
    Figure,
    Note,
    Page,
    Pairs,
    Section,
    Sentences,
    Table,
    Terms,
)
from alpenglow_analysis.power import Power
from alpenglow_analysis.run import Run
from alpenglow_analysis.scaling import Rate, idle_equivalents
from alpenglow_analysis.stragglers import Straggling
from alpenglow_analysis.study import Study
from alpenglow_analysis.study_sections import (
    clock_sentences,
    efficiency_blocks,
    straggler_blocks,
    whatif_blocks,
)
from alpenglow_analysis.summary import cards, losses
from alpenglow_analysis.units import amount, billions, count, percent
from alpenglow_analysis.utilisation import Account
from alpenglow_analysis.whatif import Scenario


@dataclass(frozen=True)
class Material:
    """All that a report is written from."""

    run: Run
    account: Account
    rates: list[Rate]
    entries: list[Entry]
    study: Study
    price: float | None = None
    power: Power | None = None
    straggling: Straggling | None = None
    changes: list[Scenario] = field(default_factory=list)
    """What-if scenarios."""
    efficiencies: Efficiencies | None = None
    others: list[tuple[Run, Account, list[Rate]]] = field(default_factory=list)
    """Runs to compare with."""


def contents(material: Material, figures: Mapping[str, Figure]) -> Page:
    """Put the report of a run into words.

    Args:
        material: what is known.
        figures: by name; each goes into its section.
    """
    run, account = material.run, material.account
    facts = run.facts
    model = f"{billions(facts.parameters)} parameters" if facts.parameters else "model size unknown"
    sections = [
        section
        for make in SECTIONS
        if (section := make(material, figures)) is not None and section.blocks
    ]
    said = " ".join(section.title + " ".join(map(str, section.blocks)) for section in sections)
    words = method.glossary(said)
    if words:
        sections.append(Section("glossary", "Glossary", [Terms(words)]))
    return Page(
        title=facts.name,
        subtitle=f"{facts.activity} · {model} · {some(facts.ranks, facts.unit)} on "
        f"{some(facts.nodes, 'node')} of {facts.machine} · {day(run.segments[0].started)}",
        cards=cards(run, account, material.rates, material.price, material.power),
        losses=losses(run, account, material.study, material.changes),
        sections=sections,
        made=moment(datetime.datetime.now(tz=datetime.UTC).timestamp()),
        missing=missing(run, account, material.price, material.power),
    )


def slow_ranks(found: Study) -> list[int]:
    """Ranks that were slow for a while, those first that lost most by it."""
    return list(dict.fromkeys(rank for one in found.episodes for rank in one.ranks))


def _pictures(figures: Mapping[str, Figure], *names: str) -> list[Block]:
    return [figures[name] for name in names if name in figures]


def _short(material: Material, figures: Mapping[str, Figure]) -> Section:
    said = findings(
        material.run, material.account, material.rates, material.study, changes=material.changes
    )
    return Section(
        "short", "In words", [Sentences([re.sub(r"^rank\b", "Rank", line) for line in said])]
    )


def _account(material: Material, figures: Mapping[str, Figure]) -> Section:
    unit = material.run.facts.unit
    note = (
        f"{unit}-equivalents: share of the charge × {unit}s charged; the baseline is the charged "
        "time."
    )
    if material.entries[-1].mwh is not None:
        note += (
            " MWh: the energy of each job by the share of its time, all nodes at the mean power of "
        )
        "those that were sampled; waiting and computing are not told apart."
    table = account_table(material.run, material.entries, material.account.charged_ns)
    return Section(
        "account",
        "From charged to useful",
        [*_pictures(figures, "waterfall"), table, Note(note), *map(Note, material.account.notes)],
    )


def _ideal(material: Material, figures: Mapping[str, Figure]) -> Section | None:
    run, rates = material.run, material.rates
    if not rates:
        return None
    unit = run.facts.unit
    blocks = [*_pictures(figures, "ideal"), _rates(run, rates)]
    note = (
        f"Idle {unit}s = N × (1 − actual / ideal), the ideal being that of the row; N = "
        f"{run.facts.ranks:,}."
    )
    drawn = shown(rates)
    if len(drawn) > 1:
        note += (
            f" In the figure all gaps are N × (above − below) / '{drawn[0].label.lower()}', so "
            f"they add up: {amount(sum(gap.equivalents for gap in gaps(run, rates)))} of "
            f"{run.facts.ranks:,} {unit}s."
        )
    return Section("ideal", "Ideal and actual throughput", [*blocks, Note(note)])


def _rates(run: Run, rates: list[Rate]) -> Table:
    facts = run.facts
    actual = [rate for rate in rates if rate.measured]
    heads = ["", "tokens/s"]
    heads += ["model FLOP/s"] if facts.flops_per_token else []
    heads += [f"idle {facts.unit}s, {rate.label.lower()}" for rate in actual]
    rows = []
    for i, rate in enumerate(rates):
        cells = [rate.label, count(rate.tokens_per_s)]
        if facts.flops_per_token:
            cells.append(count(rate.tokens_per_s * facts.flops_per_token))
        for other in actual:
            below = rates.index(other) > i
            lost = idle_equivalents(facts.ranks, other.tokens_per_s, rate.tokens_per_s)
            cells.append(amount(lost) if below else "")
        rows.append([*cells, rate.baseline])
    return Table([*heads, "what it is"], rows, text=frozenset({len(heads)}), wordy=True)


def _compared(material: Material, figures: Mapping[str, Figure]) -> Section | None:
    if not material.others:
        return None
    from alpenglow_analysis.against import against

    table = against((material.run, material.account, material.rates), material.others)
    return Section(
        "compared",
        "Beside other runs",
        [
            *_pictures(figures, "schedules"),
            table,
            Note("Shares are of each run's own charge; the difference is in points of percent."),
        ],
    )


def _step(material: Material, figures: Mapping[str, Figure]) -> Section:
    heat = () if material.straggling is not None else ("heat",)
    return Section("step", "Rank by rank", [*_pictures(figures, "timeline", "ranks", *heat)])


def _stragglers(material: Material, figures: Mapping[str, Figure]) -> Section | None:
    if material.straggling is None or material.run.facts.ranks == 1:
        return None
    blocks = straggler_blocks(material.run, material.straggling)
    return Section("stragglers", "Stragglers", [*_pictures(figures, "heat"), *blocks])


def _whatif(material: Material, figures: Mapping[str, Figure]) -> Section | None:
    if not material.changes:
        return None
    blocks = whatif_blocks(material.run, material.changes)
    return Section("whatif", "What if", [*_pictures(figures, "gains"), *blocks])


def _efficiencies(material: Material, figures: Mapping[str, Figure]) -> Section | None:
    if material.efficiencies is None:
        return None
    return Section("efficiencies", "Efficiencies", efficiency_blocks(material.efficiencies))


def _clocks(material: Material, figures: Mapping[str, Figure]) -> Section:
    said = clock_sentences(material.study.sample)
    return Section("clocks", "Clocks", [Sentences(said)] if said else [])


def _chain(material: Material, figures: Mapping[str, Figure]) -> Section:
    blocks = [*_pictures(figures, "chain"), jobs_table(material.run)]
    others = other_jobs(material.run)
    return Section("chain", "The chain of jobs", [*blocks, *([Note(others)] if others else [])])


def _power(material: Material, figures: Mapping[str, Figure]) -> Section | None:
    found = material.power
    if found is None:
        return None
    rows = [
        ("Energy", f"{found.mwh:.4g} MWh, by {found.how} on {some(found.nodes, 'node')}"),
        ("Measured", f"{percent(found.covered)} of the charged node-hours; the rest at their mean"),
    ]
    tokens = float(material.run.tokens(material.account.step).sum())
    if tokens:
        joules = found.mwh * 3.6e9 / tokens
        rows.append(("A token", f"{joules:.3g} J, over the charged time"))
    return Section("power", "Power", [*_pictures(figures, "power"), Pairs(rows)])


def _curves(material: Material, figures: Mapping[str, Figure]) -> Section:
    return Section("curves", "Loss and throughput", [*_pictures(figures, "curves")])


def _facts(material: Material, figures: Mapping[str, Figure]) -> Section:
    pairs = facts_pairs(material.run, material.account, material.price)
    return Section("facts", "Facts", [Pairs(pairs)])


def _missing(material: Material, figures: Mapping[str, Figure]) -> Section:
    said = missing(material.run, material.account, material.price, material.power)
    said += unknown(material.run, material.price, material.power)
    return Section("missing", "What is missing", [Sentences(said)] if said else [])


def _method(material: Material, figures: Mapping[str, Figure]) -> Section:
    run, account = material.run, material.account
    rows = method.method(run, account) + method.flops(run, account, material.rates)
    return Section("method", "How it is counted", [Pairs(rows)])


SECTIONS: list[Callable[[Material, Mapping[str, Figure]], Section | None]] = [
    _account, _short, _ideal, _compared, _step, _stragglers, _whatif, _efficiencies, _chain, _power,
    _clocks, _curves, _facts, _missing, _method,
]  # fmt: skip
"""In the order of the page."""
