"""Follows jobs to their end with a progress display.

    python -m alpenglow_lsf.follow --watch 102=runs/prepare_data --watch 103=runs/pretrain_7b \
        --finally "open runs/pretrain_7b/report/index.html"

Jobs that a finished segment has submitted are followed too: `then` in its record, and the next
segment of its chain. A segment that another one follows has not failed. On a terminal
the display redraws in place; elsewhere each change of state is a line, and progress at most one
line every ten seconds. When a job fails, the end of its output is shown, jobs that depend on it
are ended, and the exit code is not zero.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alpenglow_lsf import dependency
from alpenglow_lsf.dependency import Standing, Verdict
from alpenglow_lsf.files import read_json
from alpenglow_lsf.machine import MachineError, current
from alpenglow_lsf.options import OptionError
from alpenglow_lsf.scheduler import JobState, JobStatus, Scheduler, SchedulerError
from alpenglow_lsf.scheduler import current as current_scheduler
from alpenglow_lsf.segment import read_segments

MORE_TO_DO = 85
LAST_LINES = 15
PROGRESS_EVERY_S = 10.0
BAR = 24
INTERVALS = {"local": 0.5, "lsf": 15.0}
"""Seconds between two looks; a shared scheduler is asked rarely."""


class FollowError(RuntimeError):
    """Nothing to follow; the message is one sentence."""


@dataclass
class Watched:
    """One job that is followed."""

    job_id: str
    run: Path
    status: JobStatus
    said: str = ""
    """The state that was printed last."""
    next: str | None = None
    """The job that continues this one's run, if it is part of a chain."""


def main(argv: Sequence[str] | None = None) -> int:
    """Follow jobs; 0 when all are done, else the first failing job's exit code (or 1)."""
    parser = argparse.ArgumentParser(prog="alpenglow_lsf.follow", description=__doc__)
    parser.add_argument("--watch", action="append", required=True, metavar="JOBID=RUN")
    parser.add_argument(
        "--finally", dest="last_line", default="", help="last line when all is done"
    )
    parser.add_argument("--interval", type=float, help="seconds between two looks")
    given = parser.parse_args(sys.argv[1:] if argv is None else argv)
    try:
        machine = current()
        interval = given.interval or INTERVALS[machine.scheduler]
        follower = Follower(current_scheduler(machine), given.watch, interval)
        return follower.follow(given.last_line)
    except (FollowError, MachineError, SchedulerError) as error:
        sys.stderr.write(f"alpenglow_lsf.follow: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(
            "\nalpenglow_lsf.follow: the jobs go on; bjobs shows them, bkill ends them\n"
        )
        return 130


class Follower:
    """Looks at the jobs again and again and shows what has changed."""

    def __init__(self, scheduler: Scheduler, watch: Sequence[str], interval: float) -> None:
        self._scheduler = scheduler
        self._interval = interval
        self._jobs: dict[str, Watched] = {}
        self._terminal = sys.stdout.isatty()
        self._drawn = 0
        self._last_progress: dict[str, tuple[float, str]] = {}
        self._failed: list[Watched] = []
        for pair in watch:
            job_id, equals, run = pair.partition("=")
            if not equals or not job_id.isdigit() or not run:
                raise FollowError(f"--watch {pair} should be JOBID=RUN")
            self._add(job_id, Path(run))

    def follow(self, last_line: str) -> int:
        """Follow until every job has ended; return the exit code."""
        while True:
            self._look()
            self._show()
            if all(job.status.state.ended for job in self._jobs.values()):
                break
            time.sleep(self._interval)
        if self._failed:
            codes = [job.status.exit_code for job in self._failed]
            return next((code for code in codes if code), 1)
        if last_line:
            sys.stdout.write(last_line + "\n")
            sys.stdout.flush()
        return 0

    def _add(self, job_id: str, run: Path) -> None:
        status = self._scheduler.status(job_id)
        if status is None:
            raise FollowError(f"there is no job {job_id}")
        self._jobs[job_id] = Watched(job_id, run, status)

    def _look(self) -> None:
        for job in list(self._jobs.values()):
            if not job.status.state.ended or not job.said:
                # A job that the scheduler has forgotten keeps its last state.
                job.status = self._scheduler.status(job.job_id) or job.status
            if job.status.state.ended:
                self._add_successors(job)
        for job in [j for j in self._jobs.values() if j.status.state is JobState.FAILED]:
            if job not in self._failed and job.next not in self._jobs:
                self._failed.append(job)
                self._report(job)
                self._end_dependants()

    def _add_successors(self, job: Watched) -> None:
        for record in self._records(job)[:1]:
            for successor in record.get("then") or []:
                job_id = str(successor.get("job_id"))
                if job_id not in self._jobs:
                    self._add(job_id, job.run)
            follower = record.get("successor") or {}
            if follower.get("standing") != "submitted":
                job.next = None
            elif job.next is None:
                job.next = str(follower["job_id"])
                if job.next not in self._jobs:
                    with suppress(FollowError):  # forgotten meanwhile: then this one has failed
                        self._add(job.next, job.run)

    def _records(self, job: Watched) -> list[dict[str, Any]]:
        """Records of a job's attempts, newest first."""
        found = [r for r in read_segments(job.run) if str(r.get("job_id")) == job.job_id]
        return found[::-1]

    def _report(self, job: Watched) -> None:
        self._clear()
        status = job.status
        code = f" with exit code {status.exit_code}" if status.exit_code is not None else ""
        if status.exit_code == MORE_TO_DO:
            text = next((r.get("reason_text") or "" for r in self._records(job)), "")
            why = text.partition("the chain ends: ")[2] or "submit it again to continue"
            self._line(f"job {job.job_id} {status.name} has more to do: {why}")
        elif self._dependency_of_failed(job):
            self._line(f"job {job.job_id} {status.name} will not start: {status.reason}")
        else:
            self._line(f"job {job.job_id} {status.name} failed{code}: {status.reason}")
            self._tail(status.output)
            if status.error != status.output:
                self._tail(status.error)
        job.said = status.state.value

    def _tail(self, output: Path | None) -> None:
        if output is None or not output.is_file():
            return
        text = output.read_text(encoding="utf-8", errors="replace")
        # The scheduler's summary would push the program's own last words out of sight.
        body = text.partition(f"\n{'-' * 60}\nSubject: Job ")[0]
        if not body.strip():
            return
        self._line(f"the end of {output}:")
        for line in body.splitlines()[-LAST_LINES:]:
            self._line(f"  {line}")

    def _dependency_of_failed(self, job: Watched) -> bool:
        return job.status.started is None and bool(job.status.dependency)

    def _end_dependants(self) -> None:
        standings = {
            job.job_id: Standing(job.status.state, job.status.exit_code)
            for job in self._jobs.values()
        }
        for job in self._jobs.values():
            status = job.status
            if status.state is not JobState.PENDING or not status.dependency:
                continue
            try:
                expression = dependency.parse(status.dependency)
            except OptionError:
                continue
            watched = {c.job for c in dependency.conditions(expression)} <= set(standings)
            if watched and expression.judge(standings) is Verdict.NEVER:
                self._line(
                    f"job {job.job_id} {status.name} can never start "
                    f"({status.dependency} does not hold): it is killed"
                )
                with suppress(SchedulerError):  # it may have ended since the last look
                    self._scheduler.cancel([job.job_id])

    def _show(self) -> None:
        if self._terminal:
            self._redraw()
            return
        for job in self._jobs.values():
            state = job.status.state.value
            if state != job.said:
                job.said = state
                reason = f" ({job.status.reason})" if state == "PEND" and job.status.reason else ""
                reason = reason or _duration(job.status)
                self._line(f"{time.strftime('%H:%M:%S')} {state:4} {_label(job)}{reason}")
            progress = self._progress(job)  # of a running job
            when, text = self._last_progress.get(job.job_id, (0.0, ""))
            now = time.monotonic()
            if progress and progress != text and now - when >= PROGRESS_EVERY_S:
                self._last_progress[job.job_id] = (now, progress)
                self._line(f"{time.strftime('%H:%M:%S')} {state:4} {_label(job)} {progress}")

    def _redraw(self) -> None:
        width = shutil.get_terminal_size().columns - 1
        lines = []
        for job in self._jobs.values():
            job.said = job.status.state.value
            detail = self._progress(job)
            if job.status.state is JobState.PENDING:
                detail = job.status.reason
            elif job.status.state.ended:
                detail = _duration(job.status)
            lines.append(f"{job.said:4} {_label(job)} {detail.strip()}"[:width])
        self._clear()
        sys.stdout.write("".join(f"{line}\n" for line in lines))
        sys.stdout.flush()
        self._drawn = len(lines)

    def _clear(self) -> None:
        if self._drawn:
            sys.stdout.write(f"\x1b[{self._drawn}A\x1b[J")
            self._drawn = 0

    def _line(self, text: str) -> None:
        self._clear()
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def _progress(self, job: Watched) -> str:
        if job.status.state is not JobState.RUNNING:
            return ""
        progress = read_json(job.run / "progress.json")
        if progress is None or progress.get("time", 0.0) < (job.status.started or 0.0):
            return ""
        return bar(progress)


def bar(progress: dict[str, Any]) -> str:
    """Draw a progress.json as text: a bar where it names a total, then its own words."""
    done, total = progress.get("done"), progress.get("total")
    text = str(progress.get("text") or "")
    if not isinstance(done, int | float) or not isinstance(total, int | float) or total <= 0:
        return text
    share = min(1.0, max(0.0, done / total))
    full = round(share * BAR)
    unit = f" {progress['unit']}" if progress.get("unit") else ""
    counts = f"{done:g}/{total:g}{unit}"
    return f"[{'#' * full}{'.' * (BAR - full)}] {share:4.0%} {counts} {text}".rstrip()


def _label(job: Watched) -> str:
    return f"{job.job_id} {job.status.name}"


def _duration(status: JobStatus) -> str:
    if status.started is None or status.ended is None:
        return ""
    return f" {status.ended - status.started:.0f} s"


if __name__ == "__main__":
    sys.exit(main())
