"""How the jobs of a proposal fit the machine's queues: bins, walltimes, aging, the chain."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alpenglow_analysis.campaign_choices import Effect
from alpenglow_analysis.campaign_outcome import Outcome, percentiles
from alpenglow_analysis.document import Block, Grid, Items, Paragraph
from alpenglow_analysis.marked import Line, Value, line, say
from alpenglow_analysis.proposal_request import Request
from alpenglow_analysis.units import seconds
from alpenglow_lsf.machine import Machine


def queue_blocks(
    machine: Machine, outcome: Outcome, request: Request, effects: Sequence[Effect]
) -> list[Block]:
    """Bins of all jobs, the chain of the production run, and the same run on other nodes."""
    plan = outcome.campaign
    job, queue = plan.job, machine.queue(plan.job.queue)
    key = f"env/machines/{machine.name}.toml: [[queues]] {job.queue}"
    many = f"{len(outcome):,} simulated campaigns"
    chain = _spread(outcome.segments, "jobs", f"10, 50 and 90 % of {many}")
    waits = _spread(outcome.queue_days, "days", f"10, 50 and 90 % of {many}")
    wait_source = plan.wait.words
    text = say(
        "Each job of the production run asks for {nodes} nodes and {walltime} in queue {queue}; "
        "the chain has {chain}, and waits {waits} in all. The wait of a job is {wait}.",
        nodes=Value(f"{job.nodes:,}", "S", "--nodes", job.nodes),
        walltime=Value(seconds(job.walltime_s), "S", f"{key}, the bin's hours"
                       if job.bin and job.walltime_s == 3600 * job.bin.hours else "--walltime"),
        queue=job.queue, chain=chain, waits=waits,
        wait=Value(plan.wait.words.partition(": ")[2] or "none",
                   "A" if plan.wait.assumed else "M", wait_source),
    )  # fmt: skip
    blocks: list[Block] = [Paragraph(text)]
    rows = []
    for row in request.rows:
        nodes = round(row.nodes.number or 0)
        held = None if queue is None else queue.bin(nodes)
        if row.contingency or held is None:
            continue
        low, high = held.nodes
        hours = row.hours.number or 0.0
        fits = "one job" if hours <= held.hours else "a chain of jobs"
        boost = Value(f"{held.boost_days:g}", "S", key, held.boost_days)
        rows.append([
            line(row.what), line(row.nodes),
            line(Value(f"{low:,} to {high:,}", "S", key)),
            line(Value(f"{held.hours:g}", "S", key, held.hours)), line(boost), line(fits),
        ])  # fmt: skip
    blocks.append(
        Grid(say("Jobs and the bins of the queue; aging boost in days."),
             ["jobs", "nodes", "bin", "hours at most", "boost", "takes"], rows,
             wide={0: 0.3, 5: 0.18})
    )  # fmt: skip
    blocks += [Items(_limits(machine, outcome, key)), *_others(outcome, effects)]
    return blocks


def _spread(values: object, unit: str, source: str) -> Value:
    low, middle, high = percentiles(np.asarray(values))
    return Value(f"{middle:.3g} {unit} ({low:.3g} to {high:.3g})", "P", source, middle)


def _limits(machine: Machine, outcome: Outcome, key: str) -> list[Line]:
    queue = machine.queue(outcome.campaign.job.queue)
    items = [say("Only time in jobs is charged; waiting costs days, no node-hours.")]
    if queue is None:
        return items
    job = outcome.campaign.job
    boosted = [b for b in queue.bins if b.boost_days]
    own = queue.bin(job.nodes)
    if boosted and own is not None and not own.boost_days:
        least = min(boosted, key=lambda b: b.nodes[0])
        items.append(
            say("Jobs of this size get no aging boost; {nodes} nodes get {days} days of it and "
                "{hours} hours.",
                nodes=Value(f"{least.nodes[0]:,}", "S", key, least.nodes[0]),
                days=Value(f"{least.boost_days:g}", "S", key, least.boost_days),
                hours=Value(f"{least.hours:g}", "S", key, least.hours))
        )  # fmt: skip
    if queue.queued_jobs:
        items.append(
            say("A user may have {many} jobs in this queue; a chain keeps two there, the one that "
                "runs and the next.",
                many=Value(f"{queue.queued_jobs}", "S", key, queue.queued_jobs))
        )  # fmt: skip
    if queue.eligible_jobs:
        items.append(
            say("{many} jobs of a user are eligible at once: evaluation and conversion of kept "
                "checkpoints queue behind one another.",
                many=Value(f"{queue.eligible_jobs}", "S", key, queue.eligible_jobs))
        )  # fmt: skip
    return items


def _others(outcome: Outcome, effects: Sequence[Effect]) -> list[Block]:
    """The run on other nodes, as the campaign's choices have it."""
    found = [each for each in effects if each.choice.group in ("Nodes", "Walltime")]
    if not found:
        return []
    rows = []
    for what, got in [("as planned", outcome), *((e.choice.label, e.outcome) for e in found)]:
        job = got.campaign.job
        source = f"campaign simulation: {what}"
        low, middle, high = percentiles(got.days)
        charge = percentiles(got.node_hours)[1]
        rows.append([
            line(Value(f"{job.nodes:,}", "S" if got is outcome else "P", source, job.nodes)),
            line(Value(f"{job.walltime_s / 3600:g}", "S", f"walltime: {what}")),
            line(Value(f"{got.campaign.work.step_s:.3g}", "P",
                       f"alpenglow.parallel.step_cost: {what}", got.campaign.work.step_s)),
            line(Value(f"{middle:.3g} ({low:.3g} to {high:.3g})", "P", source, middle)),
            line(Value(f"{charge:,.0f}", "P", source, charge)),
            line(Value(f"{percentiles(got.segments)[1]:,.0f}", "P", source)),
        ])  # fmt: skip
    return [
        Grid(say("The production run on other nodes: median, and eight of ten campaigns. "
                 "Contingency is not in it."),
             ["nodes", "walltime (h)", "step (s)", "days", "node-hours", "jobs"], rows, wide={})
    ]  # fmt: skip
