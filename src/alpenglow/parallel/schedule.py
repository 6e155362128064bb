"""Pipeline schedules as data: which micro-batch a stage works on, and when.

Torch-free. The trainer, the report and the simulator read the same lists. Two schedules are here:
GPipe (Huang et al. 2019, arXiv 1811.06965) runs all forwards, then all backwards; 1F1B (PipeDream
flush, Narayanan et al. 2021, arXiv 2104.04473, figure 4) has the same bubble but keeps at most
`stages - stage` micro-batches alive. DeepSpeed's TrainSchedule is 1F1B.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum


class Action(Enum):
    """What a stage does with a micro-batch."""

    load = "load"
    receive_activation = "receive_activation"
    forward = "forward"
    send_activation = "send_activation"
    receive_gradient = "receive_gradient"
    backward = "backward"
    send_gradient = "send_gradient"
    reduce_gradients = "reduce_gradients"
    optimizer = "optimizer"


@dataclass(frozen=True)
class Instruction:
    """One action; `micro_batch` is -1 for those that belong to the whole step."""

    action: Action
    micro_batch: int = -1


@dataclass(frozen=True)
class Slot:
    """A forward or backward placed in time (units of the caller's durations)."""

    stage: int
    action: Action
    micro_batch: int
    begin: float
    end: float


Schedule = Callable[[int, int, int], list[Instruction]]


def one_forward_one_backward(stages: int, micro_batches: int, stage: int) -> list[Instruction]:
    """List what `stage` does in one step under 1F1B.

    The first `min(micro_batches, stages - stage - 1)` forwards warm the pipeline up; then forward
    and backward alternate; then the remaining backwards drain it.

    Raises:
        ValueError: `stage` is not one of the stages, or a count is below 1.
    """
    _check(stages, micro_batches, stage)
    warm_up = min(micro_batches, stages - stage - 1)
    instructions: list[Instruction] = []
    for micro_batch in range(warm_up):
        instructions += _forward(stages, stage, micro_batch)
    for micro_batch in range(micro_batches - warm_up):
        instructions += _forward(stages, stage, micro_batch + warm_up)
        instructions += _backward(stages, stage, micro_batch)
    for micro_batch in range(micro_batches - warm_up, micro_batches):
        instructions += _backward(stages, stage, micro_batch)
    return [*instructions, Instruction(Action.reduce_gradients), Instruction(Action.optimizer)]


def gpipe(stages: int, micro_batches: int, stage: int) -> list[Instruction]:
    """List what `stage` does in one step under GPipe: every forward, then every backward."""
    _check(stages, micro_batches, stage)
    instructions: list[Instruction] = []
    for micro_batch in range(micro_batches):
        instructions += _forward(stages, stage, micro_batch)
    for micro_batch in reversed(range(micro_batches)):
        instructions += _backward(stages, stage, micro_batch)
    return [*instructions, Instruction(Action.reduce_gradients), Instruction(Action.optimizer)]


def bubble_fraction(stages: int, micro_batches: int) -> float:
    """Share of a step in which a stage idles, with equal stages and free communication.

    (p - 1) / (m + p - 1), for GPipe and 1F1B alike. Narayanan et al. 2021 (section 2.2.1) state
    the same bubble against the ideal time instead: (p - 1) / m. The published 7B layout (p = 12,
    m = 8) idles 11/19 = 57.9 %.
    """
    _check(stages, micro_batches, 0)
    return (stages - 1) / (micro_batches + stages - 1)


def in_flight(stages: int, micro_batches: int, stage: int) -> int:
    """Count the micro-batches whose activations a stage holds at most under 1F1B."""
    _check(stages, micro_batches, stage)
    return min(micro_batches, stages - stage)


def timeline(
    schedule: Schedule,
    stages: int,
    micro_batches: int,
    *,
    forward: float = 1.0,
    backward: float = 2.0,
    transfer: float = 0.0,
) -> list[Slot]:
    """Place a schedule in time.

    Each stage works its list off in order; a forward waits for the activation of the stage before,
    a backward for its own forward and for the gradient of the stage after.

    Args:
        schedule: `one_forward_one_backward`, `gpipe`, or another of the same shape.
        stages: number of stages, all equally fast.
        micro_batches: micro-batches a step.
        forward: duration of one forward on one stage.
        backward: duration of one backward; twice the forward without recompute.
        transfer: time between the end on one stage and the earliest begin on the next.

    Raises:
        ValueError: the lists wait for one another for ever.
    """
    computes = (Action.forward, Action.backward)
    queues = [
        [i for i in schedule(stages, micro_batches, stage) if i.action in computes]
        for stage in range(stages)
    ]
    duration = {Action.forward: forward, Action.backward: backward}
    ends: dict[tuple[int, Action, int], float] = {}
    free = [0.0] * stages
    position = [0] * stages
    slots: list[Slot] = []
    while any(position[s] < len(queues[s]) for s in range(stages)):
        before = len(slots)
        for stage in range(stages):
            while position[stage] < len(queues[stage]):
                item = queues[stage][position[stage]]
                ahead = stage - 1 if item.action is Action.forward else stage + 1
                needed = (ahead, item.action, item.micro_batch)
                own = (stage, Action.forward, item.micro_batch)
                if item.action is Action.backward and own not in ends:
                    break
                if 0 <= ahead < stages and needed not in ends:
                    break
                ready = ends[needed] + transfer if 0 <= ahead < stages else 0.0
                begin = max(free[stage], ready)
                free[stage] = begin + duration[item.action]
                ends[stage, item.action, item.micro_batch] = free[stage]
                slots.append(Slot(stage, item.action, item.micro_batch, begin, free[stage]))
                position[stage] += 1
        if len(slots) == before:
            raise ValueError("the schedule deadlocks: every stage waits for another")
    return sorted(slots, key=lambda slot: (slot.begin, slot.stage))


def _forward(stages: int, stage: int, micro_batch: int) -> list[Instruction]:
    actions = [Action.forward]
    if stage in (0, stages - 1):  # tokens for the embedding, labels for the loss
        actions.insert(0, Action.load)
    if stage > 0:
        actions.insert(0, Action.receive_activation)
    if stage < stages - 1:
        actions.append(Action.send_activation)
    return [Instruction(action, micro_batch) for action in actions]


def _backward(stages: int, stage: int, micro_batch: int) -> list[Instruction]:
    actions = [Action.backward]
    if stage < stages - 1:
        actions.insert(0, Action.receive_gradient)
    if stage > 0:
        actions.append(Action.send_gradient)
    return [Instruction(action, micro_batch) for action in actions]


def _check(stages: int, micro_batches: int, stage: int) -> None:
    if stages < 1 or micro_batches < 1:
        raise ValueError(f"stages = {stages}, micro_batches = {micro_batches}: both are at least 1")
    if not 0 <= stage < stages:
        raise ValueError(f"stage {stage} is not one of {stages} stages")
