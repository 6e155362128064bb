"""Slurm, through its own commands sbatch, scontrol, sacct and scancel.

Scripts are written for LSF; `submit` hands sbatch a translation on standard input, of which Slurm
keeps a copy (`scontrol write batch_script ID -`). An array's element is 101[3] here, as in LSF,
and 101_3 to Slurm.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from alpenglow_lsf.arrays import lsf_id, slurm_id
from alpenglow_lsf.job import SIGNALS
from alpenglow_lsf.machine import Machine
from alpenglow_lsf.options import OptionError
from alpenglow_lsf.scheduler import (
    ENDING,
    JobState,
    JobStatus,
    SchedulerError,
    Submission,
    call_command,
    of_array,
)
from alpenglow_lsf.script import Script
from alpenglow_lsf.slurm_script import translate

STATES: Mapping[str, JobState] = {
    "PENDING": JobState.PENDING,
    "CONFIGURING": JobState.PENDING,
    "REQUEUED": JobState.PENDING,
    "REQUEUE_FED": JobState.PENDING,
    "REQUEUE_HOLD": JobState.HELD,
    "SPECIAL_EXIT": JobState.HELD,
    "RESV_DEL_HOLD": JobState.HELD,
    "RUNNING": JobState.RUNNING,
    "RESIZING": JobState.RUNNING,
    "SIGNALING": JobState.RUNNING,
    "STAGE_OUT": JobState.RUNNING,
    "COMPLETING": JobState.RUNNING,
    "STOPPED": JobState.SUSPENDED,
    "SUSPENDED": JobState.SUSPENDED_BY_SYSTEM,
    "COMPLETED": JobState.DONE,
    "BOOT_FAIL": JobState.FAILED,
    "CANCELLED": JobState.FAILED,
    "DEADLINE": JobState.FAILED,
    "FAILED": JobState.FAILED,
    "NODE_FAIL": JobState.FAILED,
    "OUT_OF_MEMORY": JobState.FAILED,
    "PREEMPTED": JobState.FAILED,
    "REVOKED": JobState.FAILED,
    "TIMEOUT": JobState.FAILED,
}
"""Slurm's states as LSF's. A job whose nodes are still being set up waits; one whose nodes are
being cleaned up has not ended: only then may its successor start."""

SACCT = (
    "JobID", "State", "ExitCode", "Submit", "Start", "End", "TimelimitRaw", "Partition",
    "Account", "NodeList", "JobName",
)  # fmt: skip

_OF_ARRAY = r"ArrayJobId=(\d+) ArrayTaskId=([\d,:-]+)"
_OURS = re.compile(r"(SLURM_(?!CONF$)|LSB_|LS_SUBCWD$)")
_OF_THE_JOB = frozenset(
    f"ALPENGLOW_{name}"
    for name in ("DEADLINE", "SEGMENT", "JOB_ID", "NODES_ASKED", "SCRIPT", "RESERVED_HOSTS")
)


class Slurm:
    """Scheduler backend for a machine file with `scheduler = "slurm"`."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def submit(self, submission: Submission) -> str:
        """Submit a script; see `Scheduler.submit`."""
        try:
            script = Script.read(submission.script)
            text = translate(script, submission.over, self._machine, submission.arguments)
        except OptionError as error:
            raise SchedulerError(str(error)) from None
        # What a job has of its own must not reach the job that it submits.
        environment = {
            name: value
            for name, value in os.environ.items()
            if not _OURS.match(name) and name not in _OF_THE_JOB
        }
        said = call_command(
            ["sbatch", "--parsable"], {**environment, **submission.environment}, text
        )
        job_id = said.strip().partition(";")[0]
        if not job_id.isdigit():
            raise SchedulerError(f"sbatch did not say which job it made: {said.strip()!r}")
        return job_id

    def status(self, job_id: str) -> JobStatus | None:
        """Ask scontrol about a job, and sacct about one that it has forgotten."""
        found = self._elements(job_id)
        if not found:
            return None
        # What still waits of an array is one entry for many elements.
        one = found[0] if len(found) == 1 else of_array(job_id, found)
        return replace(one, job_id=job_id)

    def _elements(self, job_id: str) -> list[JobStatus]:
        """Return how a job stands, or the elements of an array that there are so far."""
        environment = {**os.environ, "SLURM_TIME_FORMAT": "%s"}
        number = slurm_id(job_id)
        try:
            text = call_command(["scontrol", "show", "job", number], environment)
        except SchedulerError as error:
            if not re.search(r"Invalid job id|Job \S+ not found", str(error)):
                raise
        else:
            return [parse_scontrol(block) for block in text.strip().split("\n\n")]
        words = ["sacct", "-X", "-n", "-P", "-j", number, "-o", ",".join(SACCT)]
        try:
            return [parse_sacct(line) for line in call_command(words, environment).splitlines()]
        except SchedulerError as error:
            if "storage is disabled" in str(error):
                return []
            raise

    def cancel(self, job_ids: Sequence[str], signal: str | None = None) -> None:
        """Call scancel; see `Scheduler.cancel`.

        A signal goes to the ranks and to the batch shell with its children; a rank may see it
        twice. A job that waits is not signalled.
        """
        if signal is not None and signal not in SIGNALS:
            raise SchedulerError(f"scancel: --signal={signal}: choose from {', '.join(SIGNALS)}")
        for job_id in job_ids:
            status = self.status(job_id)
            if status is None:
                raise SchedulerError(f"scancel: there is no job {job_id}")
            if status.state.ended:
                raise SchedulerError(f"scancel: job {job_id} has already finished")
        if signal is None:
            # TERM to the ranks and to the batch shell, KILL after the site's KillWait.
            call_command(["scancel", *map(slurm_id, job_ids)], os.environ)
            return
        elements = [element for job_id in job_ids for element in self._elements(job_id)]
        running = [slurm_id(e.job_id) for e in elements if e.state is JobState.RUNNING]
        if running:
            # --full reaches the batch shell and its children, without it the ranks: srun hands
            # on USR1, USR2 and TERM, but not URG.
            call_command(["scancel", f"--signal={signal}", *running], os.environ)
            call_command(["scancel", "--full", f"--signal={signal}", *running], os.environ)


def parse_scontrol(text: str) -> JobStatus:
    """Read `scontrol show job`: names stand on the first line, files on lines of their own."""
    values: dict[str, str] = {}
    for line in map(str.strip, text.splitlines()):
        whole = re.match(r"(StdOut|StdErr|WorkDir|Command|Comment)=(.*)", line)
        if whole:
            values[whole[1]] = whole[2]
        elif line.startswith("JobId="):
            first = re.match(rf"JobId=(\d+)(?: {_OF_ARRAY})?(?: .*?)?(?:JobName=(.*))?$", line)
            if first:
                element = lsf_id(f"{first[2]}_{first[3]}") if first[2] else first[1]
                values |= {"JobId": element, "JobName": first[4] or ""}
        else:
            for key, value in re.findall(r"(\S+?)=(\S*)", line):
                values.setdefault(key, value)
    if "JobId" not in values or "JobState" not in values:
        raise SchedulerError(f"scontrol did not say how the job stands: {text.strip()[:200]!r}")
    word, reason = values["JobState"], values.get("Reason", "None")
    state = STATES.get(word, JobState.UNKNOWN)
    if state is JobState.PENDING and reason.startswith("JobHeld"):
        state = JobState.HELD
    if state is JobState.RUNNING and reason == "None":
        started = _moment(values.get("StartTime")) or 0.0
        if (_moment(values.get("PreemptTime")) or 0.0) >= started > 0.0:
            reason = "preempted"  # also in its time of grace, in which the ranks end first
        elif word == "COMPLETING" and (_moment(values.get("EndTime")) or 0.0) > time.time():
            # A requeued job is given its next end at once, one that really ends is not.
            reason = "requeued"
    wait = values.get("Dependency", "(null)")
    return JobStatus(
        job_id=values["JobId"],
        state=state,
        name=values["JobName"],
        queue=values.get("Partition", ""),
        project=_text(values.get("Account")),
        submitted=_moment(values.get("SubmitTime")),
        # One that was cancelled while it waited is told to have started when it ended.
        started=_moment(values.get("StartTime")) if _text(values.get("NodeList")) else None,
        ended=_moment(values.get("EndTime")) if state.ended else None,
        exit_code=_code(values.get("ExitCode", "0:0"), state),
        reason=_reason(word, reason, state),
        output=_path(values.get("StdOut")),
        error=_path(values.get("StdErr")),
        walltime_s=_limit(values.get("TimeLimit", "")),
        dependency="" if wait == "(null)" else wait,
    )


def parse_sacct(line: str) -> JobStatus:
    """Read a line of `sacct -P` with our fields; the name comes last, whatever it holds."""
    cells = dict(zip(SACCT, line.split("|", len(SACCT) - 1), strict=True))
    word = cells["State"].partition(" ")[0]  # CANCELLED by UID
    state = STATES.get(word, JobState.UNKNOWN)
    minutes = cells["TimelimitRaw"]
    return JobStatus(
        job_id=lsf_id(cells["JobID"]),
        state=state,
        name=cells["JobName"],
        queue=cells["Partition"],
        project=cells["Account"],
        submitted=_moment(cells["Submit"]),
        started=None if cells["NodeList"] == "None assigned" else _moment(cells["Start"]),
        ended=_moment(cells["End"]) if state.ended else None,
        exit_code=_code(cells["ExitCode"], state),
        reason=_reason(word, "None", state),
        walltime_s=float(minutes) * 60 if minutes.isdigit() else None,
    )


def _code(text: str, state: JobState) -> int | None:
    """Read `code:signal`; a shell's 128 + signal where a signal ended the job."""
    code, _, signal = text.partition(":")
    if not state.ended:
        return None
    if int(signal or 0):
        return 128 + int(signal)
    # A job that failed without a code was never started.
    return int(code) if int(code) or state is JobState.DONE else None


def _reason(word: str, reason: str, state: JobState) -> str:
    if word == "COMPLETING" and reason == "None":
        return ENDING
    if state is JobState.DONE or (state is JobState.RUNNING and reason == "None"):
        return ""
    said = word.lower().replace("_", " ")
    return said if reason == "None" else f"{said}: {reason}"


def _text(value: str | None) -> str:
    return "" if value in (None, "(null)") else str(value)


def _path(value: str | None) -> Path | None:
    return Path(value) if value and value != "(null)" else None


def _moment(text: str | None) -> float | None:
    return float(text) if text and text.isdigit() and int(text) > 0 else None


def _limit(text: str) -> float | None:
    """Read `[days-]hours:minutes:seconds`."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", text)
    if match is None:
        return None
    days, hours, minutes, seconds = (int(cell or 0) for cell in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60.0 + seconds
