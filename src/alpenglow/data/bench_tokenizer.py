"""The tokenizer of the pipeline beside the `tokenizers` library, on real text, in one process.

    python -m alpenglow.data.bench_tokenizer tokenizer.json --megabytes 100 [FOLDER ...]

Text is taken from the folders named (source code, documentation, HTML as text, prose), or from this
Python's library and packages. It is read in portions; on each one all variants run in turn, in an
order that changes, and every token of every document is compared. Time is the process's CPU time.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import statistics
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from alpenglow.data.bench import hardware
from alpenglow.data.collect import BATCH_BYTES
from alpenglow.data.document import DataError
from alpenglow.data.slices.html_text import plain
from alpenglow.data.slices.source import decode
from alpenglow.data.tokenizer import Encoder, Tokenizer

KINDS = {
    "code": ".c .h .py .pyi .S .sh .js .css .pl .cpp .hpp .cu .cuh .yaml .json .toml .dts .dtsi",
    "documentation": ".rst .md",
    "HTML as text": ".html .htm",
    "prose": ".txt .dict .cor",
}
MEGABYTE = 1_000_000
PORTIONS = 10
LONGEST = 2_000_000
"""Characters of a document, as the filters leave it by default."""

Batches = list[list[str]]
Ids = list[Any]


@dataclasses.dataclass(frozen=True)
class Found:
    """What one run measured."""

    rates: dict[str, list[float]]
    """Variant -> MB per CPU-second of each portion."""
    documents: int
    bytes: int
    tokens: int
    different: int
    """Documents whose tokens are not the library's."""
    left: int
    """Bytes that the fast path left to the library."""


def texts(folders: Sequence[Path], megabytes: float, sizes: Counter[str]) -> Iterator[str]:
    """Yield texts of files by suffix, in the order of a hash of their names, up to a size.

    Args:
        folders: where to look, at any depth; links are not followed.
        megabytes: stop at so much text.
        sizes: is given the bytes of each kind.
    """
    kinds = {suffix: kind for kind, listed in KINDS.items() for suffix in listed.split()}
    files = {
        path: f"{path.relative_to(folder)}"
        for folder in folders
        for path in folder.rglob("*")
        if path.suffix in kinds and path.is_file() and not path.is_symlink()
    }
    for path in sorted(files, key=lambda path: xxhash.xxh3_64_hexdigest(files[path].encode())):
        text = decode(path.read_bytes())
        if text is None or "\0" in text:
            continue
        kind = kinds[path.suffix]
        text = plain(text) if kind == "HTML as text" else text
        for begin in range(0, len(text), LONGEST):
            part = text[begin : begin + LONGEST]
            sizes[kind] += len(part.encode())
            yield part
        if sizes.total() >= megabytes * MEGABYTE:
            return


def measure(tokenizer: Tokenizer, documents: Sequence[str]) -> Found:
    """Encode documents with each variant; the fast path begins with nothing remembered."""
    encoder, exact = tokenizer.encoder(), tokenizer.encoder("exact")
    library = tokenizer.backend()
    variants: dict[str, Callable[[Batches], list[Ids]]] = {
        "encode": lambda batches: [
            [library.encode(text, add_special_tokens=False) for text in batch] for batch in batches
        ],
        "encode_batch_fast": lambda batches: [
            library.encode_batch_fast(batch, add_special_tokens=False) for batch in batches
        ],
        "exact": lambda batches: [exact.encode(batch) for batch in batches],
        "ours": lambda batches: [encoder.encode(batch) for batch in batches],
    }
    rates: dict[str, list[float]] = {name: [] for name in variants}
    different = tokens = 0
    portions = _portions(documents)
    for number, batches in enumerate(portions):
        size = sum(len(text.encode()) for batch in batches for text in batch) / MEGABYTE
        found = {}
        names = list(variants)
        for name in names[number % 4 :] + names[: number % 4]:
            begin = time.process_time()
            result = variants[name](batches)
            rates[name].append(size / (time.process_time() - begin))
            if name in ("exact", "ours"):
                found[name] = result
            del result
        for wanted, given in zip(found["exact"], found["ours"], strict=True):
            for one, other in zip(wanted, given, strict=True):
                different += not np.array_equal(one, other)
                tokens += one.size
    return Found(
        rates,
        len(documents),
        sum(len(text.encode()) for text in documents),
        tokens,
        different,
        encoder.left_to_library,
    )


def report(found: Found, sizes: Counter[str]) -> str:
    """Describe what was measured, as lines."""
    base = found.rates["encode_batch_fast"]
    kinds = ", ".join(f"{kind} {size / MEGABYTE:.1f} MB" for kind, size in sizes.most_common())
    labels = {
        "encode": "tokenizers, encode, document by document",
        "encode_batch_fast": "tokenizers, encode_batch_fast",
        "exact": "engine 'exact': that and arrays of ids",
        "ours": "engine 'auto', comparisons included",
    }
    cold = found.rates["ours"][0] / base[0]
    lines = [
        f"{found.bytes / MEGABYTE:.1f} MB in {found.documents:,} documents: {kinds}",
        f"MB a CPU-second, medians of {len(base)} portions, interleaved, batches of 1 M characters",
    ]
    for name, values in found.rates.items():
        ratios = [a / b for a, b in zip(values, base, strict=True)]
        lines.append(
            f"  {labels[name]:42s}{statistics.median(values):7.2f}   ratio "
            f"{statistics.median(ratios):5.2f} (from {min(ratios):.2f} to {max(ratios):.2f})"
        )
    lines += [
        f"  the first portion, with nothing remembered: ratio {cold:.2f}",
        f"{found.tokens:,} tokens; documents with other tokens than the library's: "
        f"{found.different}; left to the library: {found.left / MEGABYTE:.2f} MB",
    ]
    return "\n".join(lines)


def _portions(documents: Sequence[str]) -> list[Batches]:
    batches: Batches = []
    size = BATCH_BYTES
    for text in documents:
        if size >= BATCH_BYTES:
            batches.append([])
            size = 0
        batches[-1].append(text)
        size += len(text)
    count = min(PORTIONS, len(batches))
    bounds = np.linspace(0, len(batches), count + 1, dtype=np.int64).tolist()
    return [batches[a:b] for a, b in itertools.pairwise(bounds)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; exit code 1 if any document has other tokens."""
    parser = argparse.ArgumentParser(prog="python -m alpenglow.data.bench_tokenizer")
    parser.add_argument("tokenizer", type=Path, help="a tokenizers JSON file with <|endoftext|>")
    parser.add_argument("folders", type=Path, nargs="*", help="default: this Python's library")
    parser.add_argument("--megabytes", type=float, default=100.0)
    options = parser.parse_intermixed_args(arguments)
    installed = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib")]
    try:
        tokenizer = Tokenizer.load(options.tokenizer)
    except DataError as error:
        sys.stderr.write(f"bench_tokenizer: {error}\n")
        return 1
    sizes: Counter[str] = Counter()
    documents = list(texts(options.folders or installed, options.megabytes, sizes))
    if not documents:
        sys.stderr.write("bench_tokenizer: no text in the folders: name others\n")
        return 1
    print(hardware())
    reason = Encoder(tokenizer).reason
    print("the fast path is taken" if not reason else f"no fast path: {reason}")
    found = measure(tokenizer, documents)
    print(report(found, sizes))
    return int(found.different > 0)


if __name__ == "__main__":
    sys.exit(main())
