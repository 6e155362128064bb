"""`bsub jobs/smoke.lsf` as it is shipped, on shards that were made here."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from alpenglow.data.catalogue import Catalogue
from alpenglow.data.shards import ShardWriter

ROOT = Path(__file__).parents[2]
JOB_VARIABLES = ("LSB_", "LS_", "JSM_", "OMPI_", "PMIX_", "PRTE_", "SLURM_", "ALPENGLOW_")

pytestmark = [pytest.mark.slow, pytest.mark.distributed]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "jobs", tmp_path / "jobs")
    folder = tmp_path / "shards"
    folder.mkdir()
    made = {"tokenizer_hash": "t", "recipe_hash": "r"}
    writer = ShardWriter(folder / "github-00000.h5", slice="github", dtype="uint16", **made)
    writer.add(np.random.default_rng(1).integers(0, 4000, 20_000), bytes(16), "drawn")
    Catalogue.build(
        folder, [writer.close()], tokenizer="tokenizer.json", vocab_size=4000, **made
    ).write()
    return tmp_path


def test_the_whole_path_in_one_job(checkout: Path) -> None:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(JOB_VARIABLES)}
    path = [str(ROOT / "lsf/bin"), str(Path(sys.executable).parent), kept["PATH"]]
    environ = {
        **kept,
        "PATH": os.pathsep.join(path),
        "PYTHONPATH": os.pathsep.join(str(ROOT / n) for n in ("src", "lsf", "profiling")),
        "ALPENGLOW_ROOT": str(ROOT),
        "ALPENGLOW_SPOOL": str(checkout / ".lsf"),
        "ALPENGLOW_MACHINE": "laptop",
        "ALPENGLOW_ENVIRONMENT": "/dev/null",
        "OMP_NUM_THREADS": "1",
    }

    def call(*words: str) -> str:
        done = subprocess.run(
            words, cwd=checkout, env=environ, capture_output=True, text=True, timeout=60, check=True
        )
        return done.stdout

    job = re.findall(r"<(\d+)>", call("bsub", "jobs/smoke.lsf"))[0]
    end = time.monotonic() + 240
    while (state := call("bjobs", "-noheader", "-o", "stat", job).strip()) not in ("DONE", "EXIT"):
        assert time.monotonic() < end, call("bkill", "-s", "KILL", job)
        time.sleep(0.5)
    text = (checkout / f"smoke.{job}.out").read_text()
    assert state == "DONE", text
    run = checkout / "runs/smoke" / job
    (flight,) = run.glob("preflight/*/verdict.json")
    verdict = json.loads(flight.read_text())
    assert (verdict["exit_code"], verdict["hosts"]) == (0, ["node1", "node2"])
    # Three nodes are asked for; the laptop has two, and none to spare.
    assert "preflight: 2 nodes stand in for more: --spare 1 becomes 0" in text
    assert text.index("2 of 2 nodes measured") < text.index("step 1/4")
    (record,) = (json.loads(p.read_text()) for p in run.glob("segments/*.1.json"))
    assert (record["reason"], record["last_step"], record["ranks"]) == ("complete", 4, 8)
    assert {p.name for p in run.glob("checkpoints/*")} == {"step-00000002", "step-00000004"}
