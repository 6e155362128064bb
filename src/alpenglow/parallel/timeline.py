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

from alpenglow.parallel.schedule import COMPUTE, Action, Instruction, Schedule, find

_PLACED = COMPUTE | {
    Action.send_activation,
    Action.receive_activation,
    Action.send_gradient,
    Action.receive_gradient,
}


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
    lists = find(schedule) if isinstance(schedule, str) else schedule
    took = durations or Durations()
    queues = [
        [i for i in lists(stages, micro_batches, stage) if i.action in _PLACED]
        for stage in range(stages)
    ]
    return _Placement(queues, took, rendezvous).place()


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


class _Placement:
    """Works the stages' lists off."""

    def __init__(self, queues: list[list[Instruction]], took: Durations, rendezvous: bool) -> None:
        self.queues = queues
        self.rendezvous = rendezvous
        self.transfer = took.transfer
        self.steps = [_steps(stage, queue, took) for stage, queue in enumerate(queues)]
        self.position = [0] * len(queues)
        self.free = [0.0] * len(queues)
        self.arrived: dict[_Message, float] = {}
        self.slots: list[Slot] = []

    def place(self) -> list[Slot]:
        moving = True
        while moving:
            moving = False
            for stage in range(len(self.queues)):
                while self.position[stage] < len(self.queues[stage]) and self._advance(stage):
                    moving = True
        stuck = [
            f"stage {s} in {queue[self.position[s]].action.value} of micro-batch "
            f"{queue[self.position[s]].micro_batch}"
            for s, queue in enumerate(self.queues)
            if self.position[s] < len(queue)
        ]
        if stuck:
            raise ValueError(f"the schedule deadlocks: {', '.join(stuck[:3])}")
        return sorted(self.slots, key=lambda slot: (slot.begin, slot.stage))

    def _advance(self, stage: int) -> bool:
        """Do the stage's next step, if it can be done."""
        length, message, receiver = self.steps[stage][self.position[stage]]
        if message is None:
            item, begin = self.queues[stage][self.position[stage]], self.free[stage]
            self.free[stage] = begin + length
            self.slots.append(Slot(stage, item.action, item.micro_batch, begin, begin + length))
        elif receiver == stage:
            # Under rendezvous nothing is in `arrived`: the sender moves both ends.
            if message not in self.arrived:
                return False
            self.free[stage] = max(self.free[stage], self.arrived[message])
        elif not self.rendezvous:
            self.arrived[message] = self.free[stage] + self.transfer
        else:
            place = self.position[receiver]
            if place == len(self.steps[receiver]) or self.steps[receiver][place][1] != message:
                return False
            self.free[stage] = max(self.free[stage], self.free[receiver]) + self.transfer
            self.free[receiver] = self.free[stage]
            self.position[receiver] += 1
        self.position[stage] += 1
        return True


_Message = tuple[bool, int, int]
"""(goes down the pipeline, receiving stage, micro-batch): alike at both ends."""


_Step = tuple[float, _Message | None, int]
"""Length of a pass; or a message and the stage that gets it."""


def _steps(stage: int, queue: list[Instruction], took: Durations) -> list[_Step]:
    """What `_advance` looks at."""
    length = {id(action): took.of(action, stage) for action in COMPUTE}  # a member has one id
    started: set[int] = set()
    steps: list[_Step] = []
    for item in queue:
        action, k = item.action, item.micro_batch
        if action is Action.send_activation:
            steps.append((0.0, (True, stage + 1, k), stage + 1))
        elif action is Action.receive_activation:
            steps.append((0.0, (True, stage, k), stage))
        elif action is Action.send_gradient:
            steps.append((0.0, (False, stage - 1, k), stage - 1))
        elif action is Action.receive_gradient:
            steps.append((0.0, (False, stage, k), stage))
        else:
            if action is Action.forward:
                started.add(k)
            elif k not in started:
                raise ValueError(
                    f"stage {stage}: {action.value} of micro-batch {k} before its forward"
                )
            steps.append((length[id(action)], None, stage))
    return steps
