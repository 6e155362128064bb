"""What a job would do and cost, in lines of text, before it is submitted.

for line in job_lines(script, spec, machine): ...
chain(tokens=1e12, tokens_per_second=8e5, nodes=512, walltime_s=43200, lost_s=600).segments
"""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass
from pathlib import Path

from alpenglow_lsf.body import commands, exported, sourced
from alpenglow_lsf.job import JobSpec, format_minutes
from alpenglow_lsf.machine import Machine
from alpenglow_lsf.picture import draw, seat
from alpenglow_lsf.script import Script
from alpenglow_lsf.step import JobStep

PARENT_VARIABLES = ("ALPENGLOW_RUN", "ALPENGLOW_SEGMENT", "ALPENGLOW_DEADLINE", "ALPENGLOW_JOB_ID")
"""Set by alpenglow_lsf.run for the ranks."""


@dataclass(frozen=True)
class Chain:
    """The segments that a run needs, and what they cost."""

    segments: int
    hours: float
    """Elapsed hours of all segments together, waiting in the queue left out."""
    node_hours: float


def segment_node_hours(nodes: int, walltime_minutes: int) -> float:
    """Node-hours of a segment that runs its whole walltime: nodes asked x elapsed."""
    return nodes * walltime_minutes / 60


def chain(
    *, tokens: float, tokens_per_second: float, nodes: int, walltime_s: float, lost_s: float
) -> Chain:
    """Forecast the chain of a run.

    Args:
        tokens: tokens still to train on.
        tokens_per_second: of the whole job.
        nodes: nodes of a segment.
        walltime_s: limit of a segment.
        lost_s: seconds of each segment in which nothing is learnt: start, last checkpoint, margin.

    Raises:
        ValueError: the rate is not positive, or a segment is over before anything is learnt.
    """
    if not tokens_per_second > 0:
        raise ValueError(f"tokens per second = {tokens_per_second:g} must be greater than 0")
    useful = walltime_s - lost_s
    if useful <= 0:
        raise ValueError(f"{lost_s:g} s are lost of a segment of {walltime_s:g} s")
    seconds = tokens / tokens_per_second
    segments = math.ceil(seconds / useful)
    hours = (seconds + segments * lost_s) / 3600
    return Chain(segments, hours, nodes * hours)


def job_lines(
    script: Script, spec: JobSpec, machine: Machine, base: Path | None = None
) -> list[str]:
    """Describe queue, bin, nodes, charge and variables of a job submitted from folder `base`."""
    target = machine.target
    name = machine.queue_name(spec.queue)
    queue = machine.queue(name)
    lines = [f"{spec.name or script.name} on {target.name} ({script.name})"]
    if queue is None:
        lines.append(f"queue      {name}: {target.name} has none of that name")
    else:
        limits = [
            f"{count} {what} jobs a user"
            for count, what in ((queue.eligible_jobs, "eligible"), (queue.queued_jobs, "queued"))
            if count is not None
        ]
        limits.append("chains allowed" if queue.chains else "chains forbidden")
        lines.append(f"queue      {name} ({', '.join(limits)})")
        found = None if spec.nodes is None else queue.bin(spec.nodes)
        if found is not None:
            lines.append(
                f"bin        {found.nodes[0]}-{found.nodes[1]} nodes: at most {found.hours:g} h"
            )
    if spec.walltime is not None:
        lines.append(f"walltime   {format_minutes(spec.walltime)}")
    if spec.nodes is not None:
        lines.append(f"nodes      {spec.nodes:,} of {machine.compute.nodes:,}")
    if spec.nodes is not None and spec.walltime is not None:
        cost = segment_node_hours(spec.nodes, spec.walltime)
        lines.append(f"charge     {cost:,.0f} node-hours a full segment ({target.charge})")
        if target.price_per_node_hour is not None:
            lines.append(f"price      {cost * target.price_per_node_hour:,.0f} dollars a segment")
    flags = " ".join(spec.alloc_flags)
    lines += [f"flags      {flags}"] if flags else []
    thens = [value for command in commands(script) for value in command.values("--then")]
    lines += [f"then       {', '.join(thens)}"] if thens else []
    names = [f"{k}={v}" for k, v in exported(script).items()]
    names += PARENT_VARIABLES if any(c.parent for c in commands(script)) else ()
    lines.append(f"variables  {' '.join(names) or 'none of its own'}")
    for name, file in sourced(script, Path.cwd() if base is None else base):
        lines.append(f"  exported by {name}:")
        lines += [f"    {k}={v}" if v else f"    {k}" for k, v in exported(file).items()]
    return lines


def step_lines(step: JobStep, spec: JobSpec, machine: Machine, tensor: int = 1) -> list[str]:
    """Describe one jsrun line: ranks, threads, the line itself, and one node in a picture.

    Raises:
        GeometryError: the machine does not hold the step.
    """
    node, smt = machine.compute, spec.smt
    lines = []
    if spec.nodes is not None:
        used, ranks = step.asked(machine, spec.nodes)
        sets, per_host = step.request.fit(node, spec.nodes, smt)
        lines.append(
            f"ranks      {ranks:,} on {used:,} nodes: {sets:,} sets, {per_host} a node, "
            f"{step.request.tasks} ranks each"
        )
    threads = step.request.threads(smt or node.smt)
    lines.append(f"threads    at most {threads} a rank (OMP_NUM_THREADS)")
    given = [f"{k}={v}" for k, v in step.environment]
    lines += [f"-E         {' '.join(given)}"] if given else []
    lines.append(f"step       {shlex.join(['jsrun', *step.words()])}")
    lines.append("one node:")
    picture = draw(seat(step.request, node, smt), node, tensor=tensor, smt=smt)
    return lines + [f"  {line}" for line in picture]
