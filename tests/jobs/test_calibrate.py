"""`bsub jobs/calibrate.lsf` as it is shipped, and a machine file of this computer from it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import tomli_w

from alpenglow.parallel.layout import Layout
from alpenglow.parallel.published_runs import Gpt
from alpenglow.parallel.step_cost import step_cost
from alpenglow.parallel.work import Work
from alpenglow_lsf.machine import load
from alpenglow_profiling.curve import Curve, newest

ROOT = Path(__file__).parents[2]
JOB_VARIABLES = ("LSB_", "LS_", "JSM_", "OMPI_", "PMIX_", "PRTE_", "SLURM_", "ALPENGLOW_")

pytestmark = [pytest.mark.slow, pytest.mark.distributed]


def test_the_job_measures_and_its_curves_describe_this_computer(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "jobs", tmp_path / "jobs")
    path = tmp_path / "jobs/calibrate.toml"
    tables = tomllib.loads(path.read_text())
    tables["laptop"]["products"] |= {"spread": [64, 200], "repeats": 3, "hidden": [64]}
    tables["laptop"]["network"] |= {"repeats": 3, "factor": 64, "largest_bytes": 1 << 18}
    path.write_text(tomli_w.dumps(tables))
    kept = {k: v for k, v in os.environ.items() if not k.startswith(JOB_VARIABLES)}
    programs = [str(ROOT / "lsf/bin"), str(Path(sys.executable).parent), kept["PATH"]]
    roots = [str(ROOT / n) for n in ("src", "lsf", "profiling")]
    environ = {
        **kept,
        "PATH": os.pathsep.join(programs),
        "PYTHONPATH": os.pathsep.join(roots),
        "ALPENGLOW_ROOT": str(ROOT),
        "ALPENGLOW_SPOOL": str(tmp_path / ".lsf"),
        "ALPENGLOW_MACHINE": "laptop",
        "ALPENGLOW_ENVIRONMENT": "/dev/null",
        "OMP_NUM_THREADS": "1",
    }

    def call(*words: str) -> str:
        done = subprocess.run(
            words,
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        return done.stdout

    job = re.findall(r"<(\d+)>", call("bsub", "jobs/calibrate.lsf"))[0]
    end = time.monotonic() + 240
    while (state := call("bjobs", "-noheader", "-o", "stat", job).strip()) not in ("DONE", "EXIT"):
        assert time.monotonic() < end, call("bkill", "-s", "KILL", job)
        time.sleep(0.3)
    text = (tmp_path / f"calibrate.{job}.out").read_text()
    assert state == "DONE" and text.count("curves: network: ") == 1, text
    run = tmp_path / "runs/calibrate" / job
    (record,) = (json.loads(p.read_text()) for p in run.glob("segments/*.1.json"))
    assert (record["activity"], record["reason"], record["ranks"]) == ("calibrate", "complete", 8)
    curves = {path.stem: Curve.read(path) for path in newest(run).glob("*.jsonl")}
    assert set(curves) == {"products", "copies", "attention", "network"}
    assert curves["network"].header["hosts"] == ["node1", "node2"]

    words = ["-m", "alpenglow.parallel.curve_fit", f"runs/calibrate/{job}", "--write", "here.toml"]
    said = call(sys.executable, *words)
    assert "[gpu]" in said and "[links]" in said and "held out" in said
    here = load(tmp_path / "here.toml")
    assert here.node is not None and here.links is not None and here.gpu is not None
    assert (here.node.gpus, here.node.nodes, here.links.library) == (4, 2, "gloo")
    assert 1e8 < here.peak_flops["fp32"] < 1e13
    assert f"measured: runs/calibrate/{job}, " in (tmp_path / "here.toml").read_text()
    cost = step_cost(
        Gpt(2, 64, 4, vocab_size=1024), Layout(2, 2, 2), Work(1, 4, 64, dtype="fp32"), here
    )
    assert not cost.warnings and 1e-4 < cost.seconds < 100
    faster = step_cost(
        Gpt(2, 64, 4, vocab_size=1024), Layout(1, 1, 1), Work(1, 4, 64, dtype="fp32"), here
    )
    assert faster.parts()["tensor collectives"] == 0 < cost.parts()["tensor collectives"]
