"""With which global batch a run trained from which step on, and how long it is therefore.

A run that lost a node may go on with a smaller global batch (2,048 sequences on 128 nodes, 2,032 on
127), and with the old one later. The stream of samples goes on where it was. The run's length is a
number of samples and stays what it was, so its number of steps changes; so is the place in the
learning-rate schedule, counted in steps of the first batch.

`runs/NAME/batches.jsonl` has a line for the first batch and for each change; checkpoints hold the
same. Standard library only.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

NAME = "batches.jsonl"


class BatchChange(NamedTuple):
    """A global batch that holds from a step on."""

    step: int
    """Steps done before it."""
    samples: int
    """Samples consumed before it."""
    global_batch_size: int


@dataclass(frozen=True)
class BatchHistory:
    """The global batches of a run."""

    first: int
    """The batch that the run was begun with, as run.toml has it."""
    changes: tuple[BatchChange, ...] = ()
    """Ascending by step."""

    def then(self, step: int, samples: int, global_batch_size: int) -> BatchHistory:
        """Go on with a batch from a step on; what was noted of later steps has been given up."""
        kept = tuple(change for change in self.changes if change.step < step)
        last = kept[-1].global_batch_size if kept else None
        if last != global_batch_size:
            kept += (BatchChange(step, samples, global_batch_size),)
        return dataclasses.replace(self, changes=kept)

    def total_steps(self, total_samples: int) -> int:
        """Steps of the whole run, if its last batch stays."""
        last = self.changes[-1] if self.changes else BatchChange(0, 0, self.first)
        return last.step + max(0, -(-(total_samples - last.samples) // last.global_batch_size))

    def tables(self) -> dict[str, Any]:
        """As plain values, for a checkpoint's state."""
        return {"first": self.first, "changes": [list(change) for change in self.changes]}

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> BatchHistory | None:
        """From a checkpoint's state; None where it has none.

        A checkpoint of before there were changes has one batch, which follows from its numbers.
        """
        found = state.get("batches")
        if found is not None:
            changes = (BatchChange(*(int(n) for n in row)) for row in found["changes"])
            return cls(int(found["first"]), tuple(changes))
        samples, step = state.get("samples"), state.get("step")
        if not samples or not step:
            return None
        batch = int(samples) // int(step)
        return cls(batch, (BatchChange(0, 0, batch),))

    @classmethod
    def read(cls, run: Path) -> BatchHistory | None:
        """From a run directory's batches.jsonl; None where no segment has begun to train."""
        history: BatchHistory | None = None
        with suppress(OSError):
            for line in (run / NAME).read_text(encoding="utf-8").splitlines():
                with suppress(ValueError, KeyError, TypeError):  # a kill cut this line
                    found = json.loads(line)
                    history = cls(int(found["first"])) if history is None else history
                    history = history.then(
                        int(found["step"]), int(found["samples"]), int(found["global_batch_size"])
                    )
        return history

    def write(self, run: Path, segment: str) -> None:
        """Append what this history says last to batches.jsonl, unless it is there. Rank 0 only."""
        if not self.changes or BatchHistory.read(run) == self:
            return
        path = run / NAME
        fields = {"segment": segment, "first": self.first, **self.changes[-1]._asdict()}
        whole = not path.exists() or path.read_bytes()[-1:] in (b"", b"\n")
        with path.open("a", encoding="utf-8") as file:
            file.write(("" if whole else "\n") + json.dumps(fields) + "\n")
