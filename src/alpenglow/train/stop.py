"""When a segment has to stop before the run is complete, agreed by all ranks at a step border.

Two reasons: the scheduler's warning signal, of which the handler only takes note, and the deadline
that the launch node tells every rank. A signal may reach one rank in a hundred, and clocks differ,
so the ranks agree by one all-reduce after each step.
"""

from __future__ import annotations

import signal
import time
from types import FrameType

import torch
import torch.distributed

MORE_TO_DO = 85
"""Exit code of a segment that saved and must be submitted again."""

# LSF warns by the signal of -wa (URG or USR2 by habit); jsrun sends TERM; bkill sends INT, ten
# seconds later TERM and ten seconds later KILL, which is time enough for a small model's save.
SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGURG, signal.SIGINT)
# Seconds left for leaving the processes and closing the segment's record.
MARGIN_S = 10.0


class StopRequest:
    """Takes note of signals and of the deadline.

    Args:
        deadline: unix seconds at which the job is killed; None: never.
        save_s: how long a save takes, until one has been measured.
    """

    def __init__(self, deadline: float | None, save_s: float) -> None:
        self.deadline = deadline
        self.save_s = save_s
        self.step_s = 0.0
        """Longest step so far."""
        self.received: int | None = None

    def install(self) -> None:
        """Catch the signals from now on."""
        for number in SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT == self.received:
            raise KeyboardInterrupt  # whoever presses Ctrl-C twice means it
        self.received = number

    def saved(self, seconds: float) -> None:
        """Learn how long a save takes (the longest counts)."""
        self.save_s = max(self.save_s, seconds)

    def reserve(self) -> float:
        """Seconds to keep free before the deadline: a slow save, two steps, and leaving."""
        return 1.5 * self.save_s + 2.0 * self.step_s + MARGIN_S

    def wanted(self, now: float | None = None) -> str | None:
        """Why this rank wants to stop; None if it does not."""
        if self.received is not None:
            return f"signal {signal.Signals(self.received).name.removeprefix('SIG')}"
        now = time.time() if now is None else now
        if self.deadline is not None and now + self.reserve() > self.deadline:
            return "walltime"
        return None

    def agreed(self, device: torch.device) -> str | None:
        """Why all ranks stop now, the same on each; None to go on. Collective."""
        reasons = (None, "walltime", *(f"signal {s.name.removeprefix('SIG')}" for s in SIGNALS))
        vote = torch.tensor([reasons.index(self.wanted())], device=device)
        torch.distributed.all_reduce(vote, op=torch.distributed.ReduceOp.MAX)
        return reasons[int(vote.item())]
