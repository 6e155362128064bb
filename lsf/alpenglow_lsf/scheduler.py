"""What every scheduler backend does: submit, state, cancel; and the states of a job.

scheduler = current(machine)
job_id = scheduler.submit(Submission(Path("jobs/report.lsf")))
scheduler.status(job_id).state
"""

from __future__ import annotations

import enum
import importlib
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, cast

from alpenglow_lsf.job import JobSpec
from alpenglow_lsf.machine import Machine

BACKENDS = {
    "lsf": "alpenglow_lsf.lsf:LSF",
    "slurm": "alpenglow_lsf.slurm:Slurm",
    "local": "alpenglow_lsf.local:Local",
}
"""Backend of each `scheduler` a machine file may name; loaded when asked for."""
TIMEOUT_S = 120.0
"""A login node's scheduler may be busy; a command that takes longer than this is not waited for."""


ENDING = "completing"
"""Reason of a running job that its scheduler is ending without a reason of its own: Slurm, after
the last process or after scancel. To a process of that job it can only be scancel."""


class SchedulerError(RuntimeError):
    """The scheduler refused, or could not be reached; the message is one sentence."""


class JobState(enum.Enum):
    """LSF's job states; LSF's own words are the values."""

    PENDING = "PEND"
    HELD = "PSUSP"
    RUNNING = "RUN"
    SUSPENDED = "USUSP"
    SUSPENDED_BY_SYSTEM = "SSUSP"
    DONE = "DONE"
    FAILED = "EXIT"
    WAITING = "WAIT"
    ZOMBIE = "ZOMBI"
    UNKNOWN = "UNKWN"

    @property
    def ended(self) -> bool:
        """Whether the job will not run (again)."""
        return self in (JobState.DONE, JobState.FAILED)


@dataclass(frozen=True)
class JobStatus:
    """What a scheduler tells about a job; times in unix seconds, None where it does not say."""

    job_id: str
    state: JobState
    name: str = ""
    queue: str = ""
    project: str = ""
    submitted: float | None = None
    started: float | None = None
    ended: float | None = None
    exit_code: int | None = None
    reason: str = ""
    """Why it waits or how it ended; ENDING while it is being ended."""
    output: Path | None = None
    error: Path | None = None
    """Error file, where it is not the output file."""
    walltime_s: float | None = None
    dependency: str = ""


@dataclass(frozen=True)
class Submission:
    """A job to submit."""

    script: Path
    over: JobSpec = field(default_factory=JobSpec)
    """Options that go before those of the script."""
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables to set for the job, beside those of this process."""


class Scheduler(Protocol):
    """A backend."""

    def submit(self, submission: Submission) -> str:
        """Submit a job and return its id; SchedulerError where it is refused."""
        ...

    def status(self, job_id: str) -> JobStatus | None:
        """Say how a job stands; None for a job that the scheduler does not know (any more)."""
        ...

    def cancel(self, job_ids: Sequence[str], signal: str | None = None) -> None:
        """End jobs as bkill does, or send them one signal (a name without SIG)."""
        ...


def of_array(job_id: str, statuses: Sequence[JobStatus]) -> JobStatus:
    """Say how an array stands as a whole, from its elements: it runs while one of them does.

    Args:
        job_id: the array's id.
        statuses: its elements, at least one.
    """
    states = {status.state for status in statuses}
    order = (JobState.RUNNING, JobState.PENDING, *(s for s in JobState if not s.ended))
    state = next(s for s in (*order, JobState.FAILED, JobState.DONE) if s in states)
    # Of several in that state the first by its index, whatever order they are told in.
    ordered = sorted(statuses, key=lambda status: (len(status.job_id), status.job_id))
    worst = next(status for status in ordered if status.state is state)
    ended = [s.ended for s in statuses if s.ended is not None]
    started = [s.started for s in statuses if s.started is not None]
    return replace(
        worst,
        job_id=job_id,
        started=min(started, default=None),
        ended=max(ended) if len(ended) == len(statuses) else None,
        exit_code=worst.exit_code if state.ended else None,
        reason=f"{worst.job_id}: {worst.reason}" if worst.reason else "",
    )


def current(machine: Machine) -> Scheduler:
    """Return the scheduler of a machine."""
    module, _, name = BACKENDS[machine.scheduler].partition(":")
    return cast(Scheduler, getattr(importlib.import_module(module), name)(machine))


def call_command(words: Sequence[str], environment: Mapping[str, str], stdin: str = "") -> str:
    """Call one of a scheduler's commands; returns what it printed.

    Raises:
        SchedulerError: not on PATH, no answer in time, or refused; in the command's own words.
    """
    try:
        done = subprocess.run(
            words,
            env=environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError:
        raise SchedulerError(
            f"no {words[0]} on PATH: is this a login node of the machine?"
        ) from None
    except subprocess.TimeoutExpired:
        raise SchedulerError(f"{words[0]} did not answer in {TIMEOUT_S:.0f} s") from None
    if done.returncode != 0:
        said = " ".join((done.stderr or done.stdout).split())
        raise SchedulerError(said or f"{words[0]} failed with code {done.returncode}")
    return done.stdout
