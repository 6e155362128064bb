"""What a run was and the jobs it was made of, as tables."""

from __future__ import annotations

import datetime

import numpy as np

from alpenglow_analysis.page import Table
from alpenglow_analysis.run import Run
from alpenglow_analysis.segment import Segment
from alpenglow_analysis.units import billions, count, hours, seconds
from alpenglow_analysis.utilisation import Account


def some(number: int, noun: str) -> str:
    """A number with its noun: 1 node, 512 nodes."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def moment(unix: float) -> str:
    """A time to the minute, UTC."""
    return f"{datetime.datetime.fromtimestamp(unix, tz=datetime.UTC):%Y-%m-%d %H:%M UTC}"


def day(unix: float) -> str:
    """A date in words."""
    return f"{datetime.datetime.fromtimestamp(unix, tz=datetime.UTC):%-d %B %Y}"


def node_hours(run: Run) -> float:
    """What the run was charged."""
    return sum(segment.node_hours for segment in run.segments)


def facts_pairs(run: Run, account: Account, price: float | None) -> list[tuple[str, str]]:
    """Name and value of what is known of a run."""
    facts, shape = run.facts, run.facts.layout
    rows = [
        ("Run", f"{facts.name} ({facts.activity})"),
        ("Begun", moment(run.segments[0].started)),
        ("Code", facts.code_version or "unknown"),
        ("Parameters", f"{facts.parameters:,}" if facts.parameters else "unknown"),
        (
            "Layout",
            f"pipeline {shape.pipeline} x tensor {shape.tensor} x data {shape.data} = "
            f"{some(shape.world, 'rank')}",
        ),
        (
            "Batch",
            f"{facts.tokens_per_step:,} tokens a step: {some(shape.data, 'replica')} x "
            f"{facts.micro_batches} micro-batches x {facts.micro_batch_size} sequences x "
            f"{facts.sequence_length:,} tokens",
        ),
        (
            "Machine",
            f"{facts.machine}: {some(facts.nodes, 'node')}, {facts.ranks_per_node} ranks a node, "
            + (f"{facts.gpus_per_node} GPUs a node" if facts.gpus_per_node else "no GPUs"),
        ),
        (
            "Peak",
            f"{facts.peak_flops_per_rank / 1e12:.4g} TFLOP/s a {facts.unit}"
            if facts.peak_flops_per_rank
            else "unknown",
        ),
        ("Segments", str(len(run.segments))),
        ("Charged", f"{hours(node_hours(run))} node-hours ({charge_rule(run)})"),
    ]
    if price is not None:
        rows.append(("Price", f"${price:,.2f} a node-hour"))
    rows += _trained(run, account)
    if "tokenizer" in facts.data:
        rows.append(("Tokenizer", str(facts.data["tokenizer"])))
    return rows


def _trained(run: Run, account: Account) -> list[tuple[str, str]]:
    metrics = run.metrics
    if not len(metrics):
        return []
    lost = f", {account.lost_steps} more were lost at restarts" if account.lost_steps else ""
    tokens = metrics["tokens"][-1]
    trained = run.tokens(metrics.step).sum() if np.isnan(tokens) else tokens
    return [
        ("Steps", f"{len(metrics):,} that count{lost}"),
        ("Tokens", billions(trained)),
        ("Loss", f"{metrics['loss'][0]:.3f} at first, {metrics['loss'][-1]:.3f} at last"),
        *_validation(run),
        ("Tokens/s, median of steps", count(float(np.median(metrics["tokens_per_s"])))),
    ]


def _validation(run: Run) -> list[tuple[str, str]]:
    seen = np.flatnonzero(~np.isnan(run.metrics["val_loss"]))
    if not len(seen):
        return []
    loss, step = run.metrics["val_loss"][seen[-1]], run.metrics.step[seen[-1]]
    return [("Validation loss", f"{loss:.3f} at step {step:,}, on text that was not trained on")]


def charge_rule(run: Run) -> str:
    """How the charge is counted, and for what machine."""
    asked = max(segment.nodes_asked for segment in run.segments)
    charged = max(segment.nodes for segment in run.segments)
    if asked == charged:
        return "nodes asked for x elapsed time"
    return (
        f"nodes x elapsed time; {run.facts.machine} stands in for a bigger machine: {asked} nodes "
        f"were asked for, {charged} pretend nodes were there"
    )


def jobs_table(run: Run) -> Table:
    """One row a job of the run."""
    heads = ["job", "started", "elapsed", "nodes", "steps", "node-hours", "ended by"]
    return Table(heads, [_job(run, segment) for segment in run.segments], text=frozenset({1, 6}))


def _job(run: Run, segment: Segment) -> list[str]:
    first = run.first_step(segment)
    about = "≥ " if segment.estimated else ""
    last = max(segment.last_step, _last_step(run, segment))
    reason = segment.reason + (f": {segment.reason_text}" if segment.reason_text else "")
    return [
        segment.name,
        moment(segment.started),
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


def other_jobs(run: Run) -> str:
    """A sentence on jobs that left a record here and are not in the account; empty if none."""
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
