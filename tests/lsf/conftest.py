"""A site of one's own: a spool, a folder with a space in its name, and the stand-ins on PATH."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import slurm_cluster
from slurm_jobs import Jobs

ROOT = Path(__file__).resolve().parents[2]
JOB_VARIABLES = ("LSB_", "LS_", "JSM_", "OMPI_", "PMIX_", "PRTE_", "SLURM_", "ALPENGLOW_")


@dataclass
class Site:
    """What a user has on a laptop: a folder, and bsub, bjobs, bkill and jsrun."""

    folder: Path
    spool: Path
    environ: dict[str, str] = field(default_factory=dict)

    def call(
        self, *words: str, stdin: str = "", **environ: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words,
            cwd=self.folder,
            env={**self.environ, **environ},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def start(self, *words: str, **environ: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            words,
            cwd=self.folder,
            env={**self.environ, **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def script(self, name: str, body: str, *options: str) -> Path:
        lines = [
            "#!/bin/bash",
            "#BSUB -W 10",
            "#BSUB -nnodes 2",
            f"#BSUB -o {Path(name).stem}.%J.out",
        ]
        lines += [f"#BSUB {option}" for option in options]
        path = self.folder / name
        path.write_text("\n".join([*lines, body, ""]))
        return path

    def bsub(self, *words: str, stdin: str = "", **environ: str) -> str:
        done = self.call("bsub", *words, stdin=stdin, **environ)
        assert done.returncode == 0, done.stderr
        return done.stdout.partition("<")[2].partition(">")[0]

    def job(self, job_id: str) -> dict[str, Any]:
        record = json.loads((self.spool / f"{job_id}.json").read_text())
        assert isinstance(record, dict)
        return record

    def state(self, job_id: str) -> str:
        return self.call("bjobs", "-noheader", "-o", "stat", job_id).stdout.strip()

    def wait(self, job_id: str, *states: str, seconds: float = 60) -> dict[str, Any]:
        states = states or ("DONE", "EXIT")
        self.until(lambda: self.job(job_id)["state"] in states, seconds, self.job(job_id))
        return self.job(job_id)

    def output(self, job_id: str) -> str:
        record = self.job(job_id)
        return Path(record["folder"], record["output"]).read_text()

    def until(self, holds: Callable[[], bool], seconds: float = 60, what: object = "") -> None:
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, f"did not come true in {seconds} s: {what}"
            time.sleep(0.05)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    folder = tmp_path / "a folder"
    folder.mkdir()
    spool = tmp_path / "a spool"
    spool.mkdir()
    kept = {k: v for k, v in os.environ.items() if not k.startswith(JOB_VARIABLES)}
    path = os.pathsep.join(
        [str(ROOT / "lsf" / "bin"), str(Path(sys.executable).parent), kept["PATH"]]
    )
    environ = {
        **kept,
        "PATH": path,
        "PYTHONPATH": str(ROOT / "lsf"),
        "ALPENGLOW_MACHINE": "laptop",
        "ALPENGLOW_ROOT": str(ROOT),
        "ALPENGLOW_SPOOL": str(spool),
    }
    made = Site(folder, spool, environ)
    yield made
    for file in spool.glob("*.json"):
        made.call("bkill", "-s", "KILL", file.stem)
    for file in spool.glob("*.json"):
        made.until(lambda f=file: made.state(f.stem) in ("DONE", "EXIT"))  # type: ignore[misc]


@pytest.fixture
def hasty(site: Site) -> Site:
    """A site whose minute lasts a fifth of a second."""
    (site.spool / "settings.toml").write_text("seconds_per_minute = 0.2\n")
    return site


def alive(process: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


@pytest.fixture
def is_alive() -> Callable[[int], bool]:
    return alive


@pytest.fixture(scope="session")
def slurm_jobs(
    slurm_running: slurm_cluster.Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Jobs:
    """What has been submitted to the Slurm of this session."""
    return Jobs(slurm_running, tmp_path_factory.mktemp("a slurm"))


@pytest.fixture
def slurm(slurm_jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    """The same, with the variables and the folder of somebody who works there."""
    for name in os.environ:
        if name.startswith(JOB_VARIABLES):
            monkeypatch.delenv(name)
    for name, value in slurm_jobs.cluster.variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ALPENGLOW_MACHINE", str(slurm_jobs.machine))
    monkeypatch.setenv("ALPENGLOW_ROOT", str(ROOT))
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "lsf"))
    monkeypatch.chdir(slurm_jobs.folder)
    return slurm_jobs
