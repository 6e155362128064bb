"""A simulated campaign in words and tables: for the terminal, as a page, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from alpenglow_analysis.campaign import Campaign
from alpenglow_analysis.campaign_choices import Effect
from alpenglow_analysis.campaign_outcome import (
    DEFINITIONS,
    PERCENTILES,
    PIECES,
    STEPS,
    Outcome,
    percentiles,
)
from alpenglow_analysis.campaign_sources import Source, inputs
from alpenglow_analysis.columns import laid
from alpenglow_analysis.facts_table import moment
from alpenglow_analysis.page import (
    Block,
    Card,
    Figure,
    Note,
    Page,
    Section,
    Sentences,
    Table,
    Terms,
)
from alpenglow_analysis.quantity import plain
from alpenglow_analysis.units import billions, hours, percent, seconds
from alpenglow_lsf.chain import RESTARTS

FORMAT, VERSION = "alpenglow-campaign", 1


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def quantities(outcome: Outcome) -> dict[str, tuple[str, Any, str]]:
    """Key -> label, values [campaigns], unit; what is unknown is left out."""
    found: dict[str, tuple[str, Any, str]] = {
        "days": ("Calendar days", outcome.days, "days"),
        "queue_days": ("of them in the queue", outcome.queue_days, "days"),
        "node_hours": ("Node-hours", outcome.node_hours, "node-hours"),
        "dollars": ("Dollars", outcome.dollars, "dollars"),
        "mwh": ("MWh", outcome.mwh, "MWh"),
        "segments": ("Jobs", outcome.segments, "jobs"),
        "failures": ("Failures", outcome.failures, "failures"),
        "relaunches": ("of them gone over within the job", outcome.relaunches, "failures"),
        "killed": ("Jobs cut by the walltime", outcome.killed, "jobs"),
        "lost_steps": ("Steps trained again", outcome.lost_steps, "steps"),
        "effective_training_time": (
            DEFINITIONS["effective_training_time"][0], outcome.effective_training_time, "share",
        ),
        "ettr": (DEFINITIONS["ettr"][0], outcome.ettr, "share"),
    }  # fmt: skip
    always = {"days", "node_hours", "segments", "failures"}
    return {
        key: row
        for key, row in found.items()
        if row[1] is not None and (key in always or bool(np.any(row[1])))
    }


def results(outcome: Outcome) -> Table:
    """The percentiles of everything."""
    rows = []
    for label, values, unit in quantities(outcome).values():
        spans = percentiles(values)
        write = percent if unit == "share" else _number
        rows.append([label, *(write(value) for value in spans), write(float(np.mean(values)))])
    return Table(["", *(f"{p} %" for p in PERCENTILES), "mean"], rows)


def split(outcome: Outcome) -> Table:
    """Mean node-hours by piece; the last row is their sum."""
    total = float(outcome.node_hours.mean())
    rows = [
        [PIECES[name], hours(value), percent(value / total)]
        for name, value in outcome.split().items()
        if value or name == STEPS
    ]
    rows.append(["Charged", hours(total), percent(1.0)])
    return Table(["piece", "node-hours", "share"], rows, sum=True)


def choices_table(outcome: Outcome, effects: Sequence[Effect]) -> Table:
    """What each choice gives and changes; the plan itself first."""

    def row(label: str, got: Outcome, change: tuple[float, float] | None, note: str) -> list[str]:
        low, middle, high = percentiles(got.days)
        days, charged = ("", "") if change is None else (_signed(change[0]), _signed(change[1]))
        return [
            label, f"{middle:.3g} ({low:.3g} to {high:.3g})", days,
            hours(percentiles(got.node_hours)[1]), charged,
            percent(float(np.median(got.effective_training_time))), note,
        ]  # fmt: skip

    heads = [
        "choice",
        "days (10 to 90 %)",
        "change",
        "node-hours",
        "change",
        "effective",
        "with",
    ]
    rows = [row("as planned", outcome, None, "")]
    for each in effects:
        change = (each.days, each.node_hours)
        rows.append(row(each.choice.label, each.outcome, change, each.choice.note))
    return Table(heads, rows, text=frozenset({6}), wordy=True)


def _signed(value: float) -> str:
    if abs(value) < 0.005:
        return "0"
    text = f"{value:+,.0f}" if abs(value) >= 100 else f"{value:+.3g}"
    return text.replace("-", "−")


def notes(outcome: Outcome, impossible: Sequence[str] = ()) -> list[str]:
    """What a reader has to know, in sentences; the weightiest first."""
    plan = outcome.campaign
    lines = []
    if plan.wait.assumed:
        lines.append(
            "The queue is assumed, no site's: give its waits by --wait-file, or take those of past "
            "runs by --wait-runs; days hang on it, node-hours do not."
        )
    most = int(np.percentile(outcome.failed_jobs, 95))
    if most > RESTARTS:
        lines.append(
            f"One campaign in twenty has {most} failed jobs or more, and a chain forgives "
            f"{RESTARTS}: start it with --restarts {most} or more."
        )
    if plan.price is None:
        lines.append("Dollars are left out: no price a node-hour is known (--price).")
    if plan.node_watts is None:
        lines.append(
            "MWh are left out: no power of a node is known (--node-watts, or --power-from a run)."
        )
    lines += [f"Not simulated: {text}." for text in impossible]
    return lines


def text(
    outcome: Outcome, effects: Sequence[Effect], sources: Mapping[str, Source], many: Sequence[str]
) -> str:
    """All of it for a terminal."""
    plan = outcome.campaign
    parts = [headline(plan), "", laid(results(outcome)), "", laid(split(outcome)), ""]
    if effects:
        table = choices_table(outcome, effects)
        shown = Table(table.heads[:-1], [row[:-1] for row in table.rows])
        parts += [laid(shown), ""]
    rows = [[label, value, source] for label, value, source in inputs(plan, sources)]
    parts += [laid(Table(["input", "value", "source"], rows, text=frozenset({1, 2}))), ""]
    return "\n".join([*parts, *many])


def headline(plan: Campaign) -> str:
    """The plan in one line."""
    job, work = plan.job, plan.work
    spare = f", {job.spare} spare" if job.spare else ""
    return (
        f"{billions(work.tokens)} tokens in {work.steps:,} steps of {work.step_s:.3g} s, in jobs "
        f"of {job.nodes:,} nodes{spare} and {seconds(job.walltime_s)} in queue {job.queue} of "
        f"{job.machine}"
    )


def page(
    outcome: Outcome,
    effects: Sequence[Effect],
    sources: Mapping[str, Source],
    told: Sequence[str],
    figures: Sequence[Figure],
    now: float,
) -> Page:
    """All of it as a page.

    Args:
        outcome: the simulated plan.
        effects: choices beside it.
        sources: where inputs are from, by field.
        told: sentences of `notes`.
        figures: as drawn, those of the plan first, those of choices second.
        now: unix time.
    """
    plan = outcome.campaign
    low, middle, high = percentiles(outcome.days)
    charged = percentiles(outcome.node_hours)
    cards = [
        Card("Calendar", f"{middle:.3g} days", f"{low:.3g} to {high:.3g} in 80 % of campaigns"),
        Card("Charge", f"{hours(charged[1])} node-h",
             f"{hours(charged[0])} to {hours(charged[2])}"),
        Card("Jobs", _number(percentiles(outcome.segments)[1]),
             f"{_number(percentiles(outcome.failures)[1])} failures"),
        Card("Effective training time", percent(float(np.median(outcome.effective_training_time))),
             "MegaScale's definition; with the queue (Meta's ETTR) "
             + percent(float(np.median(outcome.ettr)))),
    ]  # fmt: skip
    first: list[Block] = [results(outcome), *figures[:1]]
    if told:
        first.append(Sentences(list(told)))
    sections = [
        Section("results", f"{len(outcome):,} simulated campaigns", first),
        Section("split", "Where the node-hours go", [split(outcome)]),
    ]
    if effects:
        blocks: list[Block] = [choices_table(outcome, effects), *figures[1:]]
        blocks.append(
            Note(
                f"One thing is changed at a time, {len(effects[0].outcome):,} campaigns each; all "
                "meet the same failures and the same queue. Changes are of medians."
            )
        )
        sections.append(Section("choices", "What each choice changes", blocks))
    table = Table(
        ["input", "value", "source"],
        [list(row) for row in inputs(plan, sources)],
        text=frozenset({1, 2}),
        wordy=True,
    )
    sections.append(Section("inputs", "What went in", [table]))
    words = [(name, text) for name, text in DEFINITIONS.values()]
    sections.append(Section("words", "Words", [Terms(words)]))
    return Page(
        title="Campaign",
        about="how long a run takes and what it is charged",
        subtitle=headline(plan),
        cards=cards,
        losses=[],
        sections=sections,
        made=moment(now),
        source="All numbers are predictions from the inputs named; nothing here was measured but "
        "what they say was.",
    )


def campaign_json(
    outcome: Outcome,
    effects: Sequence[Effect],
    sources: Mapping[str, Source],
    told: Sequence[str],
    seed: int,
) -> str:
    """The same as JSON: percentiles, means, pieces, choices and inputs."""

    def one(got: Outcome) -> dict[str, Any]:
        table = {}
        for key, (_, values, unit) in quantities(got).items():
            spans = dict(zip((f"p{p}" for p in PERCENTILES), percentiles(values), strict=True))
            table[key] = {"unit": unit, **spans, "mean": float(np.mean(values))}
        return table

    value = {
        "format": FORMAT,
        "version": VERSION,
        "predicted": True,
        "campaigns": len(outcome),
        "seed": seed,
        "inputs": [
            {"input": label, "value": text, "source": source}
            for label, text, source in inputs(outcome.campaign, sources)
        ],
        "results": one(outcome),
        "node_hours": {name: plain(hours) for name, hours in outcome.split().items()},
        "choices": [
            {
                "group": each.choice.group,
                "choice": each.choice.label,
                "assumed": each.choice.note,
                "days": plain(each.days),
                "node_hours": plain(each.node_hours),
                "results": one(each.outcome),
            }
            for each in effects
        ],
        "definitions": {key: text for key, (_, text) in DEFINITIONS.items()},
        "notes": list(told),
    }
    return json.dumps(value, indent=1) + "\n"
