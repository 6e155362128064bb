"""A pipeline schedule placed in time, under sends and receives that block.

Torch-free. Each stage works its list off in order. Under rendezvous a send ends when the message
has reached a receiver that posted its receive, and both ends are held as long as it takes; that is
what DeepSpeed's pipeline engine does over gloo, and over NCCL on one stream. Buffered, a send costs
its sender nothing.

    bubble("zb-h1", 12, 8, Durations(forward=1, backward_input=1, backward_weight=1))   # 0.385
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from alpenglow.parallel.replay import Event, place, program
from alpenglow.parallel.schedule import COMPUTE, Action, Schedule


@dataclass(frozen=True)
class Durations:
    """How long what takes, in any one unit; a number for all stages or one for each stage."""

    forward: float | Sequence[float] = 1.0
    backward_input: float | Sequence[float] = 1.0
    """Gradient with respect to the input, and what is recomputed before it."""
    backward_weight: float | Sequence[float] = 1.0
    """Gradient with respect to the weights; a whole backward pass takes the sum of the two."""
    transfer: float = 0.0
    """One message between neighbouring stages."""

    def of(self, action: Action, stage: int) -> float:
        """Length of a pass on a stage."""
        if action is Action.backward:
            return _at(self.backward_input, stage) + _at(self.backward_weight, stage)
        value: float | Sequence[float] = getattr(self, action.value)
        return _at(value, stage)

    def length(self, event: Event) -> float:
        """Length of an event of a program: a pass or a message."""
        return self.transfer if event.other >= 0 else self.of(event.action, event.stage)


def _at(value: float | Sequence[float], stage: int) -> float:
    return value if isinstance(value, float | int) else value[stage]


@dataclass(frozen=True, slots=True)
class Slot:
    """A pass placed in time (units of the durations)."""

    stage: int
    action: Action
    micro_batch: int
    begin: float
    end: float


def timeline(
    schedule: str | Schedule,
    stages: int,
    micro_batches: int,
    durations: Durations | None = None,
    *,
    rendezvous: bool = True,
) -> list[Slot]:
    """Place a schedule in time.

    Args:
        schedule: a name of `SCHEDULES`, or a function of the same shape.
        stages: number of stages.
        micro_batches: micro-batches a step.
        durations: default: every pass 1, messages 0.
        rendezvous: a send holds its stage until the receiver has the message; else it is buffered.

    Returns:
        Every forward and backward pass, in order of its begin.

    Raises:
        ValueError: the lists wait for one another for ever, or the schedule is unknown.
    """
    took = durations or Durations()
    slots: list[Slot] = []

    def note(event: Event, begin: float, _: float, end: float) -> None:
        if event.action in COMPUTE:
            slots.append(Slot(event.stage, event.action, event.micro_batch, begin, end))

    place(
        program(schedule, stages, micro_batches, rendezvous=rendezvous),
        took.length,
        [0.0] * stages,
        rendezvous=rendezvous,
        placed=note,
    )
    return sorted(slots, key=lambda slot: (slot.begin, slot.stage))


def bubble(
    schedule: str | Schedule,
    stages: int,
    micro_batches: int,
    durations: Durations | None = None,
    *,
    rendezvous: bool = True,
) -> float:
    """Share of all stages' time, from the first pass to the last, in which nothing computes.

    Arguments and errors as `timeline`. With equal stages and free messages this is
    `bubble_fraction` for 1F1B and GPipe.
    """
    slots = timeline(schedule, stages, micro_batches, durations, rendezvous=rendezvous)
    busy = sum(slot.end - slot.begin for slot in slots)
    whole = max(slot.end for slot in slots) - min(slot.begin for slot in slots)
    return 1 - busy / (stages * whole)
