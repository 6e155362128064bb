"""A chain of segments, warned, killed and stopped, learns what one uninterrupted run learns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_shards import write_small_shards

from alpenglow_lsf.segment import gained, read_segments

pytestmark = [pytest.mark.slow, pytest.mark.distributed]

ROOT = Path(__file__).parents[2]
JOB_VARIABLES = ("LSB_", "LS_", "JSM_", "OMPI_", "PMIX_", "PRTE_", "SLURM_", "ALPENGLOW_")
STEPS = 240

RECIPE = f"""
[model]
num_layers = 2
hidden_size = 32
num_attention_heads = 4
vocab_size = 128
max_position_embeddings = 32
[batch]
global_batch_size = 8
micro_batch_size = 2
sequence_length = 16
[optimizer]
lr = 3e-3
[data]
catalogue = "shards/catalogue.json"
[data.mixture]
github = 3
wikipedia = 1
[train]
steps = {STEPS}
checkpoint_every = 10
log_every = 1000
"""

# The second rank's fate in each segment of the chain, some 20 steps after it has begun.
FATE = """
import os, pathlib, signal, sys, threading, time
from alpenglow.train.__main__ import main

run = pathlib.Path(os.environ["ALPENGLOW_RUN"])

def steps():
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\\n") if path.exists() else 0

def meet(what, since):
    while steps() < since + 25:
        time.sleep(0.002)
    if what == "STOP":
        (run / "STOP").touch()
    else:
        os.kill(os.getpid(), getattr(signal, what))

fates = sys.argv[2:]
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
    jsrun -n2 -r1 -a1 -c7 -b packed:7 python fate.py {recipe} {fates}
"""


class Place:
    """A folder with a recipe, shards, scripts and a spool."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "tiny.toml").write_text(RECIPE)
        (folder / "short.toml").write_text(RECIPE.replace(f"steps = {STEPS}", "steps = 40"))
        (folder / "fate.py").write_text(FATE)
        (folder / "after.lsf").write_text("#!/bin/bash\n#BSUB -W 1\n#BSUB -nnodes 1\ntrue\n")
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
        script.write_text(JOB.format(**words))
        self.call("bsub", script.name)
        end = time.monotonic() + 120
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


def test_a_chain_learns_what_one_run_learns(tmp_path: Path) -> None:
    place = Place(tmp_path)
    fates = ("SIGURG", "SIGKILL", "STOP")
    records = place.run("chain", "--chain --then after.lsf", *fates)
    assert [r["reason"] for r in records] == ["more to do", "failed", "more to do"]
    assert [r["successor"]["standing"] for r in records] == ["submitted", "submitted", "removed"]
    assert "a file STOP is in the run directory" in records[-1]["reason_text"]
    assert all(gained(record) > 0 for record in records)
    # The killed one lost what it had not saved; the others saved as they left.
    assert [r["last_step"] == r["last_durable_checkpoint"] for r in (records[0], records[2])] == [
        True,
        True,
    ]
    starts = [r["resumed_from_step"] for r in records]
    assert starts[1:] == [r["last_durable_checkpoint"] for r in records[:2]]
    assert records[1]["last_durable_checkpoint"] % 10 == 0
    assert min(records[0]["save_s"], records[0]["drain_s"]) > 0

    (tmp_path / "runs/chain/STOP").unlink()
    records = place.run("chain", "--chain --then after.lsf")
    assert records[-1]["reason"] == "complete"
    assert records[-1]["successor"]["standing"] == "removed"
    assert [then["script"] for r in records for then in r["then"]] == ["after.lsf"]

    (straight,) = place.run("straight")
    assert straight["reason"] == "complete"
    assert len(place.learnt("straight")) == STEPS
    assert place.learnt("chain") == place.learnt("straight")

    told = place.call(sys.executable, "-m", "alpenglow_lsf.status", "runs/chain")
    assert "runs/chain: complete" in told
    assert "in 4 segments" in told


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """The checkpoint folder of runs/full, on a file system that holds one checkpoint, not two."""
    folder = tmp_path / "runs/full/checkpoints"
    folder.mkdir(parents=True)
    words = ["mount", "-t", "tmpfs", "-o", "size=640k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(words, check=False, capture_output=True).returncode:
        pytest.skip("a small file system of one's own needs root, and mounts allowed")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_ends_the_chain_and_room_lets_it_go_on(
    tmp_path: Path, small_disk: Path
) -> None:
    place = Place(tmp_path)
    options = "--chain --grace 0 --then after.lsf"
    records = place.run("full", options, recipe="short.toml")
    assert [r["reason"] for r in records] == ["failed", "failed"]
    # The first save had room; the second did not, nor when the next segment tried it again.
    assert [(r["resumed_from_step"] or 0, r["last_durable_checkpoint"]) for r in records] == [
        (0, 10),
        (10, None),
    ]
    assert "the chain ends: the segment gained no checkpoint" in records[1]["reason_text"]
    assert records[1]["successor"]["standing"] == "removed"
    for record in records:
        text = (tmp_path / f"full.{record['job_id']}.out").read_text()
        assert "the checkpoint was not written: rank" in text
        assert "No space left on device" in text
    assert (small_disk / "step-00000010/manifest.json").is_file()
    assert not list(small_disk.glob("step-00000020/*"))

    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    records = place.run("full", options, recipe="short.toml")
    assert (records[-1]["reason"], records[-1]["resumed_from_step"]) == ("complete", 10)
    assert [step for step, *_ in place.learnt("full")] == list(range(1, 41))
    assert [then["script"] for r in records for then in r["then"]] == ["after.lsf"]
