"""progress.json of a run directory: how far its job is, for whoever follows it.

Any job writes it, `follow` shows it: activity, done, total, unit, text, time.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

INTERVAL_S = 1.0


class ProgressFile:
    """Keeps progress.json fresh, at most once a second.

    Args:
        run: the run directory.
        activity: the job's word for what it does.
        unit: what is counted.
    """

    def __init__(self, run: Path, activity: str, unit: str) -> None:
        self._path = run / "progress.json"
        self._fixed = {"activity": activity, "unit": unit}
        self._written = 0.0

    def show(self, done: float, total: float, text: str, *, force: bool = False) -> None:
        """Say how far the job is.

        Args:
            done: units done,
            total: of so many.
            text: what a person should read beside the bar.
            force: write even within the same second.
        """
        now = time.time()
        if not force and now - self._written < INTERVAL_S:
            return
        self._written = now
        fields = {**self._fixed, "done": done, "total": total, "text": text, "time": now}
        temporary = self._path.with_name(f".{self._path.name}.tmp")
        temporary.write_text(json.dumps(fields) + "\n", encoding="utf-8")
        temporary.replace(self._path)  # no fsync: after a crash it is stale anyway
