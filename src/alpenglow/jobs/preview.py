"""`alpenglow jobs preview FILE`: what a job would do and cost, before it waits in a queue.

    alpenglow jobs preview jobs/pretrain_7b.lsf --machine summit --tokens-per-second 900000

The chain is forecast from --tokens-per-second, else from the metrics of the run's directory, else
it is unknown. Exit codes: 0 shown, 1 the script cannot be read or does not fit, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alpenglow.jobs import CLEAN, FINDINGS, USAGE
from alpenglow.jobs.check import findings, machine_of, say
from alpenglow.jobs.picture import picture
from alpenglow.jobs.plan import Plan, plans
from alpenglow.train.batch_history import BatchHistory
from alpenglow.train.recipe import PretrainRecipe
from alpenglow_lsf.body import commands, literal
from alpenglow_lsf.geometry import GeometryError
from alpenglow_lsf.job import JobSpec
from alpenglow_lsf.machine import Machine, MachineError
from alpenglow_lsf.options import OptionError
from alpenglow_lsf.preview import chain, job_lines, step_lines
from alpenglow_lsf.script import Script

TAIL_BYTES = 100_000
"""As much of metrics.jsonl is read from its end: some hundred steps."""


@dataclass(frozen=True)
class Rate:
    """How fast a run goes, and where it stands."""

    tokens_per_second: float
    done: float = 0.0
    """Tokens trained on so far."""
    lost_s: float = 0.0
    """Seconds a segment of start and last save, as measured."""
    source: str = ""


def measured(run: Path, machine: str | None = None) -> Rate | None:
    """Read the rate from a run's metrics and segment records; None where there are none.

    Args:
        run: the run directory.
        machine: what the rate is wanted for; a run on another machine says nothing about it.
    """
    if machine not in (None, _machine(run)):
        return None
    try:
        with (run / "metrics.jsonl").open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return None
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
            rows.append((float(row["tokens_per_s"]), float(row["tokens"])))
        except (ValueError, KeyError, TypeError):
            continue  # the first line is cut, the last may be
    if not rows:
        return None
    lost = []
    for path in (run / "segments").glob("*.json"):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            own = [float(record.get(k) or 0) for k in ("startup_s", "save_s", "drain_s", "leave_s")]
        except (ValueError, OSError, TypeError, AttributeError):
            continue
        lost += [sum(own)] if any(own) else []
    return Rate(
        statistics.median(rate for rate, _ in rows),
        rows[-1][1],
        statistics.mean(lost) if lost else 0.0,
        f"measured over the last {len(rows)} steps of {run}",
    )


def _machine(run: Path) -> str | None:
    try:
        return str(tomllib.loads((run / "run.toml").read_text(encoding="utf-8"))["machine"]["name"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def lines(
    script: Script,
    spec: JobSpec,
    machine: Machine,
    base: Path,
    tokens_per_second: float | None = None,
) -> list[str]:
    """Write the preview of a script.

    Raises:
        OptionError: a jsrun line that cannot be read.
        GeometryError: a step that the machine does not hold.
        ValueError: a rate or a walltime that gives no chain.
    """
    machine = machine.of_queue(spec.queue)
    found = job_lines(script, spec, machine, base)
    runs = [v for c in commands(script) for v in c.values("--run")]
    run = literal(runs[0]) if runs else None
    for plan in plans(script, spec, machine, base):
        tensor = 1 if plan.recipe is None else plan.recipe.parallel.tensor
        if plan.recipe is not None:
            found += _recipe_lines(plan, plan.recipe)
            rate = None if tokens_per_second is None else Rate(tokens_per_second, source="given")
            if rate is None and run is not None:
                rate = measured(base / run, machine.target.name)
            history = None
            if run is not None and _machine(base / run) == machine.target.name:
                history = BatchHistory.read(base / run)
            found.append(_chain_line(plan.recipe, spec, rate, history))
        found += step_lines(plan.step, spec, machine, tensor)
    return found


def _recipe_lines(plan: Plan, recipe: PretrainRecipe) -> list[str]:
    found = []
    if plan.spare and plan.nodes is not None:
        found.append(f"preflight  {plan.nodes:,} nodes train, {plan.spare} spare: the slowest")
    if plan.layout is not None:
        batch, count = recipe.batch, recipe.micro_batches(plan.layout)
        found += [
            f"batch      {batch.global_batch_size:,} sequences = {batch.tokens_per_step:,} tokens "
            f"a step; {count} micro-batches of {batch.micro_batch_size}",
            *picture(recipe, plan.layout, plan.site, plan.room),
        ]
    return found


def _chain_line(
    recipe: PretrainRecipe, spec: JobSpec, rate: Rate | None, history: BatchHistory | None
) -> str:
    if history is None:  # a run to be begun: its length is rounded up to whole steps
        steps, samples = recipe.total_steps, recipe.total_steps * recipe.batch.global_batch_size
    else:
        samples = recipe.samples_of(history.first)
        steps = history.total_steps(samples)
    total = samples * recipe.batch.sequence_length
    head = f"chain      {steps:,} steps, {total:,} tokens: "
    if rate is None or spec.nodes is None or spec.walltime is None:
        return head + "segments unknown without a rate (--tokens-per-second, or a run's metrics)"
    margin = 60.0 * (spec.warning_time or 0)
    forecast = chain(
        tokens=max(0.0, total - rate.done),
        tokens_per_second=rate.tokens_per_second,
        nodes=spec.nodes,
        walltime_s=60.0 * spec.walltime,
        lost_s=max(margin, rate.lost_s),
    )
    return (
        f"{head}{forecast.segments:,} segments, {forecast.hours:,.0f} h, "
        f"{forecast.node_hours:,.0f} node-hours at {rate.tokens_per_second:,.0f} tokens/s "
        f"({rate.source})"
    )


def main(arguments: Sequence[str]) -> int:
    """Preview a script; see the module."""
    parser = argparse.ArgumentParser(prog="alpenglow jobs preview", description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE", help="batch script")
    parser.add_argument("--machine", help="name or path of a machine file; default: this machine's")
    parser.add_argument("--tokens-per-second", type=float, help="expected rate of the whole job")
    try:
        given = parser.parse_args(list(arguments))
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else USAGE
    try:
        machine = machine_of(given.machine)
    except MachineError as error:
        sys.stderr.write(f"alpenglow jobs preview: {error} (or give --machine NAME)\n")
        return USAGE
    try:
        script = Script.read(given.file)
        text = lines(script, script.spec, machine, Path.cwd(), given.tokens_per_second)
    except (OptionError, GeometryError, MachineError, ValueError) as error:
        sys.stderr.write(f"alpenglow jobs preview: {error}\n")
        return FINDINGS
    sys.stdout.write("\n".join(text) + "\n")
    found = findings(given.file, machine)
    for finding in found:
        sys.stdout.write(say(finding) + "\n")
    return FINDINGS if any(f.refuses for f in found) else CLEAN
