"""Faults that a rank does to itself, at exactly the chosen instruction of the chosen step.

    arm(faults, folder)    # in the rank's process, before alpenglow.train starts

The engine is the product's; once it is built, a hook sits on its instructions and acts through
real signals, real limits and real bits. What has happened is on disk (`fired/ID`) before it
happens, so that a chain meets each fault once, wherever it goes on.
"""

from __future__ import annotations

import functools
import os
import resource
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STOPPING = {"SIGTERM": signal.SIGTERM, "URG": signal.SIGURG, "USR2": signal.SIGUSR2}
KILLS = {
    "kill in forward": ("ForwardPass",),
    "kill in backward": ("BackwardPass",),
    "kill in p2p": ("SendActivation", "RecvActivation", "SendGrad", "RecvGrad"),
    "kill in all-reduce": ("ReduceGrads",),
    "kill in the optimizer": ("OptimizerStep",),
}
SMALL_FILE = 100_000
"""Bytes that a rank under quota may write to a file; less than a checkpoint's container."""


@dataclass(frozen=True)
class Fault:
    """One fault of a campaign."""

    number: int
    kind: str
    step: int
    """1-based."""
    rank: int
    micro_batch: int = 0
    late: bool = False
    """At the end of the instruction instead of its beginning."""


def fire(folder: Path, fault: Fault) -> bool:
    """Note that a fault happens now; False where it has happened before."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(folder / str(fault.number), os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return False
    os.write(descriptor, f"{time.time()}".encode())
    os.fsync(descriptor)
    os.close(descriptor)
    return True


def fired(folder: Path, fault: Fault) -> bool:
    return (folder / str(fault.number)).exists()


def arm(faults: list[Fault], folder: Path, rank: int) -> None:
    """Let this rank meet its faults.

    Args:
        faults: all of the chain's.
        folder: where it is noted which have happened.
        rank: this rank.
    """
    from alpenglow.train import deadline, pretrain
    from alpenglow.train.engine import Engine
    from alpenglow.train.instruction_hooks import add_hook

    mine = [fault for fault in faults if fault.rank == rank]
    clock = _Clock()
    settable = functools.partial(deadline.Deadline, wall=clock)
    vars(pretrain)["Deadline"] = settable
    build = Engine.build

    def built(*arguments: Any, **named: Any) -> Any:
        engine = build(*arguments, **named)
        add_hook(engine.inner, _Hook(engine.inner, mine, folder, clock))
        return engine

    Engine.build = built  # type: ignore[method-assign]


class _Clock:
    """The wall clock of a computer that somebody sets."""

    def __init__(self) -> None:
        self.offset = 0.0

    def __call__(self) -> float:
        return time.time() + self.offset


class _Hook:
    def __init__(self, engine: Any, faults: list[Fault], folder: Path, clock: _Clock) -> None:
        self._engine = engine
        self._faults = faults
        self._folder = folder
        self._clock = clock
        self._count = 0

    def enter(self, name: str, micro_batch: int) -> None:
        self._micro_batch = micro_batch
        self._meet(name, late=False)

    def leave(self, name: str) -> None:
        self._meet(name, late=True)

    def _meet(self, name: str, *, late: bool) -> None:
        step = self._engine.recorder.step
        for fault in self._faults:
            if fault.step == step and self._matches(fault, name, late):
                self._act(fault)

    def _matches(self, fault: Fault, name: str, late: bool) -> bool:
        if fault.kind in ("NaN once", "NaN always"):
            return name == "BackwardPass" and late and self._micro_batch == fault.micro_batch
        if fault.kind in KILLS:
            names = KILLS[fault.kind]
            present = [n for n in names if n in self._has]
            where = present[fault.micro_batch % len(present)]
            numbered = name not in ("ReduceGrads", "OptimizerStep")
            right = not numbered or self._micro_batch == fault.micro_batch % self._micro_batches
            return name == where and right and late == fault.late
        return name == "ForwardPass" and late == fault.late

    @functools.cached_property
    def _micro_batches(self) -> int:
        return int(self._engine.micro_batches)

    @functools.cached_property
    def _has(self) -> set[str]:
        """Instructions that this rank's stage runs."""
        return {
            type(command).__name__
            for commands in self._engine._train_schedule()
            for command in commands
        }

    def _act(self, fault: Fault) -> None:
        always = fault.kind == "NaN always"
        if not fire(self._folder, fault) and not always:
            return
        if fault.kind.startswith("NaN"):
            parameter = next(self._engine.module.parameters())
            parameter.grad.view(-1)[7] = float("nan")
        elif fault.kind in STOPPING:
            os.kill(os.getpid(), STOPPING[fault.kind])
        elif fault.kind == "hang":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif fault.kind.startswith("clock"):
            self._clock.offset += 7200.0 if fault.kind.endswith("ahead") else -7200.0
        elif fault.kind == "quota":
            _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL_FILE, hard))
        elif fault.kind == "kill in save":
            _kill_in_writing(fault.micro_batch)
        elif fault.kind in ("disk full",):
            pass  # the campaign fills the disk; what follows is the rank's
        else:
            os.kill(os.getpid(), signal.SIGKILL)


def _kill_in_writing(countdown: int) -> None:
    """Die at one of the next writes, syncs or renames of the main thread: the checkpoint's."""
    left = [countdown]

    def deadly(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if threading.current_thread() is threading.main_thread():
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **named)

        return call

    for name in ("pwrite", "fsync", "replace", "rename"):
        setattr(os, name, deadly(getattr(os, name)))
