"""How far a job is: a bar on a terminal, a line every tenth in an output file, progress.json."""

from __future__ import annotations

import collections
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from alpenglow_lsf.progress import ProgressFile

WIDTH = 30
REMEMBERED = 40
"""Ended units that the rate is taken over: what was done before this start ends at once, and what
is slow now should show."""


class Progress:
    """Shows how much is done, how fast it goes and how long the rest will take.

    Args:
        run: the run directory, for its progress.json.
        activity: the job's word for what it does.
        unit: what is counted.
        bar: rewrite one line where the stream is a terminal. False under MPI: mpirun gives its
            ranks a pseudo-terminal, whatever their output goes to in the end.
        stream: where it is shown.
        clock: seconds, rising.
    """

    def __init__(
        self,
        run: Path,
        activity: str,
        unit: str,
        *,
        bar: bool = True,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._file = ProgressFile(run, activity, unit)
        self._unit = unit
        self._stream = stream or sys.stdout
        self._terminal = bar and self._stream.isatty()
        self._clock = clock
        self._step = ""
        self._tenth = -1
        self._open = False
        self._last: tuple[float, float] = (0.0, 0.0)
        self._seen: collections.deque[tuple[float, float]] = collections.deque(maxlen=REMEMBERED)

    def say(self, text: str) -> None:
        """Write a sentence on a line of its own, and keep it for `follow`."""
        if self._open:
            self._stream.write("\n")
            self._open = False
        self._stream.write(f"{text}\n")
        self._stream.flush()
        self._file.show(*self._last, text, force=True)

    def show(self, done: float, total: float, step: str) -> None:
        """Say how far a step of the job is: `done` of `total`."""
        if step != self._step:
            self._step, self._tenth = step, -1
            self._seen.clear()
        self._last = (round(done, 3), round(total, 3))
        self._seen.append((self._clock(), done))
        share, pace = min(1.0, done / total) if total else 1.0, self._pace(total)
        line = f"{step} {done:.1f} of {total:.1f} {self._unit} ({100 * share:.0f} %){pace}"
        if self._terminal:
            bar = "#" * round(WIDTH * share)
            self._stream.write(f"\r[{bar:<{WIDTH}}] {line}\x1b[K")
            self._open = True
            self._stream.flush()
        elif int(10 * share) != self._tenth:
            self._tenth = int(10 * share)
            self._stream.write(f"{line}\n")
            self._stream.flush()
        self._file.show(*self._last, step + pace, force=share >= 1.0)

    def _pace(self, total: float) -> str:
        """Tell rate and remaining time, from the last units that ended; empty before there are."""
        (began, before), (now, done) = self._seen[0], self._seen[-1]
        seconds, more = now - began, done - before
        if seconds < 1.0 or more <= 0:
            return ""
        rate = more / seconds
        left = (total - done) / rate
        rest = "" if left <= 0 else f", {_duration(left)} left"
        return f", {rate:.1f} {self._unit}/s{rest}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
