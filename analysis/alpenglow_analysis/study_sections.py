"""What the replays of sampled steps say: stragglers, what-if, efficiencies, clocks."""

from __future__ import annotations

from collections.abc import Sequence

from alpenglow_analysis.efficiencies import Efficiencies
from alpenglow_analysis.facts_table import some
from alpenglow_analysis.page import Block, Branch, Note, Sentences, Table, Tree
from alpenglow_analysis.run import Run
from alpenglow_analysis.sample import Sample
from alpenglow_analysis.stragglers import Straggling
from alpenglow_analysis.units import amount, percent, seconds
from alpenglow_analysis.whatif import Scenario

WORTH_A_ROW = 0.02
"""Of a slowdown; what is to blame for less has no row."""
MOST_ROWS = 8
MOST_RANKS = 6
"""Ranks that are named in a row."""


def straggler_blocks(run: Run, found: Straggling) -> list[Block]:
    """The slowdown, who is to blame for it, and slow spells over all steps."""
    blocks: list[Block] = [
        Sentences(
            [
                f"S = T actual / T ideal = {found.slowdown:.3f} over the steps that the sample "
                f"stands for: {percent(found.wasted)} of their time is lost because ranks, stages "
                "and transfers are not alike.",
                *_sources(found),
            ]
        )
    ]
    rows = [
        [
            blame.where,
            _named(blame.ranks),
            _named(blame.stages),
            f"{blame.factor:.3f}",
            f"{blame.slowdown:.3f}",
            percent(blame.share),
        ]
        for blame in found.nodes
        if blame.share >= WORTH_A_ROW
    ][:MOST_ROWS]
    if rows:
        heads = ["node or rank", "ranks", "stages", "compute, x peers", "steps, x peers'", "of all"]
        blocks.append(Table(heads, rows))
    spells = [
        [
            one.where,
            "all" if one.whole_run else f"{one.first_step:,} to {one.last_step:,}",
            f"{one.steps:,}",
            f"{one.factor:.3f}",
            f"{one.excess:.3g}",
        ]
        for one in found.episodes[:MOST_ROWS]
    ]
    if spells:
        heads = ["slow for a while", "steps", "that count", "compute, x peers", "steps' worth lost"]
        blocks.append(Table(heads, spells))
        more = len(found.episodes) - len(spells)
        if more > 0:
            blocks.append(Note(f"{more} more spells are in report.json."))
    blocks.append(
        Note(
            "T ideal: passes as long as the mean of their kind, transfers the median; the "
            "schedule's bubble is in both (Lin et al. 2025, OSDI). Steps, x peers': how much "
            "longer steps get with this node or rank as it was and every other like the middle "
            "replica; of all: its share of what all of them and the transfers add. Shares need not "
            "add up to 100 %."
        )
    )
    return blocks


def _sources(found: Straggling) -> list[str]:
    stages = [(share, stage) for stage, share in enumerate(found.by_stage) if share >= WORTH_A_ROW]
    said = []
    if stages and len(found.by_stage) > 1:
        named = ", ".join(
            f"stage {stage}: {percent(share)}" for share, stage in sorted(stages, reverse=True)[:6]
        )
        said.append(f"Of S − 1 is left with one stage alone as it was: {named}.")
    if found.transfers >= WORTH_A_ROW:
        said.append(f"With the transfers alone as they were: {percent(found.transfers)} of S − 1.")
    return said


def _named(numbers: Sequence[int]) -> str:
    some_of = ", ".join(map(str, numbers[:MOST_RANKS]))
    return some_of + (f" and {len(numbers) - MOST_RANKS} more" if len(numbers) > MOST_RANKS else "")


def whatif_blocks(run: Run, changes: Sequence[Scenario]) -> list[Block]:
    """Every scenario with its gain, and what it supposes."""
    rows = [
        [
            change.label,
            seconds(change.step_s),
            f"{'−' if change.gain >= 0 else '+'}{percent(abs(change.gain))}",
            amount(change.equivalents),
            change.assumes,
        ]
        for change in changes
    ]
    heads = ["change", "step", "change of it", f"{run.facts.unit}-equivalents", "supposed"]
    return [
        Table(heads, rows, text=frozenset({4}), wordy=True),
        Note(
            "Sampled steps played again with one thing changed; the baseline is the same replay "
            "unchanged. Gains do not add up: two changes together may bring more or less."
        ),
    ]


def efficiency_blocks(found: Efficiencies) -> list[Block]:
    """POP's and TALP's trees; a number is the product of those below it."""
    pop, talp = found.pop, found.talp
    communication = Branch(
        "Communication efficiency",
        _number(pop.communication),
        "max useful / runtime",
        pop.communication,
        (
            Branch(
                "Serialisation",
                _number(pop.serialisation),
                "max useful / runtime on an ideal network; the pipeline bubble lies here",
                pop.serialisation,
            ),
            Branch(
                "Transfer",
                _number(pop.transfer),
                "runtime on an ideal network / runtime",
                pop.transfer,
            ),
        ),
    )
    even = "mean useful / max useful"
    return [
        Tree(
            (
                Branch(
                    "POP: parallel efficiency",
                    _number(pop.parallel),
                    "mean useful / runtime of a step",
                    pop.parallel,
                    (
                        Branch("Load balance", _number(pop.load_balance), even, pop.load_balance),
                        communication,
                    ),
                ),
                Branch(
                    "TALP: device parallel efficiency",
                    _number(talp.parallel),
                    "useful / (elapsed x devices)",
                    talp.parallel,
                    (
                        Branch("Load balance", _number(talp.load_balance), even, talp.load_balance),
                        Branch(
                            "Communication efficiency",
                            _number(talp.communication),
                            "max useful / max active",
                            talp.communication,
                        ),
                        Branch(
                            "Orchestration",
                            _number(talp.orchestration),
                            "max active / elapsed",
                            talp.orchestration,
                        ),
                    ),
                ),
            )
        ),
        Note(
            f"A number is the product of those below it; above 0.8 counts as acceptable with POP. "
            f"Within steps: POP's rest on {some(found.steps, 'sampled step')}, TALP's on all."
        ),
    ]


def _number(value: float) -> str:
    return f"{value:.3f}"


def clock_sentences(sample: Sample | None) -> list[str]:
    """How well the clocks of the nodes agree, job by job."""
    if sample is None:
        return []
    several = len(sample.alignments) > 1
    said: list[str] = []
    for name, alignment in sample.alignments.items():
        for i, text in enumerate(alignment.sentences):
            said.append(f"Job {name}: {text}" if several and i == 0 else text)
    return list(dict.fromkeys(said))
