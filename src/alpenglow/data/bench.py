"""Benchmarks of the data room, each beside its peer in one process.

    python -m alpenglow.data.bench windows     HDF5 memory map against numpy.memmap, same tokens
    python -m alpenglow.data.bench order       start-up and cost a step of the order at 1.2 T tokens

`alpenglow.data.bench_tokenizer` does the same for tokenizers.
Variants are interleaved; medians and ratios are printed with the hardware.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alpenglow.data.order import Order
from alpenglow.data.shards import Shard, ShardWriter

# RedPajama v1's tokens by slice (dataset card), in billions.
REDPAJAMA = {
    "commoncrawl": 878,
    "c4": 175,
    "github": 59,
    "arxiv": 28,
    "books": 26,
    "wikipedia": 24,
    "stackexchange": 20,
}
SHARD_TOKENS = 1 << 28
"""Half a GiB of uint16 a shard."""


def hardware() -> str:
    """One line that names this machine's processor."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    return f"{os.cpu_count()} x {model}, Python {platform.python_version()}, numpy {np.__version__}"


def windows(tokens: int = 1 << 29, length: int = 2049, reads: int = 20_000, rounds: int = 9) -> str:
    """Random windows from one shard and from the same tokens as a raw file, cast to int64.

    Args:
        tokens: in the shard; 2^29 uint16 are 1 GiB.
        length: tokens a window.
        reads: windows a round.
        rounds: interleaved rounds of each variant.
    """
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        folder = Path(name)
        values = rng.integers(0, 50_432, tokens, dtype=np.uint16)
        values.tofile(folder / "raw.bin")
        with ShardWriter(
            folder / "s.h5", slice="s", dtype="uint16", tokenizer_hash="", recipe_hash=""
        ) as writer:
            writer.add(values, b"0" * 16, "")
            writer.close()
        del values
        ours = Shard(folder / "s.h5").tokens
        memmap = np.memmap(folder / "raw.bin", np.uint16, "r")
        plain = np.asarray(memmap).view(np.ndarray)
        starts = rng.integers(0, tokens - length, reads).tolist()
        target = np.empty(length, np.int64)

        def read(source: NDArray[Any]) -> Callable[[], None]:
            def run() -> None:
                for start in starts:
                    target[:] = source[start : start + length]

            return run

        rates = _interleaved(
            {"ours": read(ours), "memmap": read(memmap), "plain": read(plain)}, reads, rounds
        )
    ratios = [a / b for a, b in zip(rates["ours"], rates["memmap"], strict=True)]
    same = statistics.median(a / b for a, b in zip(rates["ours"], rates["plain"], strict=True))
    return (
        f"windows of {length} tokens from {tokens * 2 / 2**30:g} GiB, warm cache, {reads} a round, "
        f"{rounds} interleaved rounds\n"
        f"  HDF5 shard, mapped   {statistics.median(rates['ours']):10,.0f} windows/s\n"
        f"  numpy.memmap, raw    {statistics.median(rates['memmap']):10,.0f} windows/s\n"
        f"  the same, as ndarray {statistics.median(rates['plain']):10,.0f} windows/s\n"
        f"  ratio to numpy.memmap, median of pairs {statistics.median(ratios):.3f}  "
        f"(from {min(ratios):.3f} to {max(ratios):.3f}; target at least 0.9)\n"
        f"  ratio to the ndarray over it           {same:.3f}  "
        f"(what numpy.memmap's own class costs is left out)"
    )


def order(sequence_length: int = 2048, batch: int = 2048, steps: int = 50) -> str:
    """Start-up and steps of the order over RedPajama v1's sizes: 1.2 T tokens, 586 M windows."""
    before = _memory_mib()
    shards = [
        (name, SHARD_TOKENS)
        for name, billions in sorted(REDPAJAMA.items())
        for _ in range(round(billions * 1e9 / SHARD_TOKENS))
    ]
    begin = time.perf_counter()
    mixture = {name: float(b) for name, b in REDPAJAMA.items()}
    stream = Order(shards, mixture, sequence_length, 1, validation_fraction=0.0005)
    held_out = stream.validation()
    stream.samples(np.arange(batch))
    held_out.samples(np.arange(batch))
    start_up = time.perf_counter() - begin
    total = sum(stream.windows.values())
    times = []
    for step in np.linspace(0, total // batch, steps, dtype=np.int64):
        begin = time.perf_counter()
        stream.samples(np.arange(step * batch, (step + 1) * batch))
        times.append(time.perf_counter() - begin)
    median, kept = statistics.median(times) * 1e3, sum(held_out.windows.values())
    return (
        f"{total / 1e6:.0f} M windows of {sequence_length} tokens in {len(shards)} shards of "
        f"{len(stream.slices)} slices, and {kept:,} held out\n"
        f"  start-up, first of both {start_up * 1e3:8.1f} ms   (target under 1,000 ms)\n"
        f"  a step of {batch} samples  {median:8.2f} ms, median of {steps}\n"
        f"  peak memory added       {_memory_mib() - before:8.1f} MiB, process "
        f"{_memory_mib():.0f} MiB   (target under 200 MB)"
    )


def _interleaved(
    variants: dict[str, Callable[[], None]], work: int, rounds: int
) -> dict[str, list[float]]:
    rates: dict[str, list[float]] = {name: [] for name in variants}
    for run in variants.values():
        run()
    for number in range(rounds):
        # Each goes first every other time, so that neither always finds the warmer cache.
        for name in list(variants)[:: 1 if number % 2 else -1]:
            begin = time.perf_counter()
            variants[name]()
            rates[name].append(work / (time.perf_counter() - begin))
    return rates


def _memory_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the named benchmark and print it."""
    parser = argparse.ArgumentParser(prog="python -m alpenglow.data.bench")
    parser.add_argument("what", choices=["windows", "order"])
    what = parser.parse_args(arguments).what
    print(hardware())
    print(windows() if what == "windows" else order())
    return 0


if __name__ == "__main__":
    sys.exit(main())
