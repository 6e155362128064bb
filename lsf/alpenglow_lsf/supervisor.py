"""The supervisor of one local job: waits for its turn, runs it, signals it, writes how it ended.

Started by `local.Local` in a session of its own. Signals follow IBM's LSF: the -wa signal -wt
before the walltime, SIGUSR2 at the walltime, KILL ten minutes later; bkill is INT, TERM, KILL ten
seconds apart. A job whose script has ended but left processes behind is still running, as in LSF.
A job that exits with a code of its -Q, or that brequeue ends, is pending again under the same id.
"""

from __future__ import annotations

import dataclasses
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import IO

from alpenglow_lsf import dependency
from alpenglow_lsf.dependency import Standing, Verdict
from alpenglow_lsf.files import read_json
from alpenglow_lsf.job_environment import job_environment
from alpenglow_lsf.machine import Machine, load
from alpenglow_lsf.orphans import dies_with_parent, forget_signals
from alpenglow_lsf.scheduler import JobState, SchedulerError
from alpenglow_lsf.spool import JobRecord, Spool, jobs_before

POLL_S = 0.1
LOOK_AGAIN_S = 5.0
"""How often a waiting supervisor looks for lost jobs when nothing in the spool has changed."""

HEAD = 0.0
"""Position before all others in the queue."""

ENDING = ("bkill", "brequeue")
"""Requests that send INT, TERM and KILL."""


def main() -> None:
    """Supervise the job named on the command line: SPOOL, and JOBID or JOBID[INDEX]."""
    folder, key = Path(sys.argv[1]), sys.argv[2]
    machine = _machine(folder, key)
    if machine.stand_in is None:
        raise SchedulerError(f"machine {machine.name} has no [stand_in] table")
    forget_signals()
    Supervisor(Spool(folder, machine.stand_in), machine, key).run()


def _machine(folder: Path, key: str) -> Machine:
    values = read_json(folder / f"{key}.json") or {}
    return load(str(values.get("machine")))


class Supervisor:
    """Takes one job from PEND to DONE or EXIT."""

    def __init__(self, spool: Spool, machine: Machine, key: str) -> None:
        self._spool = spool
        self._minute = spool.settings.seconds_per_minute
        signals = machine.target.signals
        self._kill_after_s = (signals.kill_after_minutes if signals else 10.0) * self._minute
        interval = signals.bkill_interval_seconds if signals else 10.0
        self._interval_s = interval * self._minute / 60.0
        self._cores = machine.compute.cores
        record = next(r for r in spool.records() if r.key == key)
        self._record: JobRecord = record
        self._requests_read = 0
        self._reason = ""
        self._cpu_s = 0.0
        """CPU time of earlier attempts."""
        self._plan: list[tuple[float, int, str]] = []
        """(time, signal, reason) of the signals still to be sent."""

    def run(self) -> None:
        """Wait, run and close the job."""
        try:
            while self._wait_for_turn():
                if not self._run():
                    break
        except BaseException as error:
            self._update(
                state=JobState.FAILED.value,
                ended=time.time(),
                reason=f"the supervisor failed: {error}",
            )
            raise

    def _wait_for_turn(self) -> bool:
        changed, looked = -1, 0.0
        while True:
            for name in self._requests():
                if name in ("bkill", "KILL", "TERM", "INT"):
                    self._note("Exited; TERM_OWNER: job killed by owner")
                    self._update(
                        state=JobState.FAILED.value,
                        ended=time.time(),
                        exit_code=130,
                        reason="killed by bkill while it waited",
                    )
                    return False
            now = self._spool.folder.stat().st_mtime_ns
            if now != changed or time.monotonic() - looked > LOOK_AGAIN_S:
                changed, looked = now, time.monotonic()
                self._spool.jobs()  # marks lost jobs, which free their slots
                with self._spool.locked():
                    if self._may_start():
                        self._update(state=JobState.RUNNING.value, started=time.time(), reason="")
                        return True
            time.sleep(POLL_S)

    def _may_start(self) -> bool:
        records = self._spool.records()
        standings = {r.key: Standing(JobState(r.state), r.exit_code) for r in records}
        verdict = _verdict(self._record, standings)
        if verdict is Verdict.NEVER:
            wanted = self._record.options.get("-w", "")
            self._wait_because(f"dependency {wanted} is never satisfied: it will not start")
        elif verdict is Verdict.NOT_YET:
            self._wait_because(f"waits for {self._record.options.get('-w', '')}")
        else:
            running = [r for r in records if r.state == JobState.RUNNING.value]
            waiting = [
                r
                for r in records
                if r.state == JobState.PENDING.value and _verdict(r, standings) is Verdict.TRUE
            ]
            before = jobs_before(self._record, running, waiting)
            if before is None:
                self._wait_because(
                    "job array has reached its running element limit "
                    f"(%{self._record.limit} of {self._record.job_id})"
                )
            elif len(before) < self._spool.settings.jobs_at_once:
                return True
            else:
                self._wait_because(f"waits for a free slot behind {', '.join(before)}")
        return False

    def _wait_because(self, reason: str) -> None:
        if reason != self._record.reason:
            self._note(f"Pending: {reason}")
            self._update(reason=reason)

    def _run(self) -> bool:
        """Run the job once.

        Returns:
            Whether it was requeued.
        """
        record = self._record
        started = record.started or time.time()
        self._reason = ""
        self._plan = []
        nodes = "> <".join(record.hosts)
        tasks = 1 + (len(record.hosts) - 1) * self._cores
        self._note(f"Dispatched {tasks} Task(s) on Host(s) <{nodes}>", started)
        if record.walltime_s is not None:
            end = started + record.walltime_s
            self._plan = [
                (end, signal.SIGUSR2, "walltime"),
                (end + self._kill_after_s, signal.SIGKILL, "walltime"),
            ]
            if record.warning is not None:
                number = getattr(signal, f"SIG{record.warning[0]}")
                self._plan.insert(0, (end - record.warning[1], number, ""))
        out, err = self._open_output()
        try:
            process = self._start(out, err, started)
        except OSError as error:
            out.write(f"bsub: cannot start {record.command[0]}: {error.strerror}\n".encode())
            return self._finish(out, 127, by_signal=False)
        self._note(f"Starting (Pid {process.pid})")
        self._update(process=process.pid)
        self._attend(process)
        code = process.wait()
        return self._finish(out, 128 - code if code < 0 else code, by_signal=code < 0)

    def _open_output(self) -> tuple[IO[bytes], IO[bytes]]:
        record = self._record
        opened: dict[str, IO[bytes]] = {}
        for name, fresh in (
            (record.output, "-oo" in record.options),
            (record.error, "-eo" in record.options),
        ):
            if name is not None and name not in opened:
                path = Path(record.folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                if fresh:
                    path.unlink(missing_ok=True)
                opened[name] = path.open("ab", buffering=0)
        return opened[record.output], opened[record.error or record.output]

    def _start(self, out: IO[bytes], err: IO[bytes], started: float) -> subprocess.Popen[bytes]:
        # The shell's only task is to tell the job its own process id, as LSF does.
        prelude = ["/bin/sh", "-c", 'LS_JOBPID=$$; export LS_JOBPID; exec "$@"', "job"]
        return subprocess.Popen(
            [*prelude, *self._record.command],
            cwd=self._record.folder,
            env=job_environment(self._spool, self._record, self._cores, started),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
            preexec_fn=dies_with_parent(),  # noqa: PLW1509 - one thread
        )

    def _attend(self, process: subprocess.Popen[bytes]) -> None:
        gone = False
        while True:
            gone = gone or process.poll() is not None
            if gone and not session_members(process.pid):
                return
            for name in self._requests():
                if name in ENDING:
                    asked = "Signal <KILL>" if name == "bkill" else "Requeue"
                    self._note(f"{asked} requested by user or administrator <{self._record.user}>")
                    now = time.time()
                    self._plan = [
                        (now + i * self._interval_s, number, name)
                        for i, number in enumerate((signal.SIGINT, signal.SIGTERM, signal.SIGKILL))
                    ]
                else:
                    user = self._record.user
                    self._note(f"Signal <{name}> requested by user or administrator <{user}>")
                    number = getattr(signal, f"SIG{name}")
                    self._send(process.pid, number, f"bkill -s {name}")
            while self._plan and time.time() >= self._plan[0][0]:
                _, number, reason = self._plan.pop(0)
                why = {"walltime": "run limit reached", "": "-wa"}.get(reason, reason)
                self._note(f"Signal <{signal.Signals(number).name[3:]}> sent: {why}")
                self._send(process.pid, number, reason)
            time.sleep(POLL_S)

    def _send(self, leader: int, number: int, reason: str) -> None:
        self._reason = reason or self._reason
        if number == signal.SIGKILL:
            targets = session_members(leader)
            for process in targets:
                with suppress(ProcessLookupError):
                    os.kill(process, number)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(leader, number)

    def _finish(self, out: IO[bytes], code: int, *, by_signal: bool) -> bool:
        if self._reason == "brequeue":
            return self._requeue(out, code, "TERM_REQUEUE_OWNER: job requeued by owner", last=True)
        # LSF does not requeue what a signal ended, its own or bkill's (IBM, automatic job requeue).
        if not by_signal and self._reason != "bkill" and self._on_code(code):
            return self._requeue(out, code, f"Exited with exit code {code}", last=False)
        failed = code != 0 or self._reason == "bkill"
        words = "Successfully completed." if code == 0 else f"Exited with exit code {code}."
        cause = {
            "walltime": "TERM_RUNLIMIT: the job reached its walltime limit.",
            "bkill": "TERM_OWNER: the job was killed by bkill.",
        }.get(self._reason, "")
        reason = " ".join(text for text in (cause if failed else "", words) if text)
        ended = time.time()
        record = dataclasses.replace(self._record, ended=ended)
        out.write(_footer(record, reason, failed).encode())
        if failed:
            self._note(f"Exited with exit code {code}. {self._cpu_time()}", ended)
            ending = cause.replace("the job was", "job").replace("the job", "job").rstrip(".")
            self._note("Completed <exit>" + (f"; {ending}" if ending else ""), ended)
        else:
            self._note(f"Done successfully. {self._cpu_time()}", ended)
        self._update(
            state=(JobState.FAILED if failed else JobState.DONE).value,
            ended=ended,
            exit_code=code,
            reason=reason,
        )
        return False

    def _on_code(self, code: int) -> bool:
        """Whether -Q asks to requeue on an exit code: `85 86`, `all ~1`."""
        words = self._record.options.get("-Q", "").split()
        return f"~{code}" not in words and (str(code) in words or ("all" in words and code != 0))

    def _requeue(self, out: IO[bytes], code: int, why: str, *, last: bool) -> bool:
        """Make the job pend again: at the end of the queue or at its head."""
        attempt = self._record.attempt + 1
        now = time.time()
        out.write(f"\nJob {self._record.key} is requeued: {why} (attempt {attempt})\n".encode())
        self._note(f"Exited with exit code {code}. {self._cpu_time()}", now)
        self._note(f"Pending: Requeued job is waiting for rescheduling; {why}", now)
        self._update(
            state=JobState.PENDING.value,
            reason=f"requeued: {why}",
            attempt=attempt,
            started=None,
            process=None,
            position=now if last else HEAD,
        )
        return True

    def _cpu_time(self) -> str:
        """Say what this attempt has used, as far as its processes were waited for."""
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = used.ru_utime + used.ru_stime - self._cpu_s
        self._cpu_s += seconds
        return f"The CPU time used is {seconds:.1f} seconds"

    def _requests(self) -> list[str]:
        try:
            names = self._spool.path(self._record.key, "signals").read_text().split()
        except OSError:
            return []
        fresh = names[self._requests_read :]
        self._requests_read = len(names)
        return fresh

    def _note(self, text: str, moment: float | None = None) -> None:
        self._spool.note(self._record.key, text, moment)

    def _update(self, **changes: object) -> None:
        self._record = replace(self._record, **changes)  # type: ignore[arg-type]
        self._spool.write(self._record)


def session_members(leader: int) -> list[int]:
    """Living processes of a session (empty where /proc does not tell)."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[3]) == leader and fields[0] not in ("Z", "X"):
                found.append(int(stat.parent.name))
    return found


def _verdict(record: JobRecord, standings: Mapping[str, Standing]) -> Verdict:
    text = record.options.get("-w")
    return Verdict.TRUE if not text else dependency.parse(text).judge(standings)


def _footer(record: JobRecord, reason: str, failed: bool) -> str:
    started, ended = record.started or record.submitted, record.ended or 0.0
    rule = "-" * 60

    def clock(moment: float) -> str:
        return time.strftime("%a %b %d %H:%M:%S %Y", time.localtime(moment))

    return (
        f"\n{rule}\n"
        f"Subject: Job {record.key}: <{record.title}> {'Exited' if failed else 'Done'}\n\n"
        f"Job <{record.title}> was submitted from host <{record.host}> by user <{record.user}>\n"
        f"Job was executed on host(s) <{'> <'.join(record.hosts)}>, in queue <{record.queue}>\n"
        f"Started at {clock(started)}\n"
        f"Terminated at {clock(ended)}\n\n"
        f"{reason}\n\n"
        f"Resource usage summary:\n\n"
        f"    Run time :           {ended - started:.0f} sec.\n"
        f"    Turnaround time :    {ended - record.submitted:.0f} sec.\n"
        f"    Nodes asked :        {record.nodes}\n"
        f"{rule}\n"
    )
