"""How far an evaluation is: a line now and then, and progress.json of the run."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from alpenglow_lsf.progress import ProgressFile

log = logging.getLogger("alpenglow.evaluate")
INTERVAL_S = 30.0


class Progress:
    """Counts parts (a task in one implementation, or perplexity) and what is done of the present.

    Args:
        run: the run directory; where there is none, lines are all that is said.
        parts: how many there will be.
    """

    def __init__(self, run: Path, parts: int) -> None:
        self._file = ProgressFile(run, "evaluate", "part") if run.is_dir() else None
        self._parts, self._ended = parts, 0
        self._said = 0.0

    def part(self, text: str, count: str) -> Callable[[int, int], None]:
        """Begin a part; the function returned is told (done, total) of it.

        Args:
            text: what it is.
            count: what is counted in it, in the plural.
        """
        log.info("%s", text)
        self._said = time.monotonic()
        self._show(0.0, text, force=True)

        def told(done: int, total: int) -> None:
            line = f"{text}: {done} of {total} {count}"
            self._show(done / max(1, total), line)
            if time.monotonic() - self._said >= INTERVAL_S:
                self._said = time.monotonic()
                log.info("%s", line)

        return told

    def ended(self, text: str) -> None:
        """End the present part."""
        self._ended += 1
        self._show(0.0, text, force=True)

    def _show(self, share: float, text: str, *, force: bool = False) -> None:
        if self._file is not None:
            self._file.show(self._ended + share, self._parts, text, force=force)
