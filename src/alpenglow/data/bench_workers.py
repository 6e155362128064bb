"""The whole pipeline with one worker and with two: wall time, efficiency, and equal shards.

    python -m alpenglow.data.bench_workers recipe.toml [--workers 1,2] [--rounds 3] [key=value ...]

Every run begins with empty folders, so that text is read, filtered, tokenised and written anew; the
numbers of workers take turns. Timed is the job from connected workers to shards in place; starting
the workers is told apart. The shards, catalogue and ledger of all runs must be equal byte by byte.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alpenglow.data.bench import hardware
from alpenglow.data.cluster import connect
from alpenglow.data.crew import FAILURES
from alpenglow.data.document import DataError
from alpenglow.data.pipeline import Job, read_recipe
from alpenglow.data.recipe import PrepareRecipe
from alpenglow_lsf.machine import current
from alpenglow_lsf.ranks import Ranks


@dataclass(frozen=True)
class Timed:
    """One run of the pipeline."""

    workers: int
    start_s: float
    """Until the workers were connected."""
    job_s: float
    files: dict[str, str]
    """Name -> SHA-256 of each file of the output."""
    bytes: int
    """Raw input."""


def run(recipe: PrepareRecipe, workers: int, folder: Path) -> Timed:
    """Run the pipeline once in an empty folder.

    Raises:
        DataError: it ended without shards.
    """
    recipe = dataclasses.replace(
        recipe,
        output=folder / "shards",
        run=folder / "run",
        documents=None,
        cluster=dataclasses.replace(recipe.cluster, workers=workers, jobs=0),
    )
    ranks = Ranks.from_environment({})
    began = time.perf_counter()
    with connect(recipe.cluster, recipe.run, ranks) as client:
        connected = time.perf_counter()
        job = Job(recipe, recipe.run, None, ranks)
        code = job.run(client)
        ended = time.perf_counter()
    if code != 0:
        raise DataError(f"the pipeline ended with exit code {code} and {workers} workers")
    files = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(recipe.output.iterdir())
    }
    size = sum(unit.size for unit in job.units)
    return Timed(workers, connected - began, ended - connected, files, size)


def report(runs: Sequence[Timed]) -> tuple[str, bool]:
    """Describe the runs, as lines; and whether all made equal files."""
    numbers = sorted({each.workers for each in runs})
    median = {n: statistics.median(r.job_s for r in runs if r.workers == n) for n in numbers}
    rounds = len(runs) // len(numbers)
    least = numbers[0]
    lines = [
        f"{runs[0].bytes / 1e6:.1f} MB of raw input, {rounds} interleaved rounds, seconds from "
        "connected workers to shards in place",
        "  workers   median (from least to most)   start   MB/s   speed-up   efficiency",
    ]
    for number in numbers:
        times = [each.job_s for each in runs if each.workers == number]
        start = statistics.median(each.start_s for each in runs if each.workers == number)
        gain = median[least] / median[number]
        spread = f"({min(times):.2f} to {max(times):.2f})"
        rate = runs[0].bytes / 1e6 / median[number]
        lines.append(
            f"  {number:7d}  {median[number]:7.2f} {spread:>20s}  {start:6.2f}  "
            f"{rate:5.2f}  {gain:9.2f}  {gain * least / number:11.1%}"
        )
    equal = all(each.files == runs[0].files for each in runs)
    if equal:
        lines.append(f"all {len(runs[0].files)} files of all {len(runs)} runs are equal")
    else:
        names = {name for each in runs for name in each.files}
        other = sorted(n for n in names if len({each.files.get(n) for each in runs}) > 1)
        lines.append(f"files differ between runs: {', '.join(other)}")
    return "\n".join(lines), equal


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and print; 0, or 1 if files differ or the pipeline fails."""
    parser = argparse.ArgumentParser(
        prog="python -m alpenglow.data.bench_workers",
        description="The whole pipeline with one worker and with two.",
    )
    parser.add_argument("recipe", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="dotted.key=value")
    parser.add_argument("--workers", default="1,2", help="numbers to compare; default 1,2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scratch", type=Path, help="where shards and stores go for the while")
    options = parser.parse_intermixed_args(arguments)
    try:
        numbers = [int(word) for word in options.workers.split(",")]
    except ValueError:
        parser.error(f"--workers {options.workers}: numbers with commas between, such as 1,2")
    if min(numbers) < 1 or options.rounds < 1:
        parser.error("--workers and --rounds must be 1 or more")
    runs: list[Timed] = []
    try:
        machine = current() if os.environ.get("ALPENGLOW_MACHINE") else None
        recipe = read_recipe(options.recipe, machine, options.overrides)
        for turn in range(options.rounds):
            for number in numbers[:: 1 if turn % 2 == 0 else -1]:
                with tempfile.TemporaryDirectory(prefix="bench-workers-", dir=options.scratch) as t:
                    runs.append(run(recipe, number, Path(t)))
    except FAILURES as error:
        sys.stderr.write(f"bench_workers: {error}\n")
        return 1
    said, equal = report(runs)
    print(hardware())
    print(said)
    return int(not equal)


if __name__ == "__main__":
    sys.exit(main())
