"""A pipeline schedule as one list of events, and the placing of that list in time.

Torch-free. Every stage works its own list off in order, so the lists of all stages and their
messages have a common order in which each event only needs earlier ones. That order does not depend
on how long anything takes: it is found once (`program`), and then played (`place`) with any
lengths, as often as wanted. Lengths may be floats, integers of ns, or arrays: a replica, a step or
a scenario each has its place in the array, and all of them are played at once.

    events = program("1f1b", stages=12, micro_batches=8)
    free = place(events, lambda event: length[event.action][event.stage], [0.0] * 12)

Under rendezvous a message is one event that holds both ends: it begins when the later one has come
to it. Buffered, the sender goes on at once and the receiver waits for the arrival.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

from alpenglow.parallel.schedule import COMPUTE, Action, Instruction, Schedule, find

SENDS = {
    Action.send_activation: (1, Action.receive_activation),
    Action.send_gradient: (-1, Action.receive_gradient),
}
"""How far away the receiver's stage is, and what it does."""
_SEND_OF = {receive: send for send, (_, receive) in SENDS.items()}

_SENDING = tuple(SENDS)  # told apart by identity: hashing an Action costs more than the rest

Length = TypeVar("Length")


class Event(NamedTuple):
    """Something that takes its time in one step."""

    action: Action
    """A pass; a load; a message, by its sender's action; buffered, also by its receiver's."""
    stage: int
    micro_batch: int
    other: int = -1
    """The stage at the other end of a message."""
    chunk: int = 0
    """As in the instruction."""


def program(
    schedule: str | Schedule,
    stages: int,
    micro_batches: int,
    *,
    rendezvous: bool = True,
    loads: bool = False,
) -> tuple[Event, ...]:
    """Bring the lists of all stages into one order in which each event needs earlier ones only.

    Args:
        schedule: a name of `SCHEDULES`, or a function of the same shape.
        stages: number of stages.
        micro_batches: micro-batches a step.
        rendezvous: messages are one event that holds both ends; else a send and a receive.
        loads: list the reading of micro-batches too.

    Raises:
        ValueError: the lists wait for one another for ever, a backward pass comes before its
            forward pass, or the schedule is unknown.
    """
    if isinstance(schedule, str):
        find(schedule)
        return _named(schedule, stages, micro_batches, rendezvous, loads)
    return _program(schedule, stages, micro_batches, rendezvous, loads)


def place(
    events: Sequence[Event],
    length: Callable[[Event], Length],
    start: Sequence[Length],
    *,
    rendezvous: bool = True,
    maximum: Callable[[Any, Any], Any] = max,
    placed: Callable[[Event, Length, Length, Length], object] | None = None,
) -> list[Length]:
    """Play a program.

    Args:
        events: as `program` gives them.
        length: how long an event takes; of a message, its transfer.
        start: when each stage begins.
        rendezvous: as the program was made.
        maximum: of two lengths; `numpy.maximum` where they are arrays.
        placed: told of every event when its stage came to it, when the other end did (of a pass:
            the same; of a receive: when the message arrived), and when it ended.

    Returns:
        When each stage has done its last event.
    """
    free: list[Any] = list(start)
    arrived: dict[Event, Any] = {}
    for event in events:
        stage, other = event.stage, event.other
        begin = came = free[stage]
        if other < 0:
            end = begin + length(event)
        elif event.action in _SENDING:
            if rendezvous:
                came = free[other]
                end = free[other] = maximum(begin, came) + length(event)
            else:
                end = begin
                arrived[event] = begin + length(event)
        else:
            came = arrived.pop(_sender(event))
            end = maximum(begin, came)
        free[stage] = end
        if placed is not None:
            placed(event, begin, came, end)
    return free


@lru_cache(maxsize=64)
def _named(
    name: str, stages: int, micro_batches: int, rendezvous: bool, loads: bool
) -> tuple[Event, ...]:
    return _program(find(name), stages, micro_batches, rendezvous, loads)


def _program(
    lists: Schedule, stages: int, micro_batches: int, rendezvous: bool, loads: bool
) -> tuple[Event, ...]:
    wanted = COMPUTE | set(SENDS) | set(_SEND_OF) | ({Action.load} if loads else set())
    queues = [
        [
            _event(stage, item, stages)
            for item in lists(stages, micro_batches, stage)
            if item.action in wanted
        ]
        for stage in range(stages)
    ]
    for stage, queue in enumerate(queues):
        _check_order(stage, queue)
    position = [0] * stages
    order: list[Event] = []
    sent: set[Event] = set()
    moving = True
    while moving:
        moving = False
        for stage, queue in enumerate(queues):
            while position[stage] < len(queue):
                event = queue[position[stage]]
                if event.action in _SEND_OF:
                    # Under rendezvous the sender moves both ends.
                    if _sender(event) not in sent:
                        break
                    sent.remove(_sender(event))
                elif event.other >= 0 and rendezvous:
                    partner, at = queues[event.other], position[event.other]
                    if at == len(partner) or partner[at] != _receiver(event):
                        break
                    position[event.other] += 1
                elif event.other >= 0:
                    sent.add(event)
                order.append(event)
                position[stage] += 1
                moving = True
    stuck = [
        f"stage {stage} in {queue[position[stage]].action.value} of micro-batch "
        f"{queue[position[stage]].micro_batch}"
        for stage, queue in enumerate(queues)
        if position[stage] < len(queue)
    ]
    if stuck:
        raise ValueError(f"the schedule deadlocks: {', '.join(stuck[:3])}")
    return tuple(order)


def _event(stage: int, item: Instruction, stages: int) -> Event:
    away = 0
    if item.action in SENDS:
        away = SENDS[item.action][0]
    elif item.action in _SEND_OF:
        away = -SENDS[_SEND_OF[item.action]][0]
    # Interleaved chunks go round: behind the last stage comes the first.
    other = (stage + away) % stages if away else -1
    return Event(item.action, stage, item.micro_batch, other, item.chunk)


def _sender(event: Event) -> Event:
    sends = _SEND_OF[event.action]
    return Event(sends, event.other, event.micro_batch, event.stage, event.chunk)


def _receiver(event: Event) -> Event:
    receives = SENDS[event.action][1]
    return Event(receives, event.other, event.micro_batch, event.stage, event.chunk)


def _check_order(stage: int, queue: Sequence[Event]) -> None:
    started: set[tuple[int, int]] = set()
    for event in queue:
        if event.action is Action.forward:
            started.add((event.micro_batch, event.chunk))
        elif event.action in COMPUTE and (event.micro_batch, event.chunk) not in started:
            raise ValueError(
                f"stage {stage}: {event.action.value} of micro-batch {event.micro_batch} "
                "before its forward"
            )
