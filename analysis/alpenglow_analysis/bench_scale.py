"""What a report costs by the size of a run, and what it finds of faults that were planted.

    python -m alpenglow_analysis.bench_scale runs/scale [--presets 384,1536,3072,12288] [--keep]

Makes a lawful run of each size (`alpenglow_analysis.synthetic --preset`), then in a fresh process
each the account (load, study, account, what-if) and the whole report. Rows are the sums and spans
that were recorded; time a million rows shows whether it is linear. Then every planted fault beside
what the analysis finds: its size is the time of all ranks that the run would have been shorter
without it, which the generator knows by playing the run again without.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from alpenglow_analysis.run import Run
from alpenglow_analysis.study import Study, study
from alpenglow_analysis.utilisation import Account, account
from alpenglow_analysis.whatif import scenarios
from alpenglow_profiling.clock_map import ClockMap

SCENARIO = {
    "slow_node": "slow_ranks",
    "heavy_stage": "heavy_stage",
    "jitter": "jitter",
    "slow_link": "slow_links",
}
"""The scenario that cures a planted fault as the generator does."""


@dataclass(frozen=True)
class Finding:
    """A planted fault and what was found of it; sizes in ns of all ranks."""

    fault: str
    where: str
    planted: float
    found: float


def planted_and_found(run: Run, found: Study) -> list[Finding]:
    """Set every planted fault of a synthetic run beside what the analysis makes of it.

    A scenario's gain counts for steps like those that were replayed; for others, such as long waits
    for data of which no spans were kept, nothing is claimed.
    """
    truth = json.loads((run.path / "planted.json").read_text(encoding="utf-8"))
    where = account(run, found)
    whole = 0.0
    if found.sample is not None:
        divided = found.sample.strata
        stood_for = np.isin(divided.group, found.sample.group)
        whole = float(divided.length[stood_for].sum()) * run.facts.ranks
    gains = {each.key: each.gain * whole for each in scenarios(run, found)}
    table = []
    for fault in truth["faults"]:
        name = fault["fault"]
        size = 0.0
        if name in SCENARIO:
            size = gains.get(SCENARIO[name], 0.0)
        elif name == "data_hiccups":
            size = _stalled(where, found)
        elif name == "long_checkpoint":
            size = float(sum(stall.excess_ns for stall in found.stalls))
        table.append(Finding(name, _place(name, found), float(fault["cured_ns"]), size))
    for lost in truth["lost"]:
        planted = float(lost["whole_steps_ns"] + lost["cut_step_ns"])
        table.append(Finding("lost_steps", lost["segment"], planted, float(where.pieces["lost"])))
    return table


@dataclass(frozen=True)
class ClockCheck:
    """The clocks of one segment as they were found, beside what they were; ns."""

    segment: str
    wall: float
    """How far the worst wall clock is from the reference node's."""
    found: float
    """How far the worst clock is after alignment."""
    bound: float
    """How far it may be by what is stated."""
    beyond: int
    """Nodes that are further off than is stated of them."""


def checked_clocks(run: Run, found: Study) -> list[ClockCheck]:
    """Set the clocks that were found beside the true ones, at the first and the last step."""
    truth = json.loads((run.path / "planted.json").read_text(encoding="utf-8"))["clocks"]
    table = []
    for segment, alignment in {} if found.sample is None else found.sample.alignments.items():
        points = {node: np.array(told, np.int64) for node, told in truth.get(segment, {}).items()}
        if not points:
            continue
        flushes = {part.node: ClockMap.of_flushes(part.clock) for part in run.events[segment].parts}
        off, wall = (
            np.array(
                [clocks[node].at(told[:, 0]) - told.sum(axis=1) for node, told in points.items()]
            )
            for clocks in (alignment.clocks, flushes)
        )
        here = list(points).index(alignment.reference)
        away, before = (np.abs(each - each[here]).max(axis=1) for each in (off, wall))
        bound = np.array([alignment.error_ns[node] for node in points])
        beyond = int((away > bound + 1).sum())  # 1 ns: whole numbers
        table.append(
            ClockCheck(segment, float(before.max()), float(away.max()), float(bound.max()), beyond)
        )
    return table


def _place(fault: str, found: Study) -> str:
    if fault == "slow_node" and found.episodes:
        one = found.episodes[0]
        return f"{one.where} x {one.factor:.3f}, steps {one.first_step} to {one.last_step}"
    if fault == "slow_link" and found.links:
        link = found.links[0]
        return f"{link.node} x {link.factor:.2f}, from step {link.first_step}"
    if fault == "long_checkpoint" and found.stalls:
        return f"step {found.stalls[0].step}"
    return ""


def _stalled(where: Account, found: Study) -> float:
    """What waits for data cost in steps that stand out by them, beyond what they cost in others."""
    if found.sample is None:
        return 0.0
    each = {share.group: share.ns["data"] / share.steps for share in where.groups}
    size = {share.group: share.steps for share in where.groups}
    like = found.sample.strata.like.tolist()
    return sum(
        (value - each.get(like[group], value)) * size[group] for group, value in each.items()
    )


def rows_of(path: Path) -> int:
    """Sums and spans in the node files of a run."""
    count = 0
    for node in sorted((path / "events").glob("*/*.h5")):
        with h5py.File(node, "r") as file:
            count += sum(len(file[f"{table}/rank"]) for table in ("outer", "spans", "sums"))
    return count


def _fresh(words: Sequence[str]) -> tuple[float, float, str]:
    """Seconds, peak MB and output of a Python of its own."""
    begin = time.perf_counter()
    child = subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    said = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{' '.join(words)}: ended with {child.returncode}")
    return time.perf_counter() - begin, usage.ru_maxrss / 1e3, said


def _parts(path: Path) -> None:
    """In the fresh process: how long each part of the account takes."""
    marks = [time.perf_counter()]
    run = Run.load(path)
    marks.append(time.perf_counter())
    found = study(run)
    marks.append(time.perf_counter())
    account(run, found)
    marks.append(time.perf_counter())
    scenarios(run, found)
    marks.append(time.perf_counter())
    load, looked, added, replayed = np.diff(marks)
    steps = 0 if found.sample is None else len(found.sample)
    print(f"{load:.1f} {looked:.1f} {added:.1f} {replayed:.1f} {steps}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the runs, time what reads them, and print two tables."""
    parser = argparse.ArgumentParser(prog="python -m alpenglow_analysis.bench_scale")
    parser.add_argument("folder", type=Path, help="where runs are made, some GB")
    parser.add_argument("--presets", default="384,1536,3072,12288")
    parser.add_argument("--keep", action="store_true", help="leave the runs there")
    parser.add_argument("--parts", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.parts:
        _parts(options.folder)
        return 0
    print(
        "   ranks  M rows  made s | load  study  account  what-if s  replayed  peak MB | "
        "report s  peak MB  s/M rows  x first"
    )
    first: float | None = None
    here = ["-m", "alpenglow_analysis.bench_scale"]
    for preset in options.presets.split(","):
        path = options.folder / preset
        made = 0.0
        if not path.exists():
            made, _, _ = _fresh(
                ["-m", "alpenglow_analysis.synthetic", str(path), "--preset", preset]
            )
        rows = rows_of(path) / 1e6
        _, peak, said = _fresh([*here, str(path), "--parts"])
        load, looked, added, replayed, steps = said.split()
        report, report_peak, _ = _fresh(["-m", "alpenglow_analysis.report", str(path)])
        each = report / max(rows, 1e-6)
        first = first or each
        print(
            f"{preset:>8} {rows:7.1f} {made:7.1f} | {load:>4} {looked:>6} {added:>8} "
            f"{replayed:>10} {steps:>9} {peak:8.0f} | {report:8.1f} {report_peak:8.0f} "
            f"{each:9.2f} {each / first:8.2f}",
            flush=True,
        )
    for preset in options.presets.split(","):
        path = options.folder / preset
        run = Run.load(path)
        print(f"\n{preset} ranks: planted and found, GPU-equivalents of the whole run")
        whole = sum(segment.slots * segment.elapsed_ns for segment in run.segments)
        found = study(run)
        for one in planted_and_found(run, found):
            off = one.found / one.planted - 1 if one.planted else 0.0
            print(
                f"  {one.fault:16} {run.facts.ranks * one.planted / whole:8.2f} "
                f"{run.facts.ranks * one.found / whole:8.2f} {100 * off:+6.1f} %  {one.where}"
            )
        for clock in checked_clocks(run, found):
            print(
                f"  clocks of {clock.segment}: wall clocks {clock.wall / 1e3:,.0f} us off, "
                f"aligned {clock.found / 1e3:,.1f} us, stated at most {clock.bound / 1e3:,.1f} us, "
                f"{clock.beyond} nodes beyond what is stated of them"
            )
        if not options.keep:
            shutil.rmtree(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
