"""When a segment has to stop before the run is complete, agreed by all ranks at a step border.

Three reasons: the scheduler's warning signal, of which the handler only takes note, the deadline
that the launch node tells every rank, and a file STOP in the run directory, for which rank 0 looks.
A signal may reach one rank in a hundred, and clocks differ, so the ranks agree by one all-reduce
after each step.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

import torch
import torch.distributed

from alpenglow.train.deadline import Deadline, reserve
from alpenglow_lsf.chain import STOP

MORE_TO_DO = 85
"""Exit code of a segment that saved and must be submitted again."""

# LSF warns by the signal of -wa (URG or USR2 by habit); jsrun sends TERM; bkill sends INT, ten
# seconds later TERM and ten seconds later KILL, which is time enough for a small model's save.
SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGURG, signal.SIGINT)
# A look at a parallel file system is no business of every step.
LOOK_S = 1.0


class StopRequest:
    """Takes note of signals, of the deadline and of the STOP file.

    Args:
        deadline: when the job is killed.
        save_s: how long training stands still for a save, until one has been measured.
        drain_s: how long it takes until a saved checkpoint exists, until it has been measured.
        leave_s: how long leaving takes after that, as earlier segments measured it.
        measured: whether these come from earlier segments of this run; a mere guess is forgotten
            at the first save.
        file: the STOP file, for the one rank that looks for it; None for the others.
    """

    def __init__(
        self,
        deadline: Deadline,
        save_s: float,
        *,
        drain_s: float = 0.0,
        leave_s: float = 0.0,
        measured: bool = False,
        file: Path | None = None,
    ) -> None:
        self.deadline = deadline
        self.save_s = save_s
        self.drain_s = drain_s
        self.leave_s = leave_s
        self._measured = measured
        self._file = file
        self._looked = -LOOK_S
        self.drains_ahead = 0
        """Drains that the last save would have to wait for before its own."""
        self.step_s = 0.0
        """Longest step so far."""
        self.received: int | None = None
        self.also: Callable[[], bool] = lambda: False
        """Something else that a rank may have seen, to be agreed on in the same message."""
        self.heard = False
        """Whether any rank had, at the last border."""

    def install(self) -> None:
        """Catch the signals from now on."""
        for number in SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT == self.received:
            raise KeyboardInterrupt  # whoever presses Ctrl-C twice means it
        self.received = number

    def saved(self, save_s: float, drain_s: float) -> None:
        """Learn how long a save and its drain take (the longest measured ones count)."""
        self.save_s = max(self.save_s, save_s) if self._measured else save_s
        self.drain_s = max(self.drain_s, drain_s) if self._measured else drain_s
        self._measured = True

    def reserve(self) -> float:
        """Seconds to keep free before the deadline; drains under way count as well."""
        drains = (1 + self.drains_ahead) * self.drain_s
        return reserve(self.save_s, drains, self.leave_s, self.step_s)

    def wanted(self) -> str | None:
        """Why this rank wants to stop; None if it does not."""
        if self.received is not None:
            return f"signal {signal.Signals(self.received).name.removeprefix('SIG')}"
        left = self.deadline.left()
        if left is not None and left < self.reserve():
            return "walltime"
        if self._file is not None and time.monotonic() - self._looked >= LOOK_S:
            self._looked = time.monotonic()
            if self._file.exists():
                return STOP
        return None

    def agreed(
        self, device: torch.device, votes: Sequence[int] = ()
    ) -> tuple[str | None, list[int]]:
        """Why all ranks stop now, the same on each; None to go on. Collective.

        Args:
            device: where the process group's tensors live.
            votes: more numbers to agree on in the same message; the largest of each counts.
        """
        reasons = (
            None,
            "walltime",
            STOP,
            *(f"signal {s.name.removeprefix('SIG')}" for s in SIGNALS),
        )
        own = [reasons.index(self.wanted()), int(self.also()), *votes]
        vote = torch.tensor(own, device=device)
        torch.distributed.all_reduce(vote, op=torch.distributed.ReduceOp.MAX)
        reason, heard, *agreed = [int(value) for value in vote.tolist()]
        self.heard = bool(heard)
        return reasons[reason], agreed
