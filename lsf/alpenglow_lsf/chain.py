"""Chains: a run of weeks through jobs of hours, each of which submits the next before it starts.

The next segment waits for `ended(THIS)`, so it also follows a crash. Whether it may stay is
decided from the segment records alone (`decide`), by the segment that ends or, where that was
killed, by the one that starts; a chain that ends removes its own pending segment.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from alpenglow_lsf.job import JobSpec
from alpenglow_lsf.options import OptionError
from alpenglow_lsf.scheduler import Scheduler, SchedulerError, Submission
from alpenglow_lsf.script import Script
from alpenglow_lsf.segment import (
    CANCELLED,
    PREEMPTED,
    Segment,
    durable_step,
    gained,
    read_segments,
)

STOP = "STOP"
"""A file of this name in the run directory ends the chain at the next step border."""
RESTARTS = 10
GRACE = 1
BY_OWNER = ("signal INT", CANCELLED)
"""Reasons of a segment that its owner ended: bkill alone sends INT, scancel is Slurm's."""
REQUEUED_BY = (*BY_OWNER, "signal TERM")
"""What brequeue (INT, TERM) and a requeue of Slurm's (TERM) leave as reasons."""
SAME_JOB_S = 300.0
"""A job was noted within so many seconds of its submission."""
FOR_OTHERS = ("requeued", PREEMPTED)
"""Reasons of a segment that the scheduler ended for its own: neither failed nor fruitless."""
NO_FAILURE = ("complete", "more to do", *FOR_OTHERS)


class ChainError(RuntimeError):
    """A chain that cannot be made; the message is one sentence."""


@dataclass(frozen=True)
class Policy:
    """How long a chain goes on."""

    restarts: int = RESTARTS
    """So many segments of a chain may fail or be killed; the next failure ends it."""
    grace: int = GRACE
    """So many segments in a row may gain no checkpoint; the next ends the chain."""


@dataclass(frozen=True)
class Decision:
    """Whether the chain goes on, and why."""

    goes_on: bool
    why: str


def chain_of(records: Sequence[Mapping[str, Any]], job_id: str) -> list[Mapping[str, Any]]:
    """Return the records of a job and of the jobs that led to it, in the order of their start."""
    before = {
        str(successor["job_id"]): str(record["job_id"])
        for record in records
        if (successor := record.get("successor")) and successor.get("job_id")
    }
    jobs = [job_id]
    while (earlier := before.get(jobs[-1])) is not None and earlier not in jobs:
        jobs.append(earlier)
    return [record for record in records if str(record["job_id"]) in jobs]


def decide(chain: Sequence[Mapping[str, Any]], policy: Policy, *, stop: bool = False) -> Decision:
    """Decide whether another segment follows the last of `chain`.

    Args:
        chain: closed records, in the order of their start; empty before the first segment.
        policy: how much failure is allowed.
        stop: whether the STOP file is there.
    """
    last = chain[-1] if chain else {}
    if last.get("reason") == "complete":
        return Decision(False, "the run is complete")
    if stop:
        return Decision(False, "a file STOP is in the run directory: remove it to go on")
    if last.get("reason") in BY_OWNER:
        return Decision(False, owner_ended(last["reason"]))
    ended = [record for record in chain if record.get("reason") not in FOR_OTHERS]
    fruitless = 0
    while fruitless < len(ended) and gained(ended[-1 - fruitless]) == 0:
        fruitless += 1
    if fruitless > policy.grace:
        many = "the segment" if fruitless == 1 else f"{fruitless} segments in a row"
        return Decision(False, f"{many} gained no checkpoint")
    failed = sum(record.get("reason") not in NO_FAILURE for record in ended)
    if failed > policy.restarts:
        many = "1 segment" if failed == 1 else f"{failed} segments"
        return Decision(False, f"{many} failed, and --restarts allows {policy.restarts}")
    if fruitless:
        return Decision(True, f"no checkpoint gained, {fruitless} of {policy.grace} forgiven")
    return Decision(True, "there is more to do")


def owner_ended(reason: str) -> str:
    """Say which command of the owner's ended a segment, from one of BY_OWNER."""
    return f"{'scancel' if reason == CANCELLED else 'bkill'} ended the segment"


def complete(records: Sequence[Mapping[str, Any]], run: Path) -> Mapping[str, Any] | None:
    """Return the record of the segment that completed the run, if its last checkpoint is there."""
    for record in reversed(records):
        if record.get("reason") == "complete":
            durable = record.get("last_durable_checkpoint")
            there = durable is None or (durable_step(run) or 0) >= durable
            return record if there else None
    return None


def overlay(script: Script, asked: JobSpec, job_id: str) -> JobSpec:
    """Options for the next segment: bsub's command line of this one, where the script differs.

    Args:
        script: what is submitted again.
        asked: what this job was given (project, queue, nodes, walltime).
        job_id: the job that the next one waits for.
    """
    own = script.spec
    return JobSpec(
        project=None if asked.project == own.project else asked.project,
        queue=None if asked.queue == own.queue else asked.queue,
        # Expert mode (-n, -R) has no -nnodes, and one must not be added to it.
        nodes=None if own.nodes in (None, asked.nodes) else asked.nodes,
        walltime=None if own.walltime in (None, asked.walltime) else asked.walltime,
        dependency=f"ended({job_id})",
    )


def whole_minutes(seconds: float | None) -> int | None:
    """Read a walltime as -W takes it; None for one that is not (a test's shortened minute)."""
    if seconds is None or seconds < 60 or seconds % 60:
        return None
    return int(seconds // 60)


def check_script(path: Path, run: str) -> Script:
    """Read the script that continues a run.

    Raises:
        ChainError: it cannot be read, or it is the script of another run.
    """
    try:
        script = Script.read(path)
    except OptionError as error:
        raise ChainError(f"--chain: {error}") from None
    with suppress(ValueError):  # a shell's quotes that shlex does not know: nothing to compare
        words = shlex.split(script.text.replace("\\\n", " "), comments=True)
        named = {after for word, after in pairwise(words) if word == "--run"}
        named |= {word[6:] for word in words if word.startswith("--run=")}
        if named and run not in named and not any("$" in word for word in named):
            raise ChainError(
                f"--chain {path} continues {', '.join(sorted(named))}, and this is {run}: "
                f"name the script of this job"
            )
    return script


class Chain:
    """The chain as one of its segments sees it: submits, keeps or removes the next one."""

    def __init__(
        self,
        path: Path,
        policy: Policy,
        scheduler: Scheduler,
        run: Path,
        segment: Segment,
        asked: JobSpec,
        say: Callable[[str], None],
        *,
        script: Script,
    ) -> None:
        self._path = path
        self._policy = policy
        self._scheduler = scheduler
        self._run = run
        self._segment = segment
        self._say = say
        self._asked = asked
        self._script = script

    @property
    def job_id(self) -> str | None:
        """The segment that waits for this one, if there is one."""
        successor = self._segment.fields["successor"] or {}
        waits = successor.get("standing") == "submitted"
        return str(successor["job_id"]) if waits else None

    def at_start(self) -> Decision:
        """Decide whether this segment may run at all; its forerunners' records are closed."""
        records = [
            record
            for record in read_segments(self._run)
            if record.get("activity") == self._segment.fields["activity"]
        ]
        done = complete(records, self._run)
        if done is not None:
            return Decision(False, f"the run is complete since segment {_name(done)}")
        own = self._segment.name
        job_id = str(self._segment.fields["job_id"])
        # Who requeues this job wants it to go on, though a signal ended the attempt before.
        former = [
            {**r, "reason": "requeued"}
            if r["job_id"] == job_id and r.get("reason") in REQUEUED_BY
            else r
            for r in chain_of(records, job_id)
            if _name(r) != own
        ]
        return decide(former, self._policy, stop=(self._run / STOP).exists())

    def adopt(self) -> None:
        """Take over the successor that an earlier attempt of this (requeued) job submitted."""
        for record in reversed(read_segments(self._run)):
            successor = record.get("successor") or {}
            same = record["job_id"] == self._segment.fields["job_id"]
            if not same or _name(record) == self._segment.name:
                continue
            if successor.get("standing") == "submitted" and self._waits(successor):
                self._note(successor["job_id"], "submitted", f"by attempt {record['attempt']}")
                return

    def submit(self) -> None:
        """Submit the next segment; a refusal is one sentence and ends nothing."""
        if self.job_id is not None:
            return
        try:
            over = overlay(self._script, self._asked, str(self._segment.fields["job_id"]))
            job_id = self._scheduler.submit(Submission(self._path, over))
        except (OptionError, SchedulerError, OSError) as error:
            why = " ".join(str(error).split())
            self._note(None, "refused", why)
            self._say(f"the next segment was refused: {why}")
            return
        self._note(job_id, "submitted", "")
        self._say(f"submitted {self._path} as job {job_id}, which goes on when this job has ended")

    def at_end(self, by_owner: str | None) -> Decision:
        """Keep or remove the successor, now that this segment's record is closed.

        Args:
            by_owner: which of BY_OWNER ended it, if one did, whatever the exit code.
        """
        records = read_segments(self._run)
        chain = chain_of(records, str(self._segment.fields["job_id"]))
        decision = decide(chain, self._policy, stop=(self._run / STOP).exists())
        if decision.goes_on and by_owner is not None:
            decision = Decision(False, owner_ended(by_owner))
        waiting = self.job_id
        if decision.goes_on and waiting is not None and self._ended(waiting):
            decision = Decision(False, f"job {waiting}, the next segment, was removed by hand")
            self._note(waiting, "removed", decision.why)
        elif decision.goes_on:
            self.submit()
            if self.job_id is None:
                why = (self._segment.fields["successor"] or {}).get("why", "")
                return self._told(Decision(False, f"the next segment was refused: {why}"))
        else:
            self.remove(decision.why)
        return self._told(decision)

    def remove(self, why: str) -> None:
        """Remove the segment that waits for this one, so that it is never charged."""
        job_id = self.job_id
        if job_id is None:
            return
        try:
            self._scheduler.cancel([job_id])
        except SchedulerError as error:
            if not self._ended(job_id):
                # It will look at the records itself, and end at once.
                self._say(f"job {job_id}, the next segment, could not be removed: {error}")
                return
        self._note(job_id, "removed", why)
        self._say(f"removed job {job_id}, the next segment: {why}")

    def _told(self, decision: Decision) -> Decision:
        fields = self._segment.fields
        if not decision.goes_on and fields["reason"] != "complete":
            fields["reason_text"] = f"{fields['reason_text']}; the chain ends: {decision.why}"
            self._say(f"the chain ends: {decision.why}")
        self._segment.write()
        return decision

    def _note(self, job_id: str | None, standing: str, why: str) -> None:
        self._segment.fields["successor"] = {
            "script": str(self._path), "job_id": job_id, "standing": standing, "why": why,
            "time": time.time(),
        }  # fmt: skip
        self._segment.write()

    def _waits(self, successor: Mapping[str, Any]) -> bool:
        """Whether a noted job still waits, and is no later one that got the same id."""
        with suppress(SchedulerError):
            status = self._scheduler.status(str(successor["job_id"]))
            if status is not None and not status.state.ended:
                noted = float(successor.get("time") or 0.0)
                return abs((status.submitted or 0.0) - noted) < SAME_JOB_S
        return False

    def _ended(self, job_id: str) -> bool:
        try:
            status = self._scheduler.status(job_id)
        except SchedulerError:
            return False
        return status is not None and status.state.ended


def _name(record: Mapping[str, Any]) -> str:
    return f"{record['job_id']}.{record['attempt']}"
