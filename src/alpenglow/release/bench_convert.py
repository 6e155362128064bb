"""How fast a checkpoint becomes a release, beside `cp` of the same bytes; and in how much memory.

    python -m alpenglow.release.bench_convert [--size 3b] [--stored fp16] [--rounds 5] [--cold]

A checkpoint of a published model's shape is written first, as 48 ranks' fragments, cut by tensor
ranks and by ZeRO (`alpenglow.release.synthetic_checkpoint`). Then, in turns: GNU cp of its
containers, our conversion with all workers, and with one; each writes to a new folder on the same
disk and ends when every byte of it is fsynced. Before each turn the source is read through once
(warm), or its pages are dropped (`--cold`: posix_fadvise DONTNEED, after a sync). A conversion
opens the checkpoint, checks every fragment's checksum, casts, looks for values that are not finite,
hashes every tensor and puts the folder in place; the process's own start (importing torch) is told
apart. Memory is VmHWM of the converting process, imports included.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from alpenglow.exchange.fragments import FragmentSource
from alpenglow.release.convert import MOST_WORKERS
from alpenglow.release.folder import put_in_place
from alpenglow.release.huggingface import write_release
from alpenglow.release.synthetic_checkpoint import SIZES, synthetic_bytes, write_synthetic
from alpenglow.release.tensors import DTYPES

ROOM = 500_000_000
"""Bytes above twice the largest tensor that a conversion may take: torch itself is half of it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m alpenglow.release.bench_convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--size", choices=[*SIZES], default="3b")
    parser.add_argument("--stored", choices=["fp16", "fp32"], default="fp16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=0, help="0: one a core, at most 8")
    parser.add_argument("--cold", action="store_true", help="drop the source's pages each time")
    parser.add_argument("--folder", type=Path, default=Path(), help="on the disk to measure")
    parser.add_argument("--one", nargs=4, metavar="WORD", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        print(json.dumps(convert_once(*options.one)))
        return 0
    config, stored = SIZES[options.size], DTYPES[options.stored]
    needed = 2 * synthetic_bytes(config, stored) + ROOM
    free = shutil.disk_usage(options.folder).free
    if free < needed:
        sys.stderr.write(
            f"bench_convert: {options.size} needs {needed:,} bytes in {options.folder.absolute()} "
            f"and {free:,} are free; name a smaller --size or another --folder\n"
        )
        return 1
    workers = options.workers or min(MOST_WORKERS, len(os.sched_getaffinity(0)))
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="bench-convert-") as name:
        print(f"writing a {options.size} checkpoint of {options.stored} weights", flush=True)
        source = write_synthetic(Path(name), config, stored)
        _measure(source, options.rounds, workers, cold=options.cold)
    return 0


def convert_once(source: str, output: str, dtype: str, workers: str) -> dict[str, float]:
    """Convert one checkpoint, tokenizer.json beside its folder, in this process.

    Returns:
        seconds, and the process's peak memory before (kB, what imports took) and after.
    """
    before = peak_memory()
    begin = time.monotonic()
    opened = FragmentSource.open(Path(source))
    with put_in_place(Path(output)) as folder:
        tokenizer = Path(source).parent / "tokenizer.json"
        write_release(folder, opened, tokenizer, dtype=dtype, workers=int(workers))
    seconds = time.monotonic() - begin
    return {"seconds": seconds, "before_kb": before, "peak_kb": peak_memory()}


def peak_memory() -> int:
    """VmHWM of this process in kB: most memory that it had resident (proc(5))."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def _measure(source: Path, rounds: int, workers: int, *, cold: bool) -> None:
    containers = sorted(source.glob("*.fragments"))
    nbytes = sum(path.stat().st_size for path in containers)
    opened = FragmentSource.open(source)
    shapes = opened.config.tensor_shapes()
    largest = max(opened.stored(name).itemsize * _count(shape) for name, shape in shapes.items())
    state = "cold (pages dropped)" if cold else "warm (read through before)"
    print(f"{nbytes:,} bytes in {len(containers)} containers, source {state}", flush=True)
    turns = dict.fromkeys(("cp", f"{workers} workers", "1 worker"), 0)
    seconds: dict[str, list[float]] = {turn: [] for turn in turns}
    starts: list[float] = []
    peak = 0.0
    output = source.parent / "output"
    for round_number in range(rounds):
        names = [*turns]
        for turn in names[round_number % 3 :] + names[: round_number % 3]:
            _prepare(containers, cold=cold)
            begin = time.monotonic()
            if turn == "cp":
                _copy(containers, output)
                seconds[turn].append(time.monotonic() - begin)
            else:
                told = _convert(source, output, turn.split()[0])
                seconds[turn].append(told["seconds"])
                starts.append(time.monotonic() - begin - told["seconds"])
                peak = max(peak, told["peak_kb"] * 1024)
            shutil.rmtree(output)
    _print(seconds, nbytes)
    print(f"process start and imports beside it: {statistics.median(starts):.2f} s (median)")
    limit = 2 * largest + ROOM
    print(
        f"peak memory {peak / 1e6:,.0f} MB, largest tensor {largest / 1e6:,.0f} MB, limit "
        f"2 x largest + {ROOM / 1e6:,.0f} MB = {limit / 1e6:,.0f} MB: "
        f"{'kept' if peak <= limit else 'PASSED'}"
    )


def _print(seconds: dict[str, list[float]], nbytes: int) -> None:
    base = statistics.median(seconds["cp"])
    print(f"{'':12} {'median s':>9} {'from':>8} {'to':>8} {'MB/s':>8} {'of cp':>6}")
    for turn, values in seconds.items():
        median = statistics.median(values)
        low, high, rate = min(values), max(values), nbytes / median / 1e6
        print(f"{turn:12} {median:9.2f} {low:8.2f} {high:8.2f} {rate:8.0f} {base / median:6.2f}")


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _prepare(containers: Sequence[Path], *, cold: bool) -> None:
    os.sync()  # what earlier turns left to write is none of this one's
    for path in containers:
        with path.open("rb") as file:
            if cold:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                continue
            while file.read(1 << 24):
                pass


def _copy(containers: Sequence[Path], output: Path) -> None:
    output.mkdir()
    subprocess.run(["cp", "--reflink=never", *map(str, containers), str(output)], check=True)
    for path in (*output.iterdir(), output):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _convert(source: Path, output: Path, workers: str) -> dict[str, float]:
    command = [sys.executable, "-m", "alpenglow.release.bench_convert", "--one"]
    words = [str(source), str(output), "fp16", workers]
    ran = subprocess.run([*command, *words], check=True, stdout=subprocess.PIPE, text=True)
    told: dict[str, float] = json.loads(ran.stdout)
    return told


if __name__ == "__main__":
    sys.exit(main())
