"""Benchmark of the index of documents: building one of many, and finding in it.

    python -m alpenglow.data.bench_index --documents 100000000

The entries are drawn hashes, as ids and URLs give them: a document has an id, a URL of its own, one
of N / 10 domains (with one shorter ending), one of 12 licences of which half have the first, and
one of N / 1,000 sources. Look-ups open the index anew and, where the system lets go of the file's
pages, read it from the disk. What a shard of that many documents costs to read is apart: the second
figure indexes real shards, text columns and hashes included.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alpenglow.data.bench import hardware
from alpenglow.data.catalogue import Catalogue
from alpenglow.data.document_index import DocumentIndex, IndexBuilder, build
from alpenglow.data.index_keys import KINDS, key, normal
from alpenglow.data.shards import ShardWriter

CHUNK = 1 << 20
SHARD_DOCUMENTS = 100_000
BYTES_EACH = 110
"""Of disk while it is built, for a document: the index and the files that it is sorted in."""


def drawn(kind: str, documents: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """Which value of a kind each document has."""
    if kind in ("id", "url"):
        return documents
    if kind == "domain":
        return documents * 7919 % max(1, total // 10)
    if kind == "licence":
        return np.where(documents % 2, 0, documents // 2 % 12)
    return documents // 1000


def hashes(kind: str, values: NDArray[np.int64]) -> NDArray[np.uint64]:
    """64 well-mixed bits of each value (splitmix64's finaliser, Steele et al. 2014)."""
    mixed = values.astype(np.uint64) + np.uint64(KINDS.index(kind) + 1 << 56)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))


def synthetic(path: Path, total: int) -> None:
    """Build an index of drawn entries."""
    shards = [SHARD_DOCUMENTS] * (total // SHARD_DOCUMENTS)
    if total % SHARD_DOCUMENTS:
        shards.append(total % SHARD_DOCUMENTS)
    builder = IndexBuilder(path, shards, {"fingerprint": "", "content": "", "lists": ""})
    for begin in range(0, total, CHUNK):
        documents = np.arange(begin, min(total, begin + CHUNK))
        for kind in KINDS:
            values = drawn(kind, documents, total)
            if kind == "domain":  # a host and its shorter ending
                builder.add(
                    kind,
                    np.stack([hashes(kind, values), hashes(kind, -1 - values // 4)], 1).ravel(),
                    np.repeat(documents, 2),
                )
            else:
                builder.add(kind, hashes(kind, values), documents)
    builder.close()


def look_up(path: Path, total: int, lookups: int) -> dict[str, list[float]]:
    """Seconds of each look-up by kind, the opening of the index included.

    Raises:
        RuntimeError: a document was not found, or too many were.
    """
    times: dict[str, list[float]] = {}
    rng = np.random.default_rng(0)
    for kind in KINDS:
        for document in rng.integers(0, total, lookups):
            (value,) = drawn(kind, np.array([document]), total)
            wanted = int(hashes(kind, np.array([value]))[0])
            _let_go(path)
            begin = time.perf_counter()
            found = DocumentIndex(path).find_key(kind, wanted)
            at = int(np.searchsorted(found, found.dtype.type(document)))
            inside = at < len(found) and int(found[at]) == document
            times.setdefault(kind, []).append(time.perf_counter() - begin)
            if not inside or (kind in ("id", "url") and len(found) != 1):
                raise RuntimeError(f"{kind}: {len(found)} documents found for document {document}")
    return times


def real(folder: Path, documents: int) -> float:
    """Documents a second that indexing of shards takes in."""
    infos = []
    for number in range(2):
        path = folder / f"commoncrawl-{number:05d}.h5"
        made = {"tokenizer_hash": "", "recipe_hash": ""}
        with ShardWriter(path, slice="commoncrawl", dtype="uint16", **made) as writer:
            for at in range(number * documents // 2, (number + 1) * documents // 2):
                identity = key("url", str(at)).to_bytes(8, "little") * 2
                url = f"https://www.host{at % 5000}.example.org/section/{at % 97}/page-{at}.html"
                writer.add(np.zeros(4, int), identity, "dump", url=url, licence="CC-BY-4.0")
            infos.append(writer.close())
    catalogue = Catalogue.build(
        folder, infos, tokenizer="t", tokenizer_hash="", vocab_size=1, recipe_hash=""
    )
    begin = time.perf_counter()
    build(catalogue)
    seconds = time.perf_counter() - begin
    index = DocumentIndex.open(catalogue)
    if index.find("id", (key("url", "7").to_bytes(8, "little") * 2).hex()).tolist() != [7]:
        raise RuntimeError(f"{normal('id', '7')} was not found")
    return documents / seconds


def _let_go(path: Path) -> None:
    """Ask the system to forget the file's pages."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and print; see the module."""
    parser = argparse.ArgumentParser(prog="python -m alpenglow.data.bench_index")
    parser.add_argument("--documents", type=int, default=100_000_000)
    parser.add_argument("--lookups", type=int, default=50, help="of each kind")
    options = parser.parse_args(arguments)
    total = options.documents
    if total < 1 or options.lookups < 1:
        parser.error("--documents and --lookups are at least 1")
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        free = os.statvfs(name).f_bavail * os.statvfs(name).f_frsize
        if free < total * BYTES_EACH:
            sys.stderr.write(
                f"bench_index: {total * BYTES_EACH / 1e9:.0f} GB are needed here, "
                f"{free / 1e9:.0f} GB are free\n"
            )
            return 1
        path = Path(name) / "index.h5"
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        begin = time.perf_counter()
        synthetic(path, total)
        os.sync()
        seconds = time.perf_counter() - begin
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        sys.stdout.write(
            f"{hardware()}\n{total:,} documents, {path.stat().st_size / 1e9:.2f} GB, built in "
            f"{seconds:.0f} s, peak memory grew by {grown / 1024:.0f} MiB, "
            "mapped files included\n"
        )
        for kind, times in look_up(path, total, options.lookups).items():
            sys.stdout.write(
                f"  by {kind:<8} median {statistics.median(times) * 1e3:7.2f} ms, longest "
                f"{max(times) * 1e3:7.2f} ms of {len(times)}   (target under 1,000 ms)\n"
            )
        rate = real(Path(name), min(total, 200_000))
        sys.stdout.write(f"  shards read, hashed and sorted: {rate:,.0f} documents/s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
