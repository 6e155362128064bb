"""Speed of a slice's reader on raw input of your own, both modes by turns, in CPU time.

    python tests/support/bench_slice.py github FOLDER

One line a mode: documents, text, what was trimmed and dropped, MB of text and of raw input a
CPU-second; the faster of `--rounds` rounds.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alpenglow.data import slices
from alpenglow.data.recipe import SLICES, SliceRecipe
from alpenglow.data.slices.source import Source

MODES = ("fixed", "faithful")


def measure(name: str, root: Path, mode: Any) -> tuple[float, str]:
    """Read all of an input once; returns CPU seconds and a sentence."""
    every: Any = {"licences": [], "unknown_licence": "keep"} if name == "github" else {}
    recipe = SliceRecipe(input=root, mode=mode, rules=every)
    module = slices.of_name(name)
    units = module.units(Source.of(name, recipe, 256_000_000))
    faults: Counter[str] = Counter()
    read = trimmed = 0
    start = time.process_time()
    for unit in units:
        for document in module.read(unit, recipe):
            faults[document.fault or "kept"] += 1
            read += document.read_bytes
            trimmed += sum(document.trimmed.values())
    seconds = time.process_time() - start
    raw = sum(item.size for unit in units for item in unit.inputs)
    return seconds, (
        f"{name} {mode}: {dict(faults)}, {read / 1e6:.1f} MB of text, {trimmed / 1e6:.2f} MB "
        f"trimmed; a CPU-second reads {read / seconds / 1e6:.1f} MB of text, "
        f"{raw / seconds / 1e6:.1f} MB of raw input"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line a mode, and the highest memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slice", choices=SLICES)
    parser.add_argument("input", type=Path)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args(arguments)
    best: dict[str, tuple[float, str]] = {}
    for _ in range(options.rounds):
        for mode in MODES:
            found = measure(options.slice, options.input, mode)
            best[mode] = min(best.get(mode, found), found)
    for _, sentence in best.values():
        print(sentence)
    print(
        f"memory at its highest {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} MB"
    )


if __name__ == "__main__":
    main()
