"""Jobs on the tests' own Slurm: submit scripts of LSF's form, wait, read what they wrote."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import slurm_cluster
from fake_trainer import TRAINER

from alpenglow_lsf.job import JobSpec
from alpenglow_lsf.machine import load
from alpenglow_lsf.scheduler import JobStatus, Scheduler, Submission, current
from alpenglow_lsf.segment import read_segments

MACHINE = """
name = "cluster"
description = "nodes of this computer"
scheduler = "slurm"
node = { nodes = 4, cores = 8, sockets = 1, smt = 1, gpus = 0, memory_bytes = 1e9, \
gpu_memory_bytes = 0.0, gpu_memory_bandwidth = 0.0 }
links = { nvlink = 1e9, socket = 1e9, network = 1e9 }
signals = { kill_after_minutes = 1, bkill_interval_seconds = 30 }
[[queues]]
name = "batch"
chains = true
bins = [{ nodes = [1, 2], hours = 1 }]
[[queues]]
name = "long"
chains = true
bins = [{ nodes = [1, 2], hours = 1 }]
[[queues]]
name = "killable"
chains = true
bins = [{ nodes = [1, 2], hours = 1 }]
[[queues]]
name = "spare"
chains = true
bins = [{ nodes = [1, 2], hours = 1 }]
"""


RANK = (
    "from alpenglow_lsf.ranks import Ranks; r = Ranks.from_environment(); "
    "print('rank', r.rank, r.world_size, r.local_rank, r.local_size, r.host, r.master_address, "
    "r.job_id)"
)
"""A rank that says where it is."""


def parent(command: str, options: str = "", run: str = "x") -> str:
    """The last line of a script: a segment of `runs/RUN`."""
    words = [f"exec python -m alpenglow_lsf.run --run runs/{run} --activity pretrain {options}"]
    return " ".join([*words, "--", command])


@dataclass
class Jobs:
    """Jobs that start in one folder."""

    cluster: slurm_cluster.Cluster
    folder: Path
    timed: dict[str, Run] = field(default_factory=dict)
    """Runs that must meet a time limit, begun by `begin_timed`."""

    @property
    def machine(self) -> Path:
        """The machine file."""
        return self.cluster.folder / "cluster.toml"

    @property
    def scheduler(self) -> Scheduler:
        """The backend under test."""
        self.machine.write_text(MACHINE)
        return current(load(self.machine))

    def script(self, name: str, body: str, *options: str) -> Path:
        """Write NAME.lsf, with ten minutes of walltime and quoting to heed."""
        lines = ["#!/bin/bash", "#BSUB -W 10", f"#BSUB -o '{self.folder}/{name} $(x) %J.%I.out'"]
        lines += [f"#BSUB {option}" for option in options]
        path = self.folder / f"{name}.lsf"
        path.write_text("\n".join([*lines, body, ""]))
        return path

    def submit(self, name: str, body: str, *options: str, over: JobSpec | None = None) -> str:
        """Submit a script."""
        path = self.script(name, body, *options)
        environment = {"PATH": f"{Path(sys.executable).parent}:{slurm_cluster.search_path()}"}
        submission = Submission(path, over or JobSpec(), ("a b", "$(c)"), environment)
        return self.scheduler.submit(submission)

    def status(self, job: str) -> JobStatus:
        """How a job stands; it must be known."""
        status = self.scheduler.status(job)
        assert status is not None
        return status

    def output(self, job: str) -> str:
        """What a job has written."""
        path = self.status(job).output
        assert path is not None
        return path.read_text() if path.exists() else ""

    def wait(self, job: str, seconds: float = 60) -> JobStatus:
        """Wait for a job's end."""
        self.until(lambda: self.status(job).state.ended, seconds, lambda: self.status(job))
        return self.status(job)

    def until_says(self, job: str, text: str) -> None:
        """Wait for a text in a job's output."""
        what = lambda: (self.status(job), self.output(job))  # noqa: E731
        self.until(lambda: text in self.output(job), 60, what)

    def until(
        self, holds: Callable[[], bool], seconds: float = 60, what: Callable[[], object] = str
    ) -> None:
        """Wait for something; the failure shows `what`."""
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, what()
            time.sleep(0.2)

    def record(self, job: str, attempt: int = 1) -> dict[str, Any]:
        """The record of a segment of `runs/x`."""
        path = self.folder / "runs" / "x" / "segments" / f"{job}.{attempt}.json"
        found = json.loads(path.read_text())
        assert isinstance(found, dict)
        return found

    def begin_timed(self) -> None:
        """Submit, once, what takes minutes: Slurm keeps time to the minute."""
        if not self.timed:
            warned = Run(self, "warned", "warned", "complete")
            warned.submit(JobSpec(queue="long", walltime=2, warning_action="URG", warning_time=1))
            deaf = Run(self, "limit", "deaf", "complete")
            deaf.submit(JobSpec(queue="long", walltime=1))
            self.timed = {"warned": warned, "limit": deaf}


class Run:
    """A chain of the fake trainer's segments."""

    def __init__(self, slurm: Jobs, name: str, *plan: str, options: str = "--chain") -> None:
        self.slurm = slurm
        self.name = name
        self.path = slurm.folder / "runs" / name
        self.path.mkdir(parents=True)
        (self.path / "plan").write_text("\n".join(plan))
        (slurm.folder / "trainer.py").write_text(TRAINER)
        slurm.script("after", "true", "-nnodes 1")
        self.options = f"--then after.lsf {options}"

    def submit(self, over: JobSpec | None = None, *options: str) -> str:
        """Submit a segment; returns its job."""
        line = parent("jsrun -n1 -a2 -c2 python trainer.py", self.options, self.name)
        return self.slurm.submit(self.name, line, "-nnodes 1", *options, over=over)

    def records(self) -> list[dict[str, Any]]:
        """The records of the segments so far."""
        return read_segments(self.path)

    def jobs(self) -> list[str]:
        """All jobs of the chain that are known, those after the run left out."""
        found: dict[str, None] = {}
        for record in self.records():
            successor = (record["successor"] or {}).get("job_id")
            found |= dict.fromkeys([record["job_id"], *([successor] if successor else [])])
        return list(found)

    def then(self) -> list[str]:
        """The jobs after the run."""
        return [then["job_id"] for record in self.records() for then in record["then"]]

    def wait(self, count: int, seconds: float = 60) -> list[dict[str, Any]]:
        """Wait until a number of segments have ended and no job is left; returns the records."""

        def over() -> bool:
            if len(self.records()) < count:
                return False
            return all(self.slurm.status(job).state.ended for job in self.jobs())

        self.slurm.until(over, seconds, self.story)
        return self.records()

    def ready(self, segment: int) -> str:
        """Wait until the ranks of a segment (from 0) are at work; returns its job."""
        self.slurm.until(lambda: len(self.records()) > segment, 60, self.story)
        job = str(self.records()[segment]["job_id"])
        self.slurm.until_says(job, "ready")
        return job

    def story(self) -> str:
        """What is known, for a test that fails."""
        jobs = [(self.slurm.status(job), self.slurm.output(job)) for job in self.jobs()]
        return f"{self.records()}\n{jobs}"
