"""Benchmark of `alpenglow data verify`, beside plain reading and hashing of the same files.

    python -m alpenglow.data.bench_verify

The peer does what xxhsum does: reads a file in pieces of 1 MiB and hashes them with xxh3-128. Both
read from the page cache, where hashing is what costs; interleaved, medians of pairs.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import xxhash

from alpenglow.data.bench import hardware
from alpenglow.data.catalogue import Catalogue
from alpenglow.data.shards import ShardWriter
from alpenglow.data.verify import verify


def plain(paths: Sequence[Path]) -> None:
    """Read and hash files, and compare nothing."""
    for path in paths:
        state = xxhash.xxh3_128()
        with path.open("rb", buffering=0) as file:
            while piece := file.read(1 << 20):
                state.update(piece)
        state.digest()


def make(folder: Path, tokens: int, shards: int) -> Catalogue:
    """Write shards of drawn tokens, 1,000 a document."""
    rng = np.random.default_rng(0)
    made = {"tokenizer_hash": xxhash.xxh3_128_hexdigest(b"{}"), "recipe_hash": ""}
    (folder / "tokenizer.json").write_text("{}")
    infos = []
    for number in range(shards):
        path = folder / f"s-{number:05d}.h5"
        with ShardWriter(path, slice="s", dtype="uint16", **made) as writer:
            for _ in range(tokens // shards // 1000):
                writer.add(rng.integers(0, 50_432, 1000, dtype=np.uint16), rng.bytes(16), "drawn")
            infos.append(writer.close())
    catalogue = Catalogue.build(folder, infos, tokenizer="tokenizer.json", vocab_size=1, **made)
    catalogue.write()
    return catalogue


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and print; see the module."""
    parser = argparse.ArgumentParser(prog="python -m alpenglow.data.bench_verify")
    parser.add_argument("--tokens", type=int, default=1 << 29)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        catalogue = make(Path(name), options.tokens, 8)
        paths = [catalogue.folder / info.file for info in catalogue.shards]

        def ours() -> None:
            damaged = [one for one in verify(catalogue) if one.damage]
            if damaged:
                raise RuntimeError(f"{damaged}")

        size = sum(path.stat().st_size for path in paths) / 1e6
        rates: dict[str, list[float]] = {"verify": [], "plain": []}
        variants: dict[str, Callable[[], None]] = {"verify": ours, "plain": lambda: plain(paths)}
        for number in range(options.rounds + 1):
            for key in list(variants)[:: 1 if number % 2 else -1]:
                begin = time.perf_counter()
                variants[key]()
                if number:  # the first warms the cache
                    rates[key].append(size / (time.perf_counter() - begin))
    ratios = [a / b for a, b in zip(rates["verify"], rates["plain"], strict=True)]
    sys.stdout.write(
        f"{hardware()}\n{size:,.0f} MB in {len(paths)} shards, one process, warm cache, "
        f"{options.rounds} interleaved rounds\n"
        f"  alpenglow data verify  {statistics.median(rates['verify']):8,.0f} MB/s\n"
        f"  read and xxh3-128      {statistics.median(rates['plain']):8,.0f} MB/s\n"
        f"  ratio, median of pairs {statistics.median(ratios):8.3f}  (from {min(ratios):.3f} to "
        f"{max(ratios):.3f})\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
