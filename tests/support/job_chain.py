"""Chains of real jobs: bsub, jsrun and the trainer in a folder, with a fate for a rank of each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from small_recipe import small_recipe
from small_shards import write_small_shards

from alpenglow_lsf.segment import read_segments

ROOT = Path(__file__).parents[2]
JOB_VARIABLES = ("LSB_", "LS_", "JSM_", "OMPI_", "PMIX_", "PRTE_", "SLURM_", "ALPENGLOW_")

Recipe = Callable[[int, int], str]
"""Steps of the run and steps between checkpoints -> text of the recipe."""


def chain_recipe(steps: int, every: int) -> str:
    """A small model for chains."""
    return small_recipe({"steps": steps, "checkpoint_every": every, "log_every": 1000})


# The second rank's fate in each segment of the chain, so many steps after it has begun.
FATE = """
import os, pathlib, signal, sys, threading, time
from alpenglow.train.__main__ import main

run = pathlib.Path(os.environ["ALPENGLOW_RUN"])

def steps():
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\\n") if path.exists() else 0

def meet(what, since):
    while steps() < since + int(sys.argv[2]):
        time.sleep(0.002)
    if what == "STOP":
        (run / "STOP").touch()
    else:
        os.kill(os.getpid(), getattr(signal, what))

fates = sys.argv[3:]
number = len(list(run.glob("segments/*.1.json")))
if os.environ["JSM_NAMESPACE_RANK"] == "1" and number <= len(fates):
    threading.Thread(target=meet, args=(fates[number - 1], steps()), daemon=True).start()
sys.exit(main(sys.argv[1:2]))
"""

JOB = """#!/bin/bash
#BSUB -W 10
#BSUB -nnodes 2
#BSUB -o {name}.%J.out
exec python -m alpenglow_lsf.run --run runs/{name} --activity pretrain {options} -- \\
    jsrun -n2 -r1 -a1 -c7 -b packed:7 python fate.py {recipe} {after} {fates}
"""


class Place:
    """A folder with a recipe, shards, scripts and a spool.

    Args:
        folder: an empty one, or one whose `shards` are there.
        steps: of the run.
        every: steps between checkpoints.
        recipe: what to train.
        after: steps from the begin of a segment to its fate.
        patience_s: seconds until a chain counts as stuck.
    """

    def __init__(
        self,
        folder: Path,
        steps: int,
        every: int,
        *,
        recipe: Recipe = chain_recipe,
        after: int = 25,
        patience_s: float = 120.0,
    ) -> None:
        self.folder = folder
        self.after = after
        self.patience_s = patience_s
        (folder / "tiny.toml").write_text(recipe(steps, every))
        (folder / "short.toml").write_text(recipe(40, every))
        (folder / "fate.py").write_text(FATE)
        (folder / "after.lsf").write_text("#!/bin/bash\n#BSUB -W 1\n#BSUB -nnodes 1\ntrue\n")
        if not (folder / "shards").exists():
            write_small_shards(folder / "shards")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(JOB_VARIABLES)}
        path = [str(ROOT / "lsf/bin"), str(Path(sys.executable).parent), kept["PATH"]]
        roots = [str(ROOT / name) for name in ("src", "lsf", "profiling", "analysis")]
        self.environ = kept | {
            "PATH": os.pathsep.join(path),
            "PYTHONPATH": os.pathsep.join(roots),
            "ALPENGLOW_ROOT": str(ROOT),
            "ALPENGLOW_MACHINE": "laptop",
            "ALPENGLOW_SPOOL": str(folder / "spool"),
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
        }

    def call(self, *words: str) -> str:
        done = subprocess.run(
            words,
            cwd=self.folder,
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def run(
        self, name: str, options: str = "", *fates: str, recipe: str = "tiny.toml"
    ) -> list[dict[str, Any]]:
        """Submit a run's script and wait until no job is left; returns the segments' records."""
        script = self.folder / f"{name}.lsf"
        words = {"name": name, "options": options, "recipe": recipe, "fates": " ".join(fates)}
        script.write_text(JOB.format(**words, after=self.after))
        self.call("bsub", script.name)
        end = time.monotonic() + self.patience_s
        while self.call("bjobs", "-noheader", "-o", "jobid").strip():
            assert time.monotonic() < end, self.call("bjobs", "-a")
            time.sleep(0.1)
        return read_segments(self.folder / "runs" / name)

    def learnt(self, name: str) -> list[tuple[Any, ...]]:
        """Step, loss, gradient norm, learning rate and tokens; what was lost and repeated, once."""
        lines = (self.folder / f"runs/{name}/metrics.jsonl").read_text().splitlines()
        last = {line["step"]: line for line in map(json.loads, lines)}
        keys = ("step", "loss", "grad_norm", "lr", "tokens")
        return [tuple(last[step][key] for key in keys) for step in sorted(last)]
