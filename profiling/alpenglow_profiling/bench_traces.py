"""Reading traces beside Holistic Trace Analysis 0.5.0: time, memory, and the figures rank by rank.

    python -m alpenglow_profiling.bench_traces TRACE... [--megabytes 35,120] [--ranks 1,2,4]
        [--rounds 5] [--peer FOLDER]

The peer gets an environment of its own in FOLDER (made on the first call; default: a temporary
one). Each TRACE is read as it is and, the first one, enlarged (`trace_enlarge`) to the given MB of
JSON, and for so many ranks. Every run is a fresh process and does the same: import, read, figures
of idle, compute, non-compute and overlap. "whole" is the process from start to end, "inside" leaves
start and import out. Rounds are interleaved; medians are printed. Memory is the peak of the largest
process; both sides use up to a process a rank and core where there are several ranks.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alpenglow_profiling.kineto import TraceError, read
from alpenglow_profiling.trace_account import account
from alpenglow_profiling.trace_enlarge import enlarge
from alpenglow_profiling.trace_hta import HtaAccount, hta_account, step_names

PEER = "HolisticTraceAnalysis==0.5.0"

_PEER_PROGRAM = """
import json, resource, sys, time
from hta.trace_analysis import TraceAnalysis
begin = time.perf_counter()
files = {int(rank): path for rank, path in json.loads(sys.argv[1]).items()}
analysis = TraceAnalysis(trace_files=files)
rows = analysis.get_temporal_breakdown(visualize=False).to_dict("records")
shared = analysis.get_comm_comp_overlap(visualize=False).set_index("rank")["comp_comm_overlap_pctg"]
inside = time.perf_counter() - begin
found = {r["rank"]: [r["idle_time(us)"], r["compute_time(us)"], r["non_compute_time(us)"],
                     r["kernel_time(us)"], shared[r["rank"]]] for r in rows}
peak = [int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")][0]
peak = max(peak, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
print(json.dumps({"inside": inside, "peak": peak, "figures": {int(k): list(map(float, v)) for k, v
in found.items()}}))
"""

_OUR_PROGRAM = """
import json, os, resource, sys, time
from pathlib import Path
from alpenglow_profiling.traces import examine, workers
begin = time.perf_counter()
files = [Path(path) for path in json.loads(sys.argv[1]).values()]
with workers(os.cpu_count() or 1, len(files)) as each:
    accounts = [found[0] for found in each(examine, files)]
figures = {a.rank: [a.idle, a.compute, a.non_compute, a.span, a.overlap] for a in accounts}
inside = time.perf_counter() - begin
peak = [int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")][0]
peak = max(peak, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
print(json.dumps({"inside": inside, "peak": peak, "figures": figures}))
"""


@dataclass(frozen=True)
class Run:
    """A process: seconds from start to end, after the imports, and of all cores; peak MB."""

    whole: float
    inside: float
    cpu: float
    megabytes: float
    figures: dict[str, list[float]]


def run(python: Path | str, program: str, files: dict[int, Path]) -> Run:
    """Run a program on files by rank. Raises `TraceError` with its last words if it fails."""
    listed = json.dumps({rank: str(path) for rank, path in files.items()})
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        begin = time.perf_counter()
        process = subprocess.Popen([python, "-c", program, listed], stdout=out, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        whole = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        errors.seek(0)
        if process.returncode:
            last = (errors.read().strip().splitlines() or ["(no message)"])[-1]
            raise TraceError(f"{python} failed on {', '.join(map(str, files.values()))}: {last}")
        result = json.loads(out.read().strip().splitlines()[-1])
    cpu = usage.ru_utime + usage.ru_stime
    return Run(whole, result["inside"], cpu, result["peak"] / 1024, result["figures"])


def peer_python(folder: Path) -> Path:
    """The interpreter of the peer's environment, which is made if need be.

    Raises `subprocess.CalledProcessError` where pip cannot install it.
    """
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    if subprocess.run([python, "-c", "import hta"], capture_output=True, check=False).returncode:
        subprocess.run([python, "-m", "pip", "install", "-q", PEER], check=True)
    return python


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print two tables; 0, or 1 after one sentence on stderr."""
    parser = argparse.ArgumentParser(prog="python -m alpenglow_profiling.bench_traces")
    parser.add_argument("traces", type=Path, nargs="+", metavar="TRACE")
    parser.add_argument(
        "--megabytes", default="35,120", help="sizes of JSON to enlarge the first to"
    )
    parser.add_argument("--ranks", default="1,2,4", help="numbers of ranks of the first size")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer", type=Path, help="folder of the peer's environment")
    options = parser.parse_args(arguments)
    try:
        sizes = [float(size) for size in options.megabytes.split(",") if size]
        counts = [int(count) for count in options.ranks.split(",") if count]
        with tempfile.TemporaryDirectory(prefix="bench-traces-") as folder:
            python = peer_python(options.peer or Path(folder) / "peer")
            cases = _cases(options.traces, sizes, counts, Path(folder))
            _measure(python, cases, options.rounds)
            _compare(python, [path for path in options.traces if _has_kernels(path)])
    except (TraceError, OSError, ValueError, subprocess.CalledProcessError) as error:
        sys.stderr.write(f"alpenglow_profiling.bench_traces: {error}\n")
        return 1
    return 0


def _has_kernels(path: Path) -> bool:
    return bool(read(path).on_gpu.any())


def _cases(
    traces: list[Path], sizes: list[float], counts: list[int], folder: Path
) -> list[tuple[str, dict[int, Path]]]:
    """What is timed: a label, and a file a rank."""
    cases = [(path.name, {read(path).rank: path}) for path in traces if _has_kernels(path)]
    for size in sizes:
        for ending in ("json.gz", "json"):
            target = folder / f"enlarged-{size:g}.{ending}"
            enlarge(traces[0], target, size)
            cases.append((f"{size:g} MB {ending}", {0: target}))
    for count in counts if sizes else []:
        files = {rank: folder / f"rank-{rank}-of-{count}.json.gz" for rank in range(count)}
        for rank, target in files.items():
            enlarge(traces[0], target, sizes[0], rank)
        cases.append((f"{sizes[0]:g} MB x {count} ranks", files))
    return cases


def _measure(python: Path, cases: list[tuple[str, dict[int, Path]]], rounds: int) -> None:
    print(f"{'input':<28}{'':>16}{'whole s':>9}{'inside s':>10}{'cpu s':>9}{'peak MB':>9}")
    for label, files in cases:
        runs: dict[str, list[Run]] = {"peer": [], "alpenglow": []}
        for _ in range(rounds):
            runs["peer"].append(run(python, _PEER_PROGRAM, files))
            runs["alpenglow"].append(run(sys.executable, _OUR_PROGRAM, files))
        medians = {
            who: [
                statistics.median(getattr(r, f) for r in each)
                for f in ("whole", "inside", "cpu", "megabytes")
            ]
            for who, each in runs.items()
        }
        for who, (whole, inside, cpu, megabytes) in medians.items():
            print(f"{label:<28}{who:>16}{whole:>9.2f}{inside:>10.3f}{cpu:>9.2f}{megabytes:>9.0f}")
        ratios = [p / o for p, o in zip(medians["peer"], medians["alpenglow"], strict=True)]
        print(
            f"{'':<28}{'times less':>16}{ratios[0]:>9.1f}{ratios[1]:>10.1f}{ratios[2]:>9.1f}",
            flush=True,
        )


def _compare(python: Path, traces: list[Path]) -> None:
    """Figures of each trace on its own, and which rule makes which part of the difference."""
    print(
        "\nus by rank: the peer; ours by its rules; ours exact; difference = last step + rounding"
    )
    for path in traces:
        trace = read(path)
        theirs = run(python, _PEER_PROGRAM, {trace.rank: path}).figures[str(trace.rank)]
        drop = len(step_names(trace)) > 1
        same = _figures(hta_account(trace, drop_last=drop))
        unrounded = _figures(hta_account(trace, drop_last=drop, rounding=False))
        one = account(trace)
        exact = [
            value / 1000 if value is not None else 0.0
            for value in (one.idle, one.compute, one.non_compute, one.span)
        ]
        share = 100 * (one.overlap or 0) / one.communication if one.communication else float("nan")
        print(f"{path.name}, rank {trace.rank}")
        names = ("idle", "compute", "non-compute", "kernel time", "overlap %")
        for i, (name, ours) in enumerate(zip(names, [*exact, share], strict=True)):
            print(
                f"  {name:<12}{theirs[i]:>14.2f}{same[i]:>14.2f}{ours:>16.3f}"
                f"{theirs[i] - ours:>16.3f} = {unrounded[i] - ours:.3f}"
                f" + {same[i] - unrounded[i]:.3f}"
            )


def _figures(found: HtaAccount | None) -> list[Any]:
    if found is None:
        raise TraceError("a trace lost all its GPU events with its last step")
    return [found.idle, found.compute, found.non_compute, found.span, found.overlap_percent]


if __name__ == "__main__":
    sys.exit(main())
