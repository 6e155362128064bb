"""What the ranks of a synthetic run have to do in a block of steps, and what may disturb it.

Arrays are laid out [stages, micro-batches, tensor, steps, data], so that what is played at once,
the steps and replicas of one event, lies together in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from alpenglow.parallel.schedule import Action
from alpenglow.parallel.seats import Seats

Times = npt.NDArray[np.int64]
Lengths = npt.NDArray[np.float64]


@dataclass
class Work:
    """Lengths in ns of everything in a block of steps, before it is played."""

    step: Times
    """[steps]: their numbers."""
    seats: Seats
    passes: dict[Action, Lengths]
    """[stages, micro-batches, tensor, steps, data]: computing, without the collective inside."""
    load: Lengths
    """[2, micro-batches, tensor, steps, data]: reading of a micro-batch, first and last stage."""
    message: Lengths
    """[stages - 1, steps, data]: one message between a stage and the next, either way."""
    reduce: Lengths
    """[stages, tensor, steps]: reduction of the gradients, from the last arrival to the end."""

    def during(self, first: int, last: int) -> npt.NDArray[np.int64]:
        """Places of the steps from `first` to `last`, both included, that are in the block."""
        return np.flatnonzero((self.step >= first) & (self.step <= last))


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong in a run, planted on purpose."""

    def disturb(self, work: Work, dice: np.random.Generator) -> None:
        """Change the lengths of a block of steps.

        Args:
            work: changed in place.
            dice: of this block; the same numbers come whatever else is planted.
        """

    def check(self, seats: Seats) -> None:
        """Refuse a place or a strength that cannot be.

        Raises:
            ValueError: one sentence.
        """
        node, stage = getattr(self, "node", 0), getattr(self, "stage", 0)
        nodes, stages = int(seats.node.max()) + 1, len(seats.node)
        if not 0 <= node < nodes:
            raise ValueError(f"{self.label}: node {node} is not one of {nodes} (from 0)")
        if not -stages <= stage < stages:
            raise ValueError(f"{self.label}: stage {stage} is not one of {stages} (from 0)")
        for name in ("factor", "relative", "wait_ns", "extra_ns", "drift"):
            if not 0 <= getattr(self, name, 1) < 2**62:
                raise ValueError(f"{self.label}: {name} = {getattr(self, name)} is negative")
        if getattr(self, "every", 1) < 1:
            raise ValueError(f"{self.label}: every = {getattr(self, 'every', 1)}: at least 1")

    def touches(self, first: int, last: int) -> bool:
        """Whether any step from `first` to `last` would be another without it."""
        return True

    def describe(self) -> dict[str, Any]:
        """Name and place, for planted.json."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {"fault": self.label, **fields}

    @property
    def label(self) -> str:
        """The fault's name, such as `slow_node`."""
        name = type(self).__name__
        return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")
