"""How far a job is: a bar on a terminal, a line every tenth in an output file, progress.json."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TextIO

from alpenglow_lsf.progress import ProgressFile

WIDTH = 30


class Progress:
    """Shows how much is done.

    Args:
        run: the run directory, for its progress.json.
        activity: the job's word for what it does.
        unit: what is counted.
        bar: rewrite one line where the stream is a terminal. False under MPI: mpirun gives its
            ranks a pseudo-terminal, whatever their output goes to in the end.
        stream: where it is shown.
    """

    def __init__(
        self,
        run: Path,
        activity: str,
        unit: str,
        *,
        bar: bool = True,
        stream: TextIO | None = None,
    ) -> None:
        self._file = ProgressFile(run, activity, unit)
        self._unit = unit
        self._stream = stream or sys.stdout
        self._terminal = bar and self._stream.isatty()
        self._tenth = -1
        self._open = False
        self._last: tuple[float, float] = (0.0, 0.0)

    def say(self, text: str) -> None:
        """Write a sentence on a line of its own, and keep it for `follow`."""
        if self._open:
            self._stream.write("\n")
            self._open = False
        self._stream.write(f"{text}\n")
        self._stream.flush()
        self._file.show(*self._last, text, force=True)

    def show(self, done: float, total: float, text: str) -> None:
        """Say how far it is: `done` of `total`, with a few words beside."""
        self._last = (round(done, 3), round(total, 3))
        share = min(1.0, done / total) if total else 1.0
        line = f"{text} {done:.1f} of {total:.1f} {self._unit} ({100 * share:.0f} %)"
        if self._terminal:
            bar = "#" * round(WIDTH * share)
            self._stream.write(f"\r[{bar:<{WIDTH}}] {line}\x1b[K")
            self._open = True
            self._stream.flush()
        elif int(10 * share) != self._tenth:
            self._tenth = int(10 * share)
            self._stream.write(f"{line}\n")
            self._stream.flush()
        self._file.show(*self._last, text, force=share >= 1.0)
