"""The parent of a job step on the launch node: deadline, signals, exit code, segment record.

It is the last line of a batch script, and runs the jsrun line that follows `--`:

    exec python -m alpenglow_lsf.run --run runs/pretrain_7b --activity pretrain \
        --then jobs/report.lsf -- jsrun -r1 -a6 -g6 -c42 -b packed:7 python -m alpenglow.train ...

It ends with the command's exit code: 0 complete, 85 more to do, anything else failed. With
`--chain SCRIPT` the next segment is submitted before the command starts; see chain.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from alpenglow_lsf.arrays import own_id
from alpenglow_lsf.chain import Chain, ChainError, complete, owner_ended, whole_minutes
from alpenglow_lsf.flight import MORE_TO_DO, Flight
from alpenglow_lsf.geometry import GeometryError
from alpenglow_lsf.job import JobSpec
from alpenglow_lsf.machine import Machine, MachineError, current
from alpenglow_lsf.nodes import chosen, planned
from alpenglow_lsf.options import OptionError
from alpenglow_lsf.order import Order, RunError, parse
from alpenglow_lsf.orphans import dies_with_parent
from alpenglow_lsf.ranks import RESERVED_VARIABLE
from alpenglow_lsf.scheduler import (
    ENDING,
    JobState,
    JobStatus,
    Scheduler,
    SchedulerError,
    Submission,
)
from alpenglow_lsf.scheduler import current as current_scheduler
from alpenglow_lsf.segment import (
    CANCELLED,
    Ending,
    RunLock,
    Segment,
    SegmentError,
    cause_of,
    close_lost,
    read_segments,
)

FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGURG)
HEARTBEAT_S = 10.0
LOOK_S = 1.0
LINGER_S = 2.0
"""Between the end of the last rank in use, TERM and KILL, where ranks of silent nodes hang."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a segment and return the command's exit code."""
    try:
        order = parse(sys.argv[1:] if argv is None else argv)
        machine = current()
        job_id = own_id(os.environ)
        if job_id is None:
            raise RunError(
                "LSB_JOBID is not set: this runs inside a job, submit the script by bsub"
            )
        jsrun = Path(order.command[0]).name == "jsrun"
        if jsrun and machine.refuse_tmpdir and os.environ.get("TMPDIR"):
            raise RunError(f"TMPDIR is set, which breaks jsrun on {machine.name}: unset it")
        _make(order.run)
        scheduler = current_scheduler(machine)
        lock = RunLock(order.run, order.activity, lambda job: _ending(scheduler, job) is not None)
        with lock.held(job_id):
            parent = Parent(order, machine, scheduler, job_id, os.environ)
            code = parent.turned_away()
            if code is None:
                code = parent.run(lock)
        return parent.submit_next(code)
    except (
        ChainError, GeometryError, MachineError, OptionError, RunError, SchedulerError, SegmentError
    ) as error:  # fmt: skip
        sys.stderr.write(f"alpenglow_lsf.run: {error}\n")
        return 1


class Parent:
    """Starts the command, passes signals on and keeps the segment record."""

    def __init__(
        self,
        order: Order,
        machine: Machine,
        scheduler: Scheduler,
        job_id: str,
        environ: Mapping[str, str],
    ) -> None:
        self._order = order
        self._machine = machine
        self._scheduler = scheduler
        self._environ = environ
        self._received: list[int] = []
        self._told: str | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._flight: Flight | None = None
        now = time.time()
        status = self._ask(job_id)
        deadline = _deadline(environ, status, now)
        self.segment = Segment(
            order.run,
            {
                "job_id": job_id,
                "job_name": environ.get("LSB_JOBNAME") or status.name or None,
                "activity": order.activity,
                "script": environ.get("ALPENGLOW_SCRIPT"),
                "command": list(order.command),
                "machine": machine.name,
                "project": environ.get("LSB_PROJECT_NAME") or status.project or None,
                "queue": environ.get("LSB_QUEUE") or status.queue or None,
                "submitted": status.submitted,
                "started": now,
                "heartbeat": now,
                "walltime_s": status.walltime_s,
                "deadline": deadline,
                "charge_rule": machine.target.charge,
                **planned(order.command, machine, environ),
            },
        )
        for name in close_lost(
            order.run, order.activity, self.segment.name, lambda job: _ending(scheduler, job)
        ):
            _say(f"closed the record that segment {name} left open")
        self._chain = self._make_chain(status)

    def turned_away(self) -> int | None:
        """Close this segment at once where the chain has ended; None where it may run."""
        if self._chain is None:
            return None
        decision = self._chain.at_start()
        if decision.goes_on:
            return None
        self._chain.adopt()
        self._chain.remove(decision.why)
        text = f"nothing was started: {decision.why}"
        _say(text)
        if complete(read_segments(self._order.run), self._order.run) is not None:
            self.segment.close(0, "complete", text)
            return 0
        self.segment.close(MORE_TO_DO, "more to do", text)
        return MORE_TO_DO

    def run(self, lock: RunLock) -> int:
        """Run the command to its end, close the record and return the exit code.

        In a chain the next segment is submitted first, and kept or removed last.
        """
        with self._listening():
            if self._chain is not None:
                self._chain.adopt()
                self._chain.submit()
            code = self._run(lock)
            if self._chain is not None:
                self._chain.at_end(self._by_owner())
        return code

    @contextmanager
    def _listening(self) -> Iterator[None]:
        old = {number: signal.signal(number, self._on_signal) for number in FORWARDED}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    def _run(self, lock: RunLock) -> int:
        try:
            self._child = subprocess.Popen(
                self._order.command,
                env=self._child_environment(),
                process_group=0,
                preexec_fn=dies_with_parent(signal.SIGTERM),  # noqa: PLW1509 - one thread
            )
        except OSError as error:
            text = f"cannot start {self._order.command[0]}: {error.strerror}"
            self.segment.close(127, "failed", text)
            _say(text)
            return 127
        for number in self._received:  # came before there was a child
            self._forward(number)
        code = self._wait(self._child, lock)
        code = 128 - code if code < 0 else code
        self._look_at_nodes()
        reason, text = self._reason(code)
        self.segment.close(code, reason, text)
        return code

    def submit_next(self, code: int) -> int:
        """Submit the scripts of --then after a complete run; return the exit code of the job.

        Raises:
            SchedulerError: the scheduler refused one.
        """
        if code == MORE_TO_DO and self._chain is None:
            script = self.segment.fields["script"] or "the same script"
            sys.stdout.write(
                f"alpenglow_lsf.run: {self._order.run.name} has more to do; `bsub {script}` "
                f"continues it from its last checkpoint\n"
            )
        if code != 0:
            return code
        done = self._submitted_before() if self._chain is not None else set()
        for script in self._order.then:
            if str(script) in done:
                continue
            job_id = self._scheduler.submit(
                Submission(script, environment={"ALPENGLOW_RUN": str(self._order.run)})
            )
            self.segment.fields["then"].append({"script": str(script), "job_id": job_id})
            self.segment.write()
            sys.stdout.write(f"alpenglow_lsf.run: submitted {script} as job {job_id}\n")
        return code

    def _submitted_before(self) -> set[str]:
        """Scripts of --then that an earlier completing segment has submitted."""
        return {
            str(then.get("script"))
            for record in read_segments(self._order.run)
            for then in record.get("then") or []
        }

    def _make_chain(self, status: JobStatus) -> Chain | None:
        if self._order.chain is None:
            return None
        fields = self.segment.fields
        queue = self._machine.queue(fields["queue"] or "")
        if queue is not None and not queue.chains:
            _say(f"queue {queue.name} allows no chains: no segment follows this one")
            return None
        path, script = self._order.chain
        asked = JobSpec(
            project=fields["project"],
            queue=fields["queue"],
            nodes=fields["nodes_asked"],
            walltime=whole_minutes(status.walltime_s),
        )
        return Chain(
            path, self._order.policy, self._scheduler, self._order.run, self.segment, asked, _say,
            script=script,
        )  # fmt: skip

    def _ask(self, job_id: str) -> JobStatus:
        nothing = JobStatus(job_id, JobState.UNKNOWN)
        try:
            return self._scheduler.status(job_id) or nothing
        except SchedulerError as error:
            # The run itself does not need an answer; only its deadline stays unknown.
            sys.stderr.write(f"alpenglow_lsf.run: no word about job {job_id}: {error}\n")
            return nothing

    def _child_environment(self) -> dict[str, str]:
        fields = self.segment.fields
        environment = {
            **self._environ,
            "ALPENGLOW_RUN": str(self._order.run),
            "ALPENGLOW_SEGMENT": self.segment.name,
            "ALPENGLOW_JOB_ID": str(fields["job_id"]),
            RESERVED_VARIABLE: ",".join(self._machine.target.reserved_hosts),
        }
        if fields["deadline"] is not None:
            environment["ALPENGLOW_DEADLINE"] = repr(fields["deadline"])
        return environment

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._received.append(number)
        if self._child is not None:
            self._forward(number)

    def _forward(self, number: int) -> None:
        if self._child is not None and self._child.returncode is None:
            try:
                os.killpg(self._child.pid, number)
            except ProcessLookupError:
                return

    def _wait(self, child: subprocess.Popen[bytes], lock: RunLock) -> int:
        beaten = time.monotonic()
        while True:
            try:
                return child.wait(LOOK_S)
            except subprocess.TimeoutExpired:
                self._look_at_nodes()
                if self._flight is not None and (told := self._flight.over()) is not None:
                    return self._outlast(child, told)
                if self._chain is not None and (owner := self._by_owner()) is not None:
                    # KILL comes 20 s after bkill's INT, KillWait after scancel's TERM.
                    self._chain.remove(owner_ended(owner))
                if time.monotonic() - beaten >= HEARTBEAT_S:
                    beaten = time.monotonic()
                    lock.beat()
                    self.segment.beat()

    def _look_at_nodes(self) -> None:
        """Once a pre-flight has chosen, note its choice in the record."""
        if self._flight is not None:
            return
        flight = self._flight = Flight.read(self._order.run, self.segment.name)
        if flight is None or flight.exit_code:
            return
        self.segment.fields.update(chosen(flight, self.segment.fields["nodes_used"]))
        self.segment.write()

    def _outlast(self, child: subprocess.Popen[bytes], code: int) -> int:
        """End a step whose ranks in use have all ended; returns their exit code."""
        for number in (None, signal.SIGTERM, signal.SIGKILL):
            if number is not None:
                self._forward(number)
            with suppress(subprocess.TimeoutExpired):
                child.wait(LINGER_S)
                break
        silent = "" if self._flight is None else ", ".join(self._flight.missing)
        _say(f"all ranks in use have ended; those of {silent}, which never reported, were ended")
        return code

    def _by_owner(self) -> str | None:
        """Which of BY_OWNER ends this job, if one does."""
        if signal.SIGINT in self._received:
            return "signal INT"
        termed = signal.SIGTERM in self._received
        return CANCELLED if termed and self._why() == ENDING else None

    def _why(self) -> str:
        """Ask once why this job ends: Slurm's TERM may be a time limit, a requeue or scancel."""
        if self._told is None:
            self._told = self._ask(str(self.segment.fields["job_id"])).reason
        return self._told

    def _reason(self, code: int) -> tuple[str, str]:
        name = Path(self._order.command[0]).name
        words = f"{name} exited with code {code}"
        if code == 0:
            return "complete", words
        if code == MORE_TO_DO:
            return "more to do", words
        if self._flight is not None and code == self._flight.exit_code:
            return "failed", f"{words}: pre-flight: {self._flight.words}"
        deadline = self.segment.fields["deadline"]
        if signal.SIGUSR2 in self._received or (deadline and time.time() >= deadline):
            return "walltime", f"{words} at the walltime limit"
        if self._by_owner() == CANCELLED:
            return CANCELLED, f"{words} after scancel"
        if (cause := cause_of(self._why())) is not None:
            return cause, f"{words}: {self._why()}"
        fatal = [n for n in self._received if n in (signal.SIGTERM, signal.SIGINT)]
        if fatal:
            signal_name = signal.Signals(fatal[0]).name
            return f"signal {signal_name.removeprefix('SIG')}", f"{words} after {signal_name}"
        return "failed", words


def _say(text: str) -> None:
    sys.stderr.write(f"alpenglow_lsf.run: {text}\n")
    sys.stderr.flush()


def _ending(scheduler: Scheduler, job_id: str) -> Ending | None:
    """Ask how a job ended; None where it has not, or where nobody knows."""
    try:
        status = scheduler.status(job_id)
    except SchedulerError:
        return None
    if status is None or not status.state.ended or status.ended is None:
        return None
    # When a job was lost with its supervisor, the local scheduler only guesses.
    lost = status.reason.startswith("lost")
    return Ending(status.ended, status.exit_code, status.reason, estimated=lost)


def _make(run: Path) -> None:
    try:
        (run / "segments").mkdir(parents=True, exist_ok=True)
        probe = run / "segments" / f".probe.{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise RunError(f"run directory {run} is not writable: {error.strerror}") from None


def _deadline(environ: Mapping[str, str], status: JobStatus, now: float) -> float | None:
    told = environ.get("ALPENGLOW_DEADLINE")
    if told:
        return float(told)
    if status.walltime_s is None:
        return None
    return (status.started or now) + status.walltime_s


if __name__ == "__main__":
    sys.exit(main())
