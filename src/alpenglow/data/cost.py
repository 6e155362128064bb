"""What the whole 1.2 T-token job costs: nodes, hours and node-hours, by slice and stage.

    python -m alpenglow.data.cost [--stages stages.json] [--machine summit] [--nodes N]

RedPajama's seven slices at their raw sizes (alpenglow.data.cost_volumes) go through each stage at
the rate of one core (alpenglow.data.cost_rates, as `bench_stages --write` measures them). A stage
takes the longer of computing on all workers and moving its bytes through the file system; jobs end
at the walltime of their bin. A core of the machine is taken as fast as the one that measured,
unless --core-speed says otherwise; every size or rate that nobody measured is listed.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alpenglow.data.cost_rates import Rate, Rates
from alpenglow.data.cost_volumes import STEPS, Step, moved, size, sizes
from alpenglow.data.document import DataError
from alpenglow.data.recipe import SLICES
from alpenglow_lsf.machine import Bin, Machine, MachineError, load

FILE_SYSTEMS = {
    "summit": (2.5e12, "Alpine, sequential reads of the whole machine (IBM, OLCF)"),
}
"""Machine -> bytes a second of its parallel file system; machine files do not say."""
SHARE = 0.1
"""Of it that one job is taken to get: others use it too."""
EFFICIENCY = 0.9
"""Of the workers, if not measured by bench_workers: assumed."""
UNIT_BYTES = 256_000_000
MEGABYTE = 1e6
RESERVE_H = 0.1
"""Of a job's walltime that starting the workers and ending in time take."""


@dataclass(frozen=True)
class Line:
    """One stage of one slice."""

    step: Step
    slice: str
    bytes: float
    """Text that it goes through."""
    rate: Rate
    moved: float
    """Bytes read from and written to the file system."""

    @property
    def core_hours(self) -> float:
        """On one core like the one that measured."""
        return self.bytes / MEGABYTE / self.rate.value / 3600


@dataclass(frozen=True)
class Workplace:
    """Where the job runs."""

    machine: Machine
    workers: int
    """Processes a node."""
    efficiency: float
    speed: float
    """Of a worker, against the core that measured."""
    file_system: float | None
    """Bytes a second that the job gets; None where unknown."""

    def file_system_at(self, nodes: int) -> float | None:
        """Bytes a second that so many nodes get."""
        links = self.machine.target.links
        node = math.inf if links is None else nodes * links.network
        found = min(node, math.inf if self.file_system is None else self.file_system)
        return None if math.isinf(found) else found


@dataclass(frozen=True)
class Estimate:
    """The job on so many nodes."""

    nodes: int
    hours: float
    bound_by_files: float
    """Hours in which the file system, not the workers, is what is waited for."""
    bin: Bin | None
    """Of the machine's first queue; None where it takes no such job."""

    @property
    def node_hours(self) -> float:
        """Charged, where a job is charged for what it uses."""
        return self.nodes * self.hours

    @property
    def jobs(self) -> int | None:
        """Jobs of the bin's walltime, one after another."""
        if self.bin is None:
            return None
        return math.ceil(self.hours / max(self.bin.hours - RESERVE_H, RESERVE_H))


def lines(rates: Rates) -> list[Line]:
    """All stages of all slices, in order.

    Raises:
        DataError: a stage whose rate nobody knows.
    """
    return [
        Line(
            step, name, step.times * size(name, step.of).bytes, rates.of(step.stage, name),
            moved(step, name),
        )
        for step in STEPS
        for name in step.slices
    ]  # fmt: skip


def loads(found: Sequence[Line]) -> list[tuple[float, float]]:
    """Core-hours and bytes moved of each step, over all slices."""
    return [
        (
            sum(line.core_hours for line in found if line.step is step),
            sum(line.moved for line in found if line.step is step),
        )
        for step in STEPS
    ]


def estimate(steps: Sequence[tuple[float, float]], place: Workplace, nodes: int) -> Estimate:
    """Time the job on so many nodes; stages follow one another.

    Args:
        steps: of `loads`.
        place: where it runs.
        nodes: of each job.
    """
    pace = nodes * place.workers * place.efficiency * place.speed
    files = place.file_system_at(nodes)
    hours = waited = 0.0
    for core_hours, moved_bytes in steps:
        computing = core_hours / pace
        moving = moved_bytes / files / 3600 if files else 0.0
        hours += max(computing, moving)
        waited += moving if moving > computing else 0.0
    queue = place.machine.target.queues[0]
    return Estimate(nodes, hours, waited, queue.bin(nodes))


def node_counts(machine: Machine) -> list[int]:
    """The most nodes of each of the machine's bins."""
    most = machine.compute.nodes
    return sorted({min(max(each.nodes), most) for each in machine.target.queues[0].bins})


def smallest(steps: Sequence[tuple[float, float]], place: Workplace) -> Estimate | None:
    """The fewest nodes on which one job ends it; None where no job does."""
    counts = range(1, place.machine.compute.nodes + 1)
    return next((e for n in counts if (e := estimate(steps, place, n)).jobs == 1), None)


def report(found: Sequence[Line], place: Workplace, rates: Rates, nodes: Sequence[int]) -> str:
    """Describe the cost, as lines."""
    said = [*_core_hours(found), ""]
    total = sum(line.core_hours for line in found)
    largest = sorted(found, key=lambda line: -line.core_hours)[:5]
    said.append("largest costs")
    said += [
        f"  {line.step.stage:12s}{line.slice:16s}{line.core_hours / total:6.1%}   "
        f"{line.bytes / 1e12:,.1f} TB at {line.rate.value:.3g} MB/s a core: {line.step.why}"
        for line in largest
    ]
    files = (
        "no limit of the file system known"
        if place.file_system is None
        else f"{place.file_system / 1e9:,.0f} GB/s of the file system"
    )
    said += [
        "",
        f"{place.machine.name}: {place.workers} workers a node, efficiency {place.efficiency:g}, a "
        f"worker at {place.speed:g} times the pace of the core that measured, {files}",
        "    nodes     hours   node-hours     jobs, at most   waiting for files",
    ]
    steps = loads(found)
    estimates = [estimate(steps, place, count) for count in nodes]
    one = smallest(steps, place)
    if one is not None:
        estimates = sorted({each.nodes: each for each in [*estimates, one]}.values(), key=_nodes)
    for each in estimates:
        jobs = "none" if each.bin is None else f"{each.jobs:,} x {each.bin.hours:g} h"
        said.append(
            f"  {each.nodes:7,d}{each.hours:10,.2f}{each.node_hours:13,.0f}{jobs:>18s}"
            f"{each.bound_by_files / each.hours:20.0%}"
            + ("   fewest nodes that end in one job" if one and each.nodes == one.nodes else "")
        )
    units = sum(size(name, "disk").bytes for name in SLICES) / UNIT_BYTES
    quickest = estimates[-1]
    said.append(
        f"{units:,.0f} units of {UNIT_BYTES / 1e6:.0f} MB of raw input; on {quickest.nodes:,} "
        f"nodes a pass over them asks Dask's scheduler for {units / quickest.hours / 3600:,.0f} "
        "tasks a second (its documentation: up to a millisecond a task)"
    )
    return "\n".join([*said, "", *_assumptions(found, rates)])


def _nodes(found: Estimate) -> int:
    return found.nodes


def _core_hours(found: Sequence[Line]) -> list[str]:
    stages = list(dict.fromkeys(line.step.stage for line in found))
    total = sum(line.core_hours for line in found)
    said = [
        "core-hours by slice and stage",
        f"  {'':15s}" + "".join(f"{stage:>11s}" for stage in stages) + f"{'all':>12s}{'share':>8s}",
    ]
    for name in (*SLICES, ""):
        cells = []
        for stage in stages:
            hours = sum(
                line.core_hours
                for line in found
                if line.step.stage == stage and name in ("", line.slice)
            )
            cells.append(f"{hours:11,.0f}" if hours else f"{'-':>11s}")
        row = sum(line.core_hours for line in found if name in ("", line.slice))
        said.append(f"  {name or 'all':15s}{''.join(cells)}{row:12,.0f}{row / total:8.1%}")
    return said


def _assumptions(found: Sequence[Line], rates: Rates) -> list[str]:
    said = ["not measured here, but taken"]
    if rates.hardware:
        said.insert(0, f"rates: {rates.source}, measured on {rates.hardware}")
    rows: dict[tuple[str, float, str], list[str]] = {}
    for line in found:
        if not line.rate.own:
            key = (line.step.stage, line.rate.value, line.rate.source)
            rows.setdefault(key, []).append(line.slice)
    for (stage, value, source), names in rows.items():
        of = ", ".join(dict.fromkeys(names))
        said.append(f"  rate of {stage}, {value:.3g} MB/s ({of}): {source}")
    for (name, what), each in sizes().items():
        if each.assumed:
            said.append(f"  {name}, {what}: {each.bytes / 1e12:.3g} TB: {each.source}")
    return said


def workplace(options: argparse.Namespace) -> Workplace:
    """Read the machine and what the command line says of it.

    Raises:
        MachineError: no such machine.
    """
    machine = load(options.machine)
    known = FILE_SYSTEMS.get(machine.target.name)
    share = options.file_system_share * known[0] if known else None
    return Workplace(
        machine,
        options.workers_per_node or machine.compute.cores,
        options.efficiency,
        options.core_speed,
        options.file_system or share,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the cost; 0, or 1 after one sentence on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m alpenglow.data.cost",
        description="Nodes, hours and node-hours of the whole 1.2 T-token job.",
    )
    parser.add_argument("--stages", type=Path, metavar="FILE", help="of bench_stages --write")
    parser.add_argument("--machine", default="summit")
    parser.add_argument("--nodes", type=int, help="of the job; default: the most of each bin")
    parser.add_argument("--workers-per-node", type=int, help="default: the cores of a node")
    parser.add_argument(
        "--efficiency", type=float, default=EFFICIENCY,
        help=f"of the workers, as bench_workers measures it; default {EFFICIENCY}, assumed",
    )  # fmt: skip
    parser.add_argument(
        "--core-speed", type=float, default=1.0,
        help="of a worker against the core that measured; default 1, assumed",
    )  # fmt: skip
    parser.add_argument(
        "--file-system", type=float, metavar="BYTES_S",
        help="that the job gets; default: a share of the machine's, where that is known",
    )  # fmt: skip
    parser.add_argument(
        "--file-system-share", type=float, default=SHARE, help=f"default {SHARE}, assumed"
    )
    options = parser.parse_args(arguments)
    for name in ("nodes", "workers_per_node", "file_system", "efficiency", "core_speed"):
        value = getattr(options, name)
        if value is not None and not value > 0:
            parser.error(f"--{name.replace('_', '-')} {value:g}: should be above 0")
    if options.efficiency > 1 or not 0 < options.file_system_share <= 1:
        parser.error("--efficiency and --file-system-share are shares, at most 1")
    try:
        place = workplace(options)
        most = place.machine.compute.nodes
        if options.nodes is not None and options.nodes > most:
            raise DataError(f"{options.nodes} nodes: {place.machine.name} has {most}")
        rates = Rates.load(options.stages)
        nodes = node_counts(place.machine) if options.nodes is None else [options.nodes]
        sys.stdout.write(report(lines(rates), place, rates, nodes) + "\n")
    except (DataError, MachineError, OSError) as error:
        sys.stderr.write(f"cost: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
