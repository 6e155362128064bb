"""A scaling study without a machine: synthetic runs of several sizes, marked as such.

    python -m alpenglow_analysis.scaling_example studies/example
    alpenglow plan scaling studies/example

It shows what a study's page and a proposal with a study look like, and gives tests a truth: jitter
of a known size makes runs of more replicas slower, and a strong series has fewer micro-batches.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from alpenglow.parallel.layout import Layout
from alpenglow_analysis.planted import Jitter
from alpenglow_analysis.scaling_study import FORMAT, PLAN
from alpenglow_analysis.synthetic import Segment
from alpenglow_analysis.synthetic_presets import summit
from alpenglow_lsf.files import write_json

PIPELINE, TENSOR, WARM_UP = 12, 2, 3
REPLICAS = (1, 2, 4, 8)
MICRO_BATCHES = 8
"""Of a replica in the weak series, and in the strong one at its largest size."""


def make(
    folder: Path, *, repeats: int = 2, steps: int = 12, jitter: float = 0.02, seed: int = 1
) -> Path:
    """Write a study of the 7B layout on 4 to 32 nodes of Summit.

    Args:
        folder: the study's, not there yet.
        repeats: runs of each size.
        steps: of each run, warm-up included.
        jitter: spread of passes.
        seed: of the jitter.
    """
    most = REPLICAS[-1]
    wanted = [("strong", d, MICRO_BATCHES * most // d) for d in REPLICAS[:-1]]
    wanted += [("weak", d, MICRO_BATCHES) for d in REPLICAS]
    base = summit(PIPELINE, most, steps)
    sizes: list[dict[str, Any]] = []
    for kind, data, micro_batches in wanted:
        series = ["strong", "weak"] if kind == "weak" and data == most else [kind]
        ranks = PIPELINE * TENSOR * data
        names = [f"runs/{'-'.join(series)}-{ranks:05d}-{n + 1}" for n in range(repeats)]
        for number, name in enumerate(names):
            run = replace(
                base,
                layout=Layout(PIPELINE, TENSOR, data, "data-major"),
                micro_batches=micro_batches,
                segments=(Segment(1, steps),),
                faults=(Jitter(jitter),),
                spare_nodes=0,
                sample_every=1,
                checkpoint_every=10 * steps,
                seed=seed + 97 * number + ranks,
            )
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            run.write(folder / name)
        sizes.append({
            "series": series, "nodes": ranks // 6, "ranks": ranks, "pipeline": PIPELINE,
            "tensor": TENSOR, "data": data, "micro_batch_size": 2,
            "micro_batches": micro_batches, "global_batch_size": 2 * micro_batches * data,
            "sequence_length": 2048, "schedule": "1f1b", "steps": steps, "warm_up": WARM_UP,
            "runs": names,
        })  # fmt: skip
    plan = {
        "format": FORMAT, "synthetic": True, "machine": "summit", "target": "summit",
        "recipe": "a synthetic 7B", "model": {}, "repeats": repeats, "seed": seed, "sizes": sizes,
    }  # fmt: skip
    write_json(folder / PLAN, json.loads(json.dumps(plan)))
    return folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the study; 0, or 1 after one sentence."""
    parser = argparse.ArgumentParser(prog="python -m alpenglow_analysis.scaling_example")
    parser.add_argument("folder", type=Path)
    given = parser.parse_args(arguments)
    if given.folder.exists():
        sys.stderr.write(f"{given.folder}: is there already; name another folder\n")
        return 1
    make(given.folder)
    sys.stdout.write(f"{given.folder}: alpenglow plan scaling {given.folder}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
