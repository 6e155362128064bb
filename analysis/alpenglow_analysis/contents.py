"""What stands in a report, as plain text ready to be laid out: the templates only place it."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

import numpy as np

from alpenglow_analysis.findings import findings
from alpenglow_analysis.run import Run
from alpenglow_analysis.scaling import Rate, idle_equivalents, model_flops_utilisation
from alpenglow_analysis.segment import Segment
from alpenglow_analysis.units import billions, count, hours, percent, seconds, work
from alpenglow_analysis.utilisation import PIECES, Account


@dataclass(frozen=True)
class Figure:
    """A figure twice: beside the markdown, and inside the page."""

    png: str
    """Path relative to report/."""
    embedded: str
    """A data: URL."""


@dataclass(frozen=True)
class Table:
    """Column heads and rows; the first column is text, the rest is set to the right."""

    heads: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Contents:
    """A whole report."""

    title: str
    subtitle: str
    cards: list[tuple[str, str, str]]
    """(what, number, what it is measured against)."""
    findings: list[str]
    pieces: Table
    rates: Table
    flops: list[str]
    facts: list[tuple[str, str]]
    segments: Table
    others: str
    missing: list[str]
    figures: dict[str, Figure]
    unit: str
    made: str


def contents(
    run: Run,
    account: Account,
    rates: list[Rate],
    figures: dict[str, Figure],
    price: float | None,
) -> Contents:
    """Put the report of a run into words."""
    facts = run.facts
    model = f"{billions(facts.parameters)} parameters" if facts.parameters else "model size unknown"
    return Contents(
        title=facts.name,
        subtitle=f"{facts.activity} · {model} · {_some(facts.ranks, facts.unit)} on "
        f"{_some(facts.nodes, 'node')} of {facts.machine} · {_day(run.segments[0].started)}",
        cards=_cards(run, account, rates, price),
        findings=findings(run, account, rates),
        pieces=_pieces(run, account, price),
        rates=_rates(run, rates),
        flops=_flops(run, account, rates) + _sharing(run),
        facts=_facts(run, account, price),
        segments=_segments(run),
        others=_others(run),
        missing=[damage[0].upper() + damage[1:] + "." for damage in run.damages],
        figures=figures,
        unit=facts.unit,
        made=_time(datetime.datetime.now(tz=datetime.UTC).timestamp()),
    )


def _plural(unit: str) -> str:
    return f"{unit}s"


def _some(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _time(unix: float) -> str:
    return f"{datetime.datetime.fromtimestamp(unix, tz=datetime.UTC):%Y-%m-%d %H:%M UTC}"


def _day(unix: float) -> str:
    return f"{datetime.datetime.fromtimestamp(unix, tz=datetime.UTC):%-d %B %Y}"


def _node_hours(run: Run) -> float:
    return sum(segment.node_hours for segment in run.segments)


def _cards(
    run: Run, account: Account, rates: list[Rate], price: float | None
) -> list[tuple[str, str, str]]:
    facts, by_key = run.facts, {rate.key: rate for rate in rates}
    charged = f"{account.charged_ns / 3.6e12:.3g} {facts.unit}-hours"
    if price is not None:
        charged += f", ${_node_hours(run) * price:,.2f}"
    cards = [
        ("Charged", f"{hours(_node_hours(run))} node-h", charged),
        (
            "Useful compute",
            percent(account.share("compute")),
            f"of charged {facts.unit}-hours: forward and backward of steps that count",
        ),
    ]
    if "compute" in by_key and "charged" in by_key:
        ideal, actual = by_key["compute"].tokens_per_s, by_key["charged"].tokens_per_s
        cards.append(
            (
                f"Idle {_plural(facts.unit)}",
                f"{idle_equivalents(facts.ranks, actual, ideal):.3g} of {facts.ranks}",
                f"{facts.unit}-equivalents over the charged time, against compute only",
            )
        )
    if "steps" in by_key:
        cards.append(
            (
                "Throughput",
                f"{count(by_key['steps'].tokens_per_s)} tokens/s",
                f"at the median step of {seconds(float(np.median(account.step_s)))}",
            )
        )
    if len(run.metrics):
        loss = run.metrics["loss"]
        cards.append(
            ("Loss", f"{loss[0]:.2f} → {loss[-1]:.2f}", "first and last step, nats a token")
        )
    return cards


def _pieces(run: Run, account: Account, price: float | None) -> Table:
    unit, charged = run.facts.unit, max(1, account.charged_ns)
    heads = ["piece", "share of the charge", f"{unit}-time", f"{unit}-equivalents", "node-time"]
    if price is not None:
        heads.append("dollars")
    node_hours = _node_hours(run)
    slots = charged / max(1, sum(segment.elapsed_ns for segment in run.segments))

    def row(label: str, ns: float) -> list[str]:
        share = ns / charged
        cells = [
            label,
            percent(share),
            work(ns, charged, unit),
            f"{share * slots:.3g}",
            work(share * node_hours * 3.6e12, node_hours * 3.6e12, "node"),
        ]
        return cells if price is None else [*cells, f"{share * node_hours * price:,.2f}"]

    rows = [row(PIECES[key], ns) for key, ns in account.pieces.items() if ns]
    if not account.pieces["compute"]:
        rows.append(row(PIECES["compute"], 0))
    at_peak = _at_peak(run, account)
    if at_peak is not None:
        rows.append(row("· of which at peak FLOP/s (model FLOPs / peak)", at_peak))
        rows.append(row("· of which below peak", account.pieces["compute"] - at_peak))
    rows.append(row("Charged, the sum", account.charged_ns))
    return Table(heads, rows)


def _at_peak(run: Run, account: Account) -> float | None:
    """Time in ns of one rank that the model FLOPs of all steps that count take at peak."""
    facts = run.facts
    if not facts.peak_flops_per_rank or not facts.flops_per_token:
        return None
    tokens = float(run.tokens(account.step).sum())
    return 1e9 * tokens * facts.flops_per_token / facts.peak_flops_per_rank


def _rates(run: Run, rates: list[Rate]) -> Table:
    facts = run.facts
    actual = [rate for rate in rates if rate.measured]
    heads = ["", "tokens/s"]
    heads += [f"idle {_plural(facts.unit)}, {rate.label.lower()}, against it" for rate in actual]
    rows = []
    for i, rate in enumerate(rates):
        cells = [f"{rate.label}: {rate.baseline}", count(rate.tokens_per_s)]
        for other in actual:
            below = rates.index(other) > i
            lost = idle_equivalents(facts.ranks, other.tokens_per_s, rate.tokens_per_s)
            cells.append(f"{lost:.3g} of {facts.ranks}" if below else "")
        rows.append(cells)
    return Table(heads, rows)


def _flops(run: Run, account: Account, rates: list[Rate]) -> list[str]:
    steps = next((rate for rate in rates if rate.key == "steps"), None)
    if steps is None:
        return []
    facts, said = run.facts, []
    for use in model_flops_utilisation(run, steps.tokens_per_s):
        text = (
            f"Model FLOPs by {use.formula}: {use.flops_per_token:.3g} a token, so "
            f"{count(use.flops_per_s)}FLOP/s at the median step"
        )
        if use.fraction is None:
            text += "; peak FLOP/s of this machine is unknown, so is MFU."
        else:
            text += (
                f"; MFU = tokens/s x FLOPs a token / ({_plural(facts.unit)} x peak) = "
                f"{percent(use.fraction)}."
            )
        said.append(text)
    if account.pieces["recompute"] and facts.peak_flops_per_rank:
        said.append("MFU does not count recomputation, which this run did.")
    return said


def _sharing(run: Run) -> list[str]:
    if run.facts.unit != "rank":
        return []
    return [
        "Ranks have no GPU of their own here. Where they share cores, a pass takes as long as the "
        "sharing makes it, so the ideals are those of this crowd and not of free cores."
    ]


def _facts(run: Run, account: Account, price: float | None) -> list[tuple[str, str]]:
    facts, shape, metrics = run.facts, run.facts.layout, run.metrics
    rows = [
        ("Run", f"{facts.name} ({facts.activity})"),
        ("Begun", _time(run.segments[0].started)),
        ("Code", facts.code_version or "unknown"),
        ("Parameters", f"{facts.parameters:,}" if facts.parameters else "unknown"),
        (
            "Layout",
            f"pipeline {shape.pipeline} x tensor {shape.tensor} x data {shape.data} = "
            f"{shape.world} ranks",
        ),
        (
            "Batch",
            f"{facts.tokens_per_step:,} tokens a step: {shape.data} replicas x "
            f"{facts.micro_batches} micro-batches x {facts.micro_batch_size} sequences x "
            f"{facts.sequence_length:,} tokens",
        ),
        (
            "Machine",
            f"{facts.machine}: {facts.nodes} nodes, {facts.ranks_per_node} ranks a node, "
            + (f"{facts.gpus_per_node} GPUs a node" if facts.gpus_per_node else "no GPUs"),
        ),
        (
            "Peak",
            f"{facts.peak_flops_per_rank / 1e12:.4g} TFLOP/s a {facts.unit}"
            if facts.peak_flops_per_rank
            else "unknown",
        ),
        ("Segments", str(len(run.segments))),
        ("Charged", f"{hours(_node_hours(run))} node-hours ({_rule(run)})"),
    ]
    if price is not None:
        rows.append(("Price", f"${price:,.2f} a node-hour"))
    if len(metrics):
        lost = f", {account.lost_steps} more were lost at restarts" if account.lost_steps else ""
        tokens = metrics["tokens"][-1]
        trained = run.tokens(metrics.step).sum() if np.isnan(tokens) else tokens
        rows += [
            ("Steps", f"{len(metrics):,} that count{lost}"),
            ("Tokens", billions(trained)),
            ("Loss", f"{metrics['loss'][0]:.3f} at first, {metrics['loss'][-1]:.3f} at last"),
            *_validation(run),
            ("Tokens/s, median of steps", count(float(np.median(metrics["tokens_per_s"])))),
        ]
    rows += [
        (name.capitalize(), str(facts.data[name])) for name in ("tokenizer",) if name in facts.data
    ]
    return rows


def _validation(run: Run) -> list[tuple[str, str]]:
    seen = np.flatnonzero(~np.isnan(run.metrics["val_loss"]))
    if not len(seen):
        return []
    loss, step = run.metrics["val_loss"][seen[-1]], run.metrics.step[seen[-1]]
    return [("Validation loss", f"{loss:.3f} at step {step:,}, on text that was not trained on")]


def _rule(run: Run) -> str:
    asked = max(segment.nodes_asked for segment in run.segments)
    charged = max(segment.nodes for segment in run.segments)
    if asked == charged:
        return "nodes asked for x elapsed time"
    return (
        f"nodes x elapsed time; {run.facts.machine} stands in for a bigger machine: {asked} nodes "
        f"were asked for, {charged} pretend nodes were there"
    )


def _segments(run: Run) -> Table:
    heads = ["job", "started", "elapsed", "nodes", "steps", "node-hours", "ended by"]
    return Table(heads, [_segment(run, segment) for segment in run.segments])


def _segment(run: Run, segment: Segment) -> list[str]:
    first = run.first_step(segment)
    about = "≥ " if segment.estimated else ""
    last = max(segment.last_step, _last_step(run, segment))
    reason = segment.reason + (f": {segment.reason_text}" if segment.reason_text else "")
    return [
        segment.name,
        _time(segment.started),
        about + seconds(segment.elapsed_ns / 1e9),
        str(segment.nodes),
        "none" if first is None else f"{first} to {last}",
        about + hours(segment.node_hours),
        reason,
    ]


def _last_step(run: Run, segment: Segment) -> int:
    kept = [
        int(step)
        for step, name in zip(run.metrics.step, run.metrics.segment, strict=True)
        if name == segment.name
    ]
    return max(kept, default=0)


def _others(run: Run) -> str:
    if not run.others:
        return ""
    named = ", ".join(
        f"{job.activity} {job.name} ({hours(job.node_hours)} node-hours"
        + (", still open)" if job.estimated else ")")
        for job in run.others
    )
    return (
        f"Other jobs left a record in this run directory and are not part of the account: {named}."
    )
