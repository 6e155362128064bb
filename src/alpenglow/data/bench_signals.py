"""Quality signals beside a plain loop over documents, on real text, in one process.

    python -m alpenglow.data.bench_signals --megabytes 20 [--memory] [FOLDER ...]

Text is taken from the folders named (source code, documentation, HTML as text, prose), or from this
Python's library and packages. It is read in portions; on each one all variants run in turn, in an
order that changes, and every signal of every document and line is compared. Time is the process's
CPU time. Masking of personal data runs on the same portions; `--memory` adds what single long texts
take.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
import sys
import sysconfig
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from alpenglow.data.bench import hardware
from alpenglow.data.bench_tokenizer import texts
from alpenglow.data.document import Document
from alpenglow.data.personal_data import RULES, Masks
from alpenglow.data.signals import SignalSettings, compute, reference
from alpenglow.data.signals.stop_words import ENGLISH, GOPHER

MEGABYTE = 1_000_000
PORTION = 2_000_000
"""Characters on which all variants run in turn."""
LARGEST = 50
"""MB of the largest document that a reader lets through."""

Columns = dict[str, NDArray[Any]]


@dataclasses.dataclass(frozen=True)
class Found:
    """What one run measured."""

    rates: dict[str, list[float]]
    """Variant -> MB a CPU-second of each portion."""
    bytes: int
    different: Counter[str]
    """Signal -> documents or lines whose value is not the reference's."""


def measure(documents: Sequence[Document]) -> Found:
    """Run every variant on every portion."""
    settings, bare = SignalSettings(), SignalSettings(lines=False)
    masks = Masks(tuple(RULES))
    variants: dict[str, Callable[[Sequence[Document]], Any]] = {
        "signals": lambda some: compute(some, settings),
        "bare": lambda some: compute(some, bare),
        "reference": lambda some: [
            (reference.document(one.text, ENGLISH, GOPHER), reference.lines(one.text))
            for one in some
        ],
        "masks": lambda some: [masks.mask(one.text) for one in some],
    }
    rates: dict[str, list[float]] = {name: [] for name in variants}
    different: Counter[str] = Counter()
    total = 0
    for number, portion in enumerate(_portions(documents)):
        size = sum(one.bytes for one in portion)
        total += size
        results = {}
        names = list(variants)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            begin = time.process_time()
            results[name] = variants[name](portion)
            rates[name].append(size / MEGABYTE / (time.process_time() - begin))
        different += _different(results["signals"], results["reference"])
    return Found(rates, total, different)


def _portions(documents: Sequence[Document]) -> list[list[Document]]:
    portions: list[list[Document]] = []
    size = PORTION
    for one in documents:
        if size >= PORTION:
            portions.append([])
            size = 0
        portions[-1].append(one)
        size += len(one.text)
    return portions


def _different(computed: tuple[Columns, Columns], wanted: list[Any]) -> Counter[str]:
    columns, lines = computed
    found: Counter[str] = Counter()
    for index, (values, of_lines) in enumerate(wanted):
        for name, value in values.items():
            found[name] += not _close(float(columns[name][index]), float(value), 1e-9)
        begin, end = lines["offset"][index : index + 2].tolist()
        found["lines"] += end - begin != len(of_lines)
        for number, line in enumerate(of_lines[: end - begin]):
            for name, value in line.items():
                found[name] += not _close(float(lines[name][begin + number]), float(value), 1e-6)
    return found


def _close(one: float, other: float, error: float) -> bool:
    return math.isclose(one, other, rel_tol=error, abs_tol=error) or (
        math.isnan(one) and math.isnan(other)
    )


def memory(text: str, settings: SignalSettings | None = None) -> float:
    """Return the most memory that signals of one text take beside it, MB."""
    one = [Document(text, "books", "a", "")]
    chosen = settings or SignalSettings()
    compute([Document("a", "books", "a", "")], chosen)  # tables of characters are made once
    tracemalloc.start()
    try:
        compute(one, chosen)
        return tracemalloc.get_traced_memory()[1] / MEGABYTE
    finally:
        tracemalloc.stop()


def report(found: Found) -> str:
    """Describe what was measured, as lines."""
    labels = {
        "reference": "plain Python, document by document",
        "signals": "signals, columns of lines included",
        "bare": "signals, without columns of lines",
        "masks": "masks of personal data, all rules",
    }
    base = found.rates["reference"]
    lines = [
        f"{found.bytes / MEGABYTE:.1f} MB; MB a CPU-second, medians of {len(base)} portions of "
        f"{PORTION / MEGABYTE:.0f} M characters, interleaved"
    ]
    for name, label in labels.items():
        values = found.rates[name]
        ratios = [a / b for a, b in zip(values, base, strict=True)]
        lines.append(
            f"  {label:38s}{statistics.median(values):8.2f}   ratio "
            f"{statistics.median(ratios):6.1f} (from {min(ratios):.1f} to {max(ratios):.1f})"
        )
    wrong = {name: count for name, count in found.different.items() if count}
    lines.append(f"values that differ from the reference's: {wrong or 'none'}")
    return "\n".join(lines)


def _memory_of_long_texts(joined: str) -> str:
    lines = []
    for size in (8, LARGEST):
        text = (joined * (size * MEGABYTE // len(joined) + 1))[: size * MEGABYTE]
        lines.append(f"memory beside one text of {size} M characters: {memory(text):.0f} MB")
    text = "a b c d e f g h\n" * (LARGEST * MEGABYTE // 16)
    lines.append(
        f"memory beside {LARGEST} M characters of words of one letter: {memory(text):.0f} MB"
    )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; exit code 1 if any signal differs."""
    parser = argparse.ArgumentParser(prog="python -m alpenglow.data.bench_signals")
    parser.add_argument("folders", type=Path, nargs="*", help="default: this Python's library")
    parser.add_argument("--megabytes", type=float, default=20.0)
    parser.add_argument("--memory", action="store_true", help="measure memory too: a minute more")
    options = parser.parse_intermixed_args(arguments)
    installed = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib")]
    sizes: Counter[str] = Counter()
    given = list(texts(options.folders or installed, options.megabytes, sizes))
    if not given:
        sys.stderr.write("bench_signals: no text in the folders: name others\n")
        return 1
    print(hardware())
    kinds = ", ".join(f"{kind} {size / MEGABYTE:.1f} MB" for kind, size in sizes.most_common())
    wide = sum(not text.isascii() for text in given)
    print(f"{len(given):,} documents, {wide:,} of them more than ASCII: {kinds}")
    found = measure([Document(text, "books", "a", "") for text in given])
    print(report(found))
    if options.memory:
        print(_memory_of_long_texts("\n".join(given)))
    return int(any(found.different.values()))


if __name__ == "__main__":
    sys.exit(main())
