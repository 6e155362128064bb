"""What a search over layouts costs: `python -m alpenglow_analysis.bench_search`.

CPU seconds of one core, layouts that are lawful, fit and are timed, for both INCITE models on
Summit; each search in turn, several times, medians. The first of a process also fills the caches of
products, so it is told apart.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from statistics import median

from alpenglow_analysis.columns import laid
from alpenglow_analysis.layout_command import parser
from alpenglow_analysis.page import Table
from alpenglow_analysis.planned_run import planned_run
from alpenglow_analysis.search import search

RUNS = (("7b", 512), ("3b", 256))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    options = argparse.ArgumentParser(prog="python -m alpenglow_analysis.bench_search")
    options.add_argument("--repeats", type=int, default=5)
    given = options.parse_args(arguments)
    took: dict[str, list[float]] = {name: [] for name, _ in RUNS}
    facts = {}
    for _ in range(max(1, given.repeats)):
        for name, nodes in RUNS:
            words = ["--model", name, "--machine", "summit", "--nodes", str(nodes)]
            run = planned_run(parser().parse_args(words))
            begin = time.process_time()
            found = search(run)
            took[name].append(time.process_time() - begin)
            facts[name] = (run.gpus, found.lawful, len(found.found), found.best.seconds)
    rows = []
    for name, seconds in took.items():
        gpus, lawful, fit, best = facts[name]
        rows.append([
            f"INCITE {name.upper()}", f"{gpus:,}", f"{lawful:,}", f"{fit:,}", f"{best:.3f}",
            f"{seconds[0]:.2f}", f"{median(seconds):.2f}", f"{lawful / median(seconds):,.0f}",
        ])  # fmt: skip
    heads = ["model", "GPUs", "lawful", "fit", "best step s", "first s", "median s", "layouts/s"]
    sys.stdout.write(laid(Table(heads, rows)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
