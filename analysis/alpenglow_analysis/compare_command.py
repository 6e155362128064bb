"""alpenglow plan compare: the same run on several machines, each in its best layout.

    alpenglow plan compare --model 7b --machines summit,frontier,perlmutter,selene --gpus 3072
    alpenglow plan compare --model 7b --machines summit,frontier --peak 100e15 --tokens 1T

`--gpus`, `--nodes` or `--peak` (FLOP/s of all GPUs together, in the precision planned) is what is
equal; GPUs are then the nearest number of whole nodes on which a layout can be made.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from alpenglow_analysis.campaign_command import amount
from alpenglow_analysis.columns import laid
from alpenglow_analysis.page import Table
from alpenglow_analysis.plan_ending import ended
from alpenglow_analysis.planned_run import PlanError, PlannedRun, add_options, planned_run
from alpenglow_analysis.search import Axes, Choice, divides, search
from alpenglow_analysis.units import count, percent, seconds
from alpenglow_lsf.machine import Machine, MachineError, load


@dataclass(frozen=True)
class Compared:
    """A machine with its best layout, or why it has none."""

    name: str
    machine: Machine
    run: PlannedRun | None
    best: Choice | None
    why: str = ""


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog="alpenglow plan compare", description="The same run on several machines."
    )
    made.add_argument(
        "--machines", required=True, metavar="A,B,...", help="names or paths of machine files"
    )
    equal = made.add_mutually_exclusive_group(required=True)
    equal.add_argument("--gpus", type=int)
    equal.add_argument("--nodes", type=int)
    equal.add_argument("--peak", type=amount, metavar="FLOP/S", help="of all GPUs together")
    add_options(made, gpus=False)
    told = made.add_argument_group("what is told")
    told.add_argument("--tokens", type=amount, default=1e12, help="of the run; default 1T")
    told.add_argument("--any-trainer", action="store_true")
    told.add_argument("--json", action="store_true")
    return made


def compared(given: argparse.Namespace, name: str) -> Compared:
    """One machine.

    Raises:
        PlanError, ConfigError: the model cannot be planned anywhere.
        MachineError: no such machine file.
    """
    named = load(name)
    machine = named.target
    shown = machine.name if named.stand_in is None else f"{named.name}, as {machine.name}"
    each = machine.compute.gpus
    if not each:
        return Compared(shown, machine, None, None, "has no GPUs")
    try:
        one = argparse.Namespace(**{**vars(given), "gpus": each, "nodes": None, "machine": None})
        base = planned_run(one, machine)
        peak = machine.peak_flops.get(base.work.dtype)
        if peak is None:
            raise MachineError(f"its file has no peak_flops.{base.work.dtype}")
        wanted = given.gpus or (given.nodes or 0) * each or given.peak / peak
        run = replace(base, gpus=_nearest(base, float(wanted)))
        return Compared(shown, machine, run, search(run, Axes(any_trainer=given.any_trainer)).best)
    except (PlanError, MachineError) as error:
        return Compared(shown, machine, None, None, str(error))


def _nearest(run: PlannedRun, wanted: float) -> int:
    """GPUs of whole nodes nearest to `wanted` on which a layout divides."""
    node = run.machine.target.compute
    most = node.nodes
    near = round(wanted / node.gpus)
    if near > most:
        raise PlanError(f"has {most:,} nodes, and {near:,} are asked for")
    for distance in range(most + 1):
        for nodes in (near - distance, near + distance):
            if 1 <= nodes <= most and divides(run, nodes * node.gpus, run.global_batch_size):
                return nodes * node.gpus
    raise PlanError(f"no number of its nodes divides a batch of {run.global_batch_size:,}")


def _cells(each: Compared, tokens: float) -> dict[str, Any]:
    run, best = each.run, each.best
    if run is None or best is None:
        return {"machine": each.name, "why": each.why}
    hours = tokens / best.cost.tokens_per_second / 3600
    price = each.machine.price_per_node_hour
    return {
        "machine": each.name,
        "nodes": run.nodes,
        "gpus": run.gpus,
        "peak_flops": run.gpus * best.cost.hardware.peak,
        "seconds": best.seconds,
        "error": run.error,
        "tokens_per_second": best.cost.tokens_per_second,
        "tokens_per_second_per_gpu": best.cost.tokens_per_second / run.gpus,
        "mfu": best.cost.mfu,
        "days": hours / 24,
        "node_hours": hours * run.nodes,
        "dollars": None if price is None else price * hours * run.nodes,
        "layout": str(best),
        "warnings": list(best.cost.warnings),
    }


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """A machine a row, the fastest first; those without a layout last."""
    heads = ["machine", "nodes", "GPUs", "PFLOP/s", "step", "tokens/s", "a GPU", "MFU", "days",
             "node-hours", "layout"]  # fmt: skip
    priced = any(row.get("dollars") is not None for row in rows)
    if priced:
        heads.insert(10, "dollars")
    out = []
    for row in rows:
        if "why" in row:
            out.append([row["machine"], *[""] * (len(heads) - 2), row["why"]])
            continue
        cells = [
            row["machine"], f"{row['nodes']:,}", f"{row['gpus']:,}",
            f"{row['peak_flops'] / 1e15:,.0f}", seconds(row["seconds"]),
            count(row["tokens_per_second"]), f"{row['tokens_per_second_per_gpu']:,.0f}",
            percent(row["mfu"]), f"{row['days']:.3g}", f"{row['node_hours']:,.0f}",
        ]  # fmt: skip
        if priced:
            dollars = row["dollars"]
            cells.append("" if dollars is None else f"{dollars:,.0f}")
        out.append([*cells, row["layout"]])
    return Table(heads, out, text=frozenset({len(heads) - 1}), wordy=True)


def run(arguments: Sequence[str]) -> None:
    """Compare and print.

    Raises:
        PlanError, ConfigError, MachineError: one sentence on what cannot be.
    """
    given = parser().parse_args(list(arguments))
    names = [name.strip() for name in given.machines.split(",") if name.strip()]
    if not names:
        raise PlanError("--machines names none")
    found = [_cells(compared(given, name), given.tokens) for name in names]
    found.sort(key=lambda row: -row.get("tokens_per_second", 0.0))
    if given.json:
        sys.stdout.write(json.dumps({"predicted": True, "machines": found}, indent=1) + "\n")
        return
    lines = [laid(table(found)), ""]
    lines.append(
        f"Predicted from machine files alone; days and node-hours are those of the steps of "
        f"{count(given.tokens)} tokens, without queue, restarts and checkpoints "
        "(alpenglow plan campaign)."
    )
    told: dict[str, list[str]] = {}
    for row in found:
        for warning in row.get("warnings", []):
            told.setdefault(warning, []).append(row["machine"])
    lines += [f"{', '.join(machines)}: {warning}." for warning, machines in told.items()]
    sys.stdout.write("\n".join(lines) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; 0, or 1 after one sentence on stderr, 2 for wrong usage."""
    return ended("compare", run, arguments)


if __name__ == "__main__":
    sys.exit(main())
