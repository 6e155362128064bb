"""A scaling study in words and tables: for the terminal, as a page, as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from alpenglow_analysis.facts_table import moment, some
from alpenglow_analysis.page import Block, Card, Figure, Note, Page, Section, Sentences, Table
from alpenglow_analysis.scaling_fit import Fit
from alpenglow_analysis.scaling_predicted import Predicted
from alpenglow_analysis.scaling_study import Point, ScalingStudy, Series
from alpenglow_analysis.units import count, hours, percent, seconds

FORMAT, VERSION = "alpenglow-scaling", 1
TITLES = {"strong": "Strong scaling", "weak": "Weak scaling"}
KEPT = {"strong": "the global batch is kept", "weak": "micro-batches of a replica are kept"}


def olcf(series: Series) -> Table:
    """OLCF's form: nProc, actual, ideal; time to solution is that of a step."""
    rows = [[f"{p.ranks:,}", f"{p.seconds:.4g}", f"{series.ideal(p):.4g}"] for p in series.points]
    return Table(["nProc", "actual (s)", "ideal (s)"], rows)


def points_table(series: Series, ahead: Predicted) -> Table:
    """Everything of each size; `ahead` adds what was predicted."""
    heads = ["nProc", "nodes", "layout", "m", "batch", "bubble", "step, measured", "spread",
             "ideal", "efficiency", "tokens/s", "communication"]  # fmt: skip
    if ahead:
        heads += ["predicted", "error"]
    rows = []
    for place, p in enumerate(series.points):
        share = p.communication
        row = [
            f"{p.ranks:,}", f"{p.nodes:,}", p.layout, f"{p.micro_batches:,}",
            f"{p.global_batch_size:,}", percent(p.bubble), seconds(p.seconds),
            percent(p.spread) if len(p.repeats) > 1 else "", seconds(series.ideal(p)),
            percent(series.efficiency(p)), count(p.tokens_per_second),
            "" if share is None else percent(share),
        ]  # fmt: skip
        if ahead:
            value = ahead[place]
            error = f"{100 * (value / p.seconds - 1):+.1f} %".replace("-", "−")
            row += [seconds(value), error]
        rows.append(row)
    return Table(heads, rows, text=frozenset({2}))


def fits_table(fits: Mapping[str, Sequence[Fit]]) -> Table:
    """The laws."""
    rows = []
    for kind, found in fits.items():
        for fit in found:
            interval = ""
            if fit.interval is not None:
                interval = " to ".join(_value(fit, end) for end in fit.interval)
            rows.append([
                TITLES[kind], fit.law, fit.parameter, _value(fit, fit.value), interval,
                percent(fit.error),
            ])  # fmt: skip
    heads = ["series", "law", "parameter", "value", "5 to 95 %", "worst point"]
    return Table(heads, rows, text=frozenset({1, 2}))


def _value(fit: Fit, value: float) -> str:
    return percent(value) if fit.parameter == "serial share" else f"{value:.3f}".replace("-", "−")


def notes(study: ScalingStudy, why: str, ahead: bool, error: float) -> list[str]:
    """What a reader has to know."""
    lines = []
    if study.synthetic:
        lines.append("This study is synthetic: a program made its runs, nothing was measured.")
    several = max(len(p.repeats) for s in study.series for p in s.points)
    lines.append(
        "A step is the median of a run's steps behind its warm-up, a size the median of up to "
        f"{several} runs; spread is the slowest of them less the fastest."
        if several > 1 else
        "Each size was run once: how far runs of one size lie apart is not known."
    )  # fmt: skip
    first = {s.kind: s.points[0].ranks for s in study.series}
    told = " and ".join(f"{kind} from {some(ranks, 'rank')}" for kind, ranks in first.items())
    lines.append(f"Ideal is counted from the smallest size: {told}.")
    lines.append(
        "Communication is the share of ranks' time inside messages and collectives, waiting for "
        "their partners included."
    )
    if ahead:
        lines.append(f"Predicted steps are taken to be within ± {100 * error:.3g} % (9 of 10).")
    if why:
        lines.append(f"{why[0].upper()}{why[1:]}.")
    lines += [f"Left out: {each}." for each in study.missing]
    return lines


def headline(study: ScalingStudy) -> str:
    """What was studied."""
    ranks = [p.ranks for s in study.series for p in s.points]
    word = "Synthetic: " if study.synthetic else ""
    return (
        f"{word}{study.recipe} on {study.machine}, {min(ranks):,} to {max(ranks):,} ranks, "
        f"{hours(study.node_hours)} node-hours"
    )


def page(
    study: ScalingStudy,
    ahead: Mapping[str, Predicted],
    fits: Mapping[str, Sequence[Fit]],
    told: Sequence[str],
    figures: Sequence[Figure],
    now: float,
) -> Page:
    """All of it as a page.

    Args:
        study: as it was read.
        ahead: predicted seconds by series.
        fits: laws by series.
        told: sentences of `notes`.
        figures: time and efficiency of each series, then rates and communication.
        now: unix time.
    """
    cards = []
    for series in study.series:
        last = series.points[-1]
        cards.append(
            Card(f"{TITLES[series.kind]}, {last.ranks:,} ranks", percent(series.efficiency(last)),
                 f"efficiency from {some(series.points[0].ranks, 'rank')}")
        )  # fmt: skip
    most = max((p for s in study.series for p in s.points), key=lambda p: p.tokens_per_second)
    each = f"{some(most.ranks, 'rank')}, {most.tokens_per_second / most.ranks:,.0f} a rank"
    cards.append(Card("Fastest", f"{count(most.tokens_per_second)} tokens/s", each))
    sections = [Section("notes", "How to read it", [Sentences(list(told))])]
    for place, series in enumerate(study.series):
        blocks: list[Block] = [olcf(series), *figures[place : place + 1]]
        blocks.append(points_table(series, ahead.get(series.kind, {})))
        blocks.append(Note(f"In this series {KEPT[series.kind]}; m is micro-batches a replica, "
                           "and bubble what the schedule idles with equal stages."))  # fmt: skip
        sections.append(Section(series.kind, TITLES[series.kind], blocks))
    if any(fits.values()):
        sections.append(Section("fits", "Laws fitted", [fits_table(fits)]))
    rest = list(figures[len(study.series) :])
    if rest:
        sections.append(Section("rates", "Rate and communication", list(rest)))
    return Page(
        title="Scaling study",
        about="time to solution, actual and ideal",
        subtitle=headline(study),
        cards=cards,
        losses=[],
        sections=sections,
        made=moment(now),
        source="Made by a program." if study.synthetic else
        f"Measured by the runs in {study.path.name}/runs; predicted columns say so.",
    )  # fmt: skip


def scaling_json(
    study: ScalingStudy, ahead: Mapping[str, Predicted], fits: Mapping[str, Sequence[Fit]],
    told: Sequence[str],
) -> str:  # fmt: skip
    """The same as JSON."""

    def one(series: Series, place: int, p: Point) -> dict[str, Any]:
        value = {
            "ranks": p.ranks, "nodes": p.nodes, "pipeline": p.pipeline, "tensor": p.tensor,
            "data": p.data, "micro_batches": p.micro_batches,
            "global_batch_size": p.global_batch_size, "bubble": p.bubble,
            "measured_seconds": p.seconds, "ideal_seconds": series.ideal(p),
            "efficiency": series.efficiency(p), "tokens_per_second": p.tokens_per_second,
            "communication": p.communication,
            "repeats": [
                {"run": r.run, "steps": r.steps, "seconds": r.seconds} for r in p.repeats
            ],
        }  # fmt: skip
        if place in ahead.get(series.kind, {}):
            value["predicted_seconds"] = ahead[series.kind][place]
        return value

    value = {
        "format": FORMAT,
        "version": VERSION,
        "synthetic": study.synthetic,
        "machine": study.machine,
        "recipe": study.recipe,
        "node_hours": study.node_hours,
        "series": {
            s.kind: [one(s, place, p) for place, p in enumerate(s.points)] for s in study.series
        },
        "fits": {
            kind: [
                {"law": f.law, "parameter": f.parameter, "value": f.value,
                 "interval": f.interval, "error": f.error}
                for f in found
            ]
            for kind, found in fits.items()
        },
        "missing": list(study.missing),
        "notes": list(told),
    }  # fmt: skip
    return json.dumps(value, indent=1) + "\n"
