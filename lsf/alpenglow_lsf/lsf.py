"""IBM LSF, through its own commands bsub, bjobs and bkill.

Scripts are handed over in the machine's submit form: `bsub file` on Summit, `bsub < file` at
sites whose lsf.conf lacks LSB_BSUB_PARSE_SCRIPT.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from alpenglow_lsf.machine import Machine
from alpenglow_lsf.scheduler import JobState, JobStatus, SchedulerError, Submission, call_command

FIELDS = (
    "jobid", "stat", "job_name", "queue", "proj_name", "submit_time", "start_time", "finish_time",
    "exit_code", "pend_reason", "exit_reason", "output_file", "error_file", "sub_cwd",
    "runtimelimit", "dependency",
)  # fmt: skip
DELIMITER = "^"
"""A busy LSF answers late; after this long it counts as not reachable."""

_SUBMITTED = re.compile(r"Job <(\d+)> is submitted to (?:default )?queue <([^>]*)>")


class LSF:
    """Scheduler backend for a machine file with `scheduler = "lsf"`."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def submit(self, submission: Submission) -> str:
        """Submit a script; see `Scheduler.submit`."""
        options = [word for pair in submission.over.options() for word in pair if word]
        environment = {**os.environ, **submission.environment}
        if not submission.script.is_file():
            raise SchedulerError(f"bsub: no script {submission.script}")
        if self._machine.submit_form == "file":
            words = ["bsub", *options, str(submission.script), *submission.arguments]
            text = call_command(words, environment)
        elif submission.arguments:
            raise SchedulerError(
                f"bsub: {self._machine.name} takes scripts by standard input, without arguments "
                f"({' '.join(submission.arguments)})"
            )
        else:
            script = submission.script.read_text(encoding="utf-8")
            text = call_command(["bsub", *options], environment, script)
        found = _SUBMITTED.search(text)
        if found is None:
            raise SchedulerError(f"bsub did not say which job it made: {text.strip()!r}")
        return found[1]

    def status(self, job_id: str) -> JobStatus | None:
        """Ask bjobs about a job; see `Scheduler.status`."""
        fields = f"{' '.join(FIELDS)} delimiter='{DELIMITER}'"
        environment = {**os.environ, "LSB_DISPLAY_YEAR": "Y"}
        try:
            text = call_command(["bjobs", "-noheader", "-o", fields, job_id], environment)
        except SchedulerError as error:
            if "is not found" in str(error):
                return self._history(job_id)
            raise
        lines = [line for line in text.splitlines() if line.count(DELIMITER) >= len(FIELDS) - 1]
        if not lines:
            raise SchedulerError(f"bjobs did not say how job {job_id} stands: {text.strip()!r}")
        return parse_status(lines[-1])

    def _history(self, job_id: str) -> JobStatus | None:
        """Ask bhist about a job that bjobs has forgotten (after an hour, by default)."""
        try:
            text = call_command(["bhist", "-l", job_id], {**os.environ, "LSB_DISPLAY_YEAR": "Y"})
        except SchedulerError:
            return None
        return parse_history(job_id, text)

    def cancel(self, job_ids: Sequence[str], signal: str | None = None) -> None:
        """Call bkill; see `Scheduler.cancel`."""
        words = ["bkill", *(["-s", signal] if signal else []), *job_ids]
        call_command(words, os.environ)


def parse_status(line: str) -> JobStatus:
    """Read a line of `bjobs -o` with our fields; `-` stands for nothing."""
    cells = [cell.strip() for cell in line.split(DELIMITER)]
    values = {name: "" if cell == "-" else cell for name, cell in zip(FIELDS, cells, strict=False)}
    try:
        state = JobState(values["stat"])
    except ValueError:
        state = JobState.UNKNOWN
    code = values["exit_code"]
    return JobStatus(
        job_id=values["jobid"],
        state=state,
        name=values["job_name"],
        queue=values["queue"],
        project=values["proj_name"],
        submitted=_moment(values["submit_time"]),
        started=_moment(values["start_time"]),
        ended=_moment(values["finish_time"]) if state.ended else None,
        exit_code=int(code) if code.isdigit() else (0 if state is JobState.DONE else None),
        reason=values["exit_reason"] if state.ended else values["pend_reason"],
        output=_file(values, "output_file"),
        error=_file(values, "error_file"),
        walltime_s=_limit(values["runtimelimit"]),
        dependency=values["dependency"],
    )


def parse_history(job_id: str, text: str) -> JobStatus | None:
    """Read how a job ended from `bhist -l`; None where it does not tell of an end.

    Long lines are folded in the middle of words and indented; a requeued job has several ends, of
    which the last counts, unless it has started again since.
    """
    unfolded = re.sub(r"\n {18,}", "", text)
    ended: JobStatus | None = None
    for line in unfolded.splitlines():
        event = _EVENT.match(line)
        if event is None:
            continue
        moment, said = _moment(event[1]), event[2]
        end = _END.match(said)
        if end is not None and moment is not None:
            code = 0 if end[1] is None else int(end[3]) + (128 if "signal" in end[2] else 0)
            state = JobState.FAILED if code else JobState.DONE
            ended = JobStatus(job_id, state, ended=moment, exit_code=code, reason=end[0])
        elif said.startswith("Completed <exit>; ") and ended is not None:
            ended = replace(ended, reason=said.removeprefix("Completed <exit>; ").rstrip(";"))
        elif said.startswith(("Starting ", "Dispatched ", "Started ")):
            ended = None
    return ended


_EVENT = re.compile(r"\w{3} (\w{3} +\d+ \d\d:\d\d:\d\d(?: \d{4})?): (.*)")
_END = re.compile(r"Done successfully|(Exited (with exit code|by signal|by LSF signal) (\d+))")


def _file(values: Mapping[str, str], field: str) -> Path | None:
    """Read a file of the job; bjobs names it as it was asked for, and shortens the home folder."""
    if not values[field]:
        return None
    name = values[field].replace("%J", values["jobid"])
    return Path(values["sub_cwd"].replace("$HOME", "~"), name).expanduser()


def _limit(text: str) -> float | None:
    """Read a run limit: minutes (`120.0`, `120.0/host`) or hours:minutes."""
    clock = re.match(r"(\d+):(\d+)", text)
    if clock:
        return int(clock[1]) * 3600.0 + int(clock[2]) * 60.0
    minutes = re.match(r"\d+(\.\d+)?", text)
    return float(minutes.group()) * 60.0 if minutes else None


def _moment(text: str) -> float | None:
    """Read a time of bjobs; the trailing letters L, E and X say how sure LSF is."""
    words = text.split()
    if words and words[-1] in ("L", "E", "X"):
        words.pop()
    text = " ".join(words)
    with suppress(ValueError):
        return time.mktime(time.strptime(text, "%b %d %H:%M:%S %Y"))
    with suppress(ValueError):
        return time.mktime(time.strptime(text, "%b %d %H:%M %Y"))
    # Some commands tell seconds, but no year.
    text = re.sub(r"(\d\d:\d\d):\d\d$", r"\1", text)
    with suppress(ValueError):
        now = time.time()
        year = time.localtime(now).tm_year
        moment = time.mktime(time.strptime(f"{text} {year}", "%b %d %H:%M %Y"))
        if moment < now + 180 * 86400:
            return moment
        # A day far ahead is last year's: bjobs without LSB_DISPLAY_YEAR names no year.
        return time.mktime(time.strptime(f"{text} {year - 1}", "%b %d %H:%M %Y"))
    return None
