"""Faults that a rank does to itself, at exactly the chosen instruction of the chosen step.

    arm(faults, folder)    # in the rank's process, before alpenglow.train starts

The engine is the product's; once it is built, a hook sits on its instructions and acts through
real signals, real limits and real bits. What has happened is on disk (`fired/ID`) before it
happens, so that a chain meets each fault once, wherever it goes on.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import resource
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alpenglow.train import checkpoint_section

STOPPING = {"SIGTERM": signal.SIGTERM, "SIGURG": signal.SIGURG, "SIGUSR2": signal.SIGUSR2}
KILLS = {
    "kill in forward": ("ForwardPass",),
    "kill in backward": ("BackwardPass",),
    "kill in p2p": ("SendActivation", "RecvActivation", "SendGrad", "RecvGrad"),
    "kill in all-reduce": ("ReduceGrads",),
    "kill in optimizer": ("OptimizerStep",),
}
FILLER = "filler"
"""File that fills the small disk of the checkpoints."""
SMALL_FILE = 60_000
"""Bytes that a rank under quota may write to a file; less than a checkpoint's container."""
SAVES = 6
"""Steps after which the room is given back: by then a save has failed."""


@dataclass(frozen=True)
class Fault:
    """One fault of a campaign."""

    number: int
    kind: str
    step: int
    """1-based."""
    rank: int
    detail: int = 0
    """Which micro-batch, or which write of a drain."""
    late: bool = False
    """At the end of the instruction instead of its beginning."""


def fire(folder: Path, fault: Fault) -> bool:
    """Note that a fault happens now; False where it has happened before."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(folder / str(fault.number), os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return False
    os.write(descriptor, f"{time.time()} {os.environ['ALPENGLOW_SEGMENT']}".encode())
    os.fsync(descriptor)
    os.close(descriptor)
    return True


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
        self._room_at: float = math.inf
        self._full = False
        self._micro_batch = 0

    def enter(self, name: str, micro_batch: int) -> None:
        self._micro_batch = micro_batch
        self._meet(name, late=False)

    def leave(self, name: str) -> None:
        self._meet(name, late=True)

    def _meet(self, name: str, *, late: bool) -> None:
        step = self._engine.recorder.step
        if name == "ForwardPass" and step >= self._room_at:
            self._give_room()
        elif name == "ForwardPass" and self._full:
            # An old checkpoint that goes leaves room for a new one: a disk in use is full again.
            _fill(self._checkpoints)
        for fault in self._faults:
            if fault.step == step and self._matches(fault, name, late):
                self._act(fault)

    def _matches(self, fault: Fault, name: str, late: bool) -> bool:
        if fault.kind.startswith("NaN"):
            return name == "BackwardPass" and late and self._micro_batch == 0
        if fault.kind in KILLS:
            present = [n for n in KILLS[fault.kind] if n in self._has]
            numbered = name not in ("ReduceGrads", "OptimizerStep")
            right = not numbered or self._micro_batch == fault.detail % self._micro_batches
            return name == present[fault.detail % len(present)] and right and late == fault.late
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
        first_time = fire(self._folder, fault)
        if not first_time and fault.kind != "NaN always":
            return
        kind = fault.kind
        if kind.startswith("NaN"):
            next(self._engine.module.parameters()).grad.view(-1)[7] = float("nan")
        elif kind in STOPPING:
            os.kill(os.getpid(), STOPPING[kind])
        elif kind == "hang":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif kind.startswith("clock"):
            self._clock.offset += 7200.0 if kind.endswith("ahead") else -7200.0
        elif kind == "quota":
            _limit_files(SMALL_FILE)
            self._room_at = fault.step + SAVES
        elif kind == "disk full":
            self._full = True
            _fill(self._checkpoints)
            self._room_at = fault.step + SAVES
        elif kind == "kill in save":
            _deadly(checkpoint_section.Image, "take", fault.late)
        elif kind == "kill in drain":
            _kill_in_writing(fault.detail)
        else:  # also before files are struck: a segment that ends without a save of its own
            os.kill(os.getpid(), signal.SIGKILL)

    @property
    def _checkpoints(self) -> Path:
        return self._folder.parent / "run/checkpoints"

    def _give_room(self) -> None:
        self._room_at, self._full = math.inf, False
        _limit_files(resource.RLIM_INFINITY)
        (self._checkpoints / FILLER).unlink(missing_ok=True)


def _limit_files(nbytes: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, hard))


def _fill(folder: Path) -> None:
    """Write until the disk has no more room, but for a page."""
    with (folder / FILLER).open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def _deadly(owner: Any, name: str, late: bool) -> None:
    original = getattr(owner, name)

    def call(*arguments: Any, **named: Any) -> Any:
        if late:
            original(*arguments, **named)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, call)


def _kill_in_writing(countdown: int) -> None:
    """Die at one of the next writes, syncs or renames of a drain, which is in another thread."""
    left = [countdown]

    def deadly(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if threading.current_thread().name == "drain":
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **named)

        return call

    for name in ("pwrite", "fsync", "replace", "rename"):
        setattr(os, name, deadly(getattr(os, name)))
