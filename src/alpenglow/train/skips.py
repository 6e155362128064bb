"""The samples that a run passes over: those that its recipe names and those that it met.

What a run decides to skip goes into `runs/NAME/skips.jsonl`, a line each, on disk before training
goes on. A later segment keeps to it even where the reason does not come back, so a run with the
same ranges in `guard.skip` from the start learns the same, bit for bit.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from alpenglow.config import ConfigError

FILE = "skips.jsonl"


@dataclass(frozen=True)
class Skip:
    """One range of samples, both ends included, and why."""

    first: int
    last: int
    reason: str
    """`named` (guard.skip), `nonfinite` or `spike`."""
    step: int = 0
    """The step (1-based) at which it was decided; 0 for what the recipe names."""
    segment: str = ""

    def touches(self, first: int, last: int) -> bool:
        """Whether any sample from `first` to `last` lies in it."""
        return self.first <= last and first <= self.last


class Skips:
    """The ranges a run passes over.

    Args:
        named: ranges of the recipe.
        recorded: what earlier steps and segments decided, oldest first.
        path: where decisions are written; None on ranks that do not write.
    """

    def __init__(
        self, named: Iterable[tuple[int, ...]], recorded: Iterable[Skip], path: Path | None
    ) -> None:
        self._named = [Skip(first, last, "named") for first, last in named]
        self.recorded = list(recorded)
        self._path = path

    def touching(self, first: int, last: int) -> Skip | None:
        """The range that a step of these samples meets; None if it is to be trained."""
        ranges = (*self.recorded, *self._named)
        return next((skip for skip in ranges if skip.touches(first, last)), None)

    def record(self, skip: Skip) -> None:
        """Decide on a range, the same on every rank; on the writing rank it is on disk after this.

        Raises:
            OSError: it could not be written.
        """
        if self._path is not None:
            append_line(self._path, asdict(skip))
        self.recorded.append(skip)

    def state(self) -> dict[str, Any]:
        """What a checkpoint says of the ranges that were known when it was made."""
        return {
            "skips": len(self.recorded),
            "named_skips": [[skip.first, skip.last] for skip in self._named],
        }

    def refusal(self, state: Mapping[str, Any]) -> str | None:
        """Why a checkpoint cannot be gone on from: it has learnt samples that are to be skipped.

        So a range that is added to `guard.skip` later takes the run back to before it.

        Args:
            state: the checkpoint's, with `samples` and what `state` gave.
        """
        samples = int(state["samples"])
        known = state.get("named_skips", [])
        later = self.recorded[int(state.get("skips", 0)) :]
        named = [skip for skip in self._named if [skip.first, skip.last] not in known]
        for skip in (*later, *named):
            if skip.first < samples:
                why = f"which the run gave up at step {skip.step} ({skip.reason})"
                return f"it has learnt samples {skip.first} to {min(skip.last, samples - 1)}, " + (
                    why if skip.step else "which guard.skip names"
                )
        return None


def append_line(path: Path, fields: Mapping[str, Any]) -> None:
    """Add a JSON line to a file, behind a half line of a killed writer, and sync it to disk."""
    line = (json.dumps(fields, separators=(",", ":")) + "\n").encode()
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            line = b"\n" + line
        written = os.write(descriptor, line)
        if written != len(line):
            raise OSError(f"{path}: only {written} of {len(line)} bytes were written")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_skips(run: Path) -> list[Skip]:
    """What a run has decided so far; half a line, which a killed writer left, is no decision.

    Raises:
        ConfigError: a whole line is no decision of this form.
    """
    path = run / FILE
    if not path.exists():
        return []
    found = []
    for number, text in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not text.strip():
            continue
        try:
            found.append(Skip(**json.loads(text)))
        except (ValueError, TypeError):
            if text.endswith("}"):
                raise ConfigError(
                    f"{path}: line {number} is no record of skipped samples: mend it, or what "
                    "the run learns next is not what it would have learnt"
                ) from None
    return found
