"""What sampling a node costs, and an exchange of clocks with many nodes.

    python -m alpenglow_profiling.bench_samplers [--library libnvidia-ml.so.1]

A loop that only computes (Python, so that it wants the interpreter all the time) runs in short
rounds, by turns with and without a sampler beside it. A sample a second would hide in the noise of
a shared machine, so samples come `--rate` times a second and the median ratio is also given for one
a second: what a sample takes from the loop does not depend on how often one comes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from alpenglow_profiling.clock_exchange import ExchangePoint
from alpenglow_profiling.energy import energy_mwh
from alpenglow_profiling.gpu import LIBRARY
from alpenglow_profiling.sample_log import About, SampleLogFile
from alpenglow_profiling.sampler import NodeReader, Sampler
from alpenglow_profiling.samples import log_path, merge, read

ROUND_S = 0.2
# Many nodes that answer, in a process of their own.
NODES = """
import sys, threading
from alpenglow_profiling.clock_exchange import answer
offer = int(sys.argv[1]), bytes.fromhex(sys.argv[2])
for i in range(int(sys.argv[3])):
    threading.Thread(target=answer, args=("127.0.0.1", offer, f"h{i}")).start()
"""


def work(count: int) -> int:
    """Compute something."""
    total = 0
    for i in range(count):
        total += i ^ (total & 0xFF)
    return total


def work_seconds(count: int) -> float:
    """Seconds of `work`."""
    begin = time.perf_counter()
    work(count)
    return time.perf_counter() - begin


def sample_cost(library: str, samples: int) -> tuple[float, float, int]:
    """(median seconds, median CPU seconds of the thread, devices) of a sample."""
    reader = NodeReader([os.getpid()], library)
    wall, cpu = [], []
    for _ in range(samples):
        begin, used = time.perf_counter(), time.thread_time()
        devices = len(reader.take())
        wall.append(time.perf_counter() - begin)
        cpu.append(time.thread_time() - used)
        time.sleep(1e-3)  # caches as cold as between real ones, nearly
    reader.close()
    return statistics.median(wall), statistics.median(cpu), devices


def ratios(folder: Path, library: str, rate: float, rounds: int) -> list[float]:
    """Seconds of the loop with a sampler over those without, in pairs whose order alternates."""
    count = 100_000
    count = round(count * ROUND_S / min(work_seconds(count) for _ in range(5)))
    found = []
    for number in range(rounds):
        pair = {}
        for sampled in (number % 2 == 0, number % 2 == 1):
            sampler = None
            if sampled:
                sampler = Sampler(
                    folder, "bench", period_s=1 / rate, pids=[os.getpid()], library=library
                )
                time.sleep(0.05)  # it has started
            pair[sampled] = work_seconds(count)
            if sampler is not None:
                sampler.close()
        found.append(pair[True] / pair[False])
    return found


def sizes(folder: Path, library: str) -> tuple[float, float, str]:
    """Bytes of an hour in the log and in the HDF5 file, and how its energy is found."""
    reader = NodeReader([os.getpid()], library)
    log = SampleLogFile(
        log_path(folder, "hour"), About("hour", folder.name, 1.0, 1, devices=reader.devices)
    )
    log.note(reader.take_notes())
    rows = [reader.take() for _ in range(3600)]
    for second, taken in enumerate(rows):
        for name in ("monotonic_ns", "wall_ns"):
            taken[name] = rows[0][name] + second * 10**9 + taken[name] % 10**6
    for begin in range(0, len(rows), 10):
        log.write(np.concatenate(rows[begin : begin + 10]))
    log.close()
    reader.close()
    (file,) = merge(folder, node="hour")
    (energy,) = energy_mwh(read(folder))
    return log.path.stat().st_size, file.stat().st_size, energy.how


def exchange_cost(nodes: int) -> tuple[float, float, int]:
    """(seconds of asking all of them, median error in seconds, how many answered)."""
    point = ExchangePoint()
    port, token = point.offer
    command = [sys.executable, "-c", NODES, str(port), token.hex(), str(nodes)]
    path = os.pathsep.join(sys.path)
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}) as process:
        time.sleep(0.5)  # on a machine all nodes call at once
        begin = time.perf_counter()
        found, _ = point.measure([f"h{i}" for i in range(nodes)])
        seconds = time.perf_counter() - begin
        process.wait()
    return seconds, statistics.median(exchange.error_ns for exchange in found) / 1e9, len(found)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m alpenglow_profiling.bench_samplers")
    parser.add_argument("--library", default=LIBRARY, help="NVML's library, another name or path")
    parser.add_argument("--rounds", type=int, default=41, help="pairs of runs")
    parser.add_argument("--rate", type=float, default=50.0, help="samples a second")
    parser.add_argument("--nodes", type=int, default=511, help="nodes that exchange clocks")
    options = parser.parse_args(arguments)
    wall, cpu, devices = sample_cost(options.library, 300)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = sorted(ratios(folder / "loop", options.library, options.rate, options.rounds))
        log, packed, how = sizes(folder / "hour", options.library)
    median = statistics.median(found)
    quarters = found[len(found) // 4], found[3 * len(found) // 4]
    seconds, error, answered = exchange_cost(options.nodes)
    print(f"sample              {wall * 1e6:6.0f} us, {cpu * 1e6:.0f} us of a core, {devices} rows")
    print(
        f"loop on/off         {median:.4f} ({quarters[0]:.4f} to {quarters[1]:.4f}, "
        f"{len(found)} pairs) at {options.rate:g} samples a second"
    )
    print(f"at one a second     {(median - 1) / options.rate:+.4%} of the loop")
    print(f"an hour of a node   {log / 1e3:6.0f} kB in the log, {packed / 1e3:.0f} kB in HDF5")
    print(f"energy              {how}")
    print(
        f"clock exchange      {seconds:6.3f} s for {answered} of {options.nodes} nodes, "
        f"median error {error * 1e6:.0f} us"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
