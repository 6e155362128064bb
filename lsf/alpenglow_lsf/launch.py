"""Runs one step's ranks on this machine: output, signals, and what a failing rank means.

A rank that fails ends the step: the others get TERM, then KILL after a grace, and the step's exit
code is that of the first rank that died by itself. Exit code 85 means "more to do" and fails
nothing.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

from alpenglow_lsf.flight import MORE_TO_DO, Flight
from alpenglow_lsf.geometry import Place
from alpenglow_lsf.loopback import addresses
from alpenglow_lsf.pump import Pump
from alpenglow_lsf.step import JobStep
from alpenglow_lsf.tasks import DirectTasks, LaunchError, MpiTasks, Outcome, Tasks, rank_environment

FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGURG)
GRACE_S = 10.0
"""Between TERM and KILL for the ranks that are left when one has failed."""


class StepRun:
    """One step; `run` returns its exit code."""

    def __init__(
        self,
        step: JobStep,
        places: Sequence[Place],
        hosts: Sequence[str],
        environ: Mapping[str, str],
        *,
        grace_s: float = GRACE_S,
    ) -> None:
        self._step = step
        self._places = places
        self._hosts = hosts
        own = addresses(1 + max(p.host for p in places))
        master = own[places[0].host]
        self._environments = [
            {
                **rank_environment(environ, p, len(places), hosts[p.host], own[p.host], master),
                **dict(step.environment),
            }
            for p in places
        ]
        self._environ = environ
        self._grace_s = grace_s
        self._received: list[int] = []
        self._stopped_by: int | None = None
        self._first: Outcome | None = None
        self._codes: list[int] = []
        self._kill_at: float | None = None

    def run(self) -> int:
        """Run the ranks to their end and return the step's exit code.

        Raises:
            LaunchError: the command cannot be started.
        """
        wake, waker = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(waker, False)
        old = {s: signal.signal(s, self._on_signal) for s in (*FORWARDED, signal.SIGCHLD)}
        old_wakeup = signal.set_wakeup_fd(waker)
        files: list[int] = []
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(wake, selectors.EVENT_READ)
                pump = Pump(selector)
                tasks = self._start(pump, files)
                try:
                    self._attend(tasks, selector, pump, wake)
                finally:
                    tasks.kill()
                    pump.drain()
                    tasks.close()
        finally:
            signal.set_wakeup_fd(old_wakeup)
            for signum, handler in old.items():
                signal.signal(signum, handler)
            for descriptor in (wake, waker, *files):
                os.close(descriptor)
        return self._conclude()

    def _start(self, pump: Pump, files: list[int]) -> Tasks:
        folder = Path(self._step.folder) if self._step.folder else Path()
        try:
            os.chdir(folder)
            out = self._open(self._step.stdout, files, sys.stdout.fileno())
            err = self._open(self._step.stderr, files, sys.stderr.fileno())
            stdin = subprocess.DEVNULL
            if self._step.stdin:
                stdin = os.open(self._step.stdin, os.O_RDONLY)
                files.append(stdin)
        except OSError as error:
            raise LaunchError(f"cannot open {error.filename}: {error.strerror}") from None
        sinks = [
            (out, err, f"{p.rank}: ".encode() if self._step.prepended else b"")
            for p in self._places
        ]
        command = self._step.command
        if self._step.starts_mpi:
            return MpiTasks(command, self._environments, pump, sinks)
        return DirectTasks(command, self._environments, pump, sinks, stdin)

    @staticmethod
    def _open(name: str | None, files: list[int], default: int) -> int:
        if name is None:
            return default
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        files.append(descriptor)
        return descriptor

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if signum != signal.SIGCHLD:
            self._received.append(signum)

    def _attend(
        self, tasks: Tasks, selector: selectors.BaseSelector, pump: Pump, wake: int
    ) -> None:
        while tasks.alive():
            timeout = 1.0
            if self._kill_at is not None:
                timeout = min(timeout, max(0.0, self._kill_at - time.monotonic()))
            for key, _ in selector.select(timeout):
                if key.fd == wake:
                    os.read(wake, 4096)
                else:
                    pump.read(key.fd)
            while self._received:
                signum = self._received.pop(0)
                if signum in (signal.SIGTERM, signal.SIGINT):
                    self._stopped_by = self._stopped_by or signum
                tasks.send(signum)
            for outcome in tasks.reap():
                self._note(outcome, tasks)
            if self._kill_at is not None and time.monotonic() >= self._kill_at:
                tasks.kill()

    def _note(self, outcome: Outcome, tasks: Tasks) -> None:
        self._codes.append(outcome.code)
        if outcome.code in (0, MORE_TO_DO) or self._first is not None:
            return
        self._first = outcome
        if self._step.exit_on_error and tasks.alive():
            tasks.send(signal.SIGTERM)
            self._kill_at = time.monotonic() + self._grace_s

    def _conclude(self) -> int:
        if self._first is not None:
            self._say(self._first, self._kill_at is not None)
            return self._first.exit_code
        if MORE_TO_DO in self._codes:
            others = len([c for c in self._codes if c != MORE_TO_DO]) - self._aside()
            if others > 0 and not self._step.starts_mpi:
                sys.stderr.write(
                    f"jsrun: {others} of {len(self._codes)} ranks ended with 0 while the others "
                    f"have more to do ({MORE_TO_DO})\n"
                )
            return MORE_TO_DO
        return 0

    def _aside(self) -> int:
        """Ranks of nodes that the pre-flight has left out: they end with 0 before the others."""
        flight = Flight.of_environment(self._environ)
        out = () if flight is None else flight.left_out
        return len([p for p in self._places if self._hosts[p.host] in out])

    def _say(self, first: Outcome, ended_others: bool) -> None:
        host = self._hosts[self._places[first.rank].host]
        why = ""
        if self._stopped_by is not None:
            why = f" after jsrun got {signal.Signals(self._stopped_by).name}"
        rest = "; the other ranks were ended" if ended_others else ""
        sys.stderr.write(f"jsrun: rank {first.rank} on {host} {first.words}{why}{rest}\n")
        sys.stderr.flush()
