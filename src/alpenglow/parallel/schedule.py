"""Pipeline schedules as data: which micro-batch a stage works on, and when it sends and receives.

Torch-free. The trainer, the report, the memory model and the planner read the same lists:

    SCHEDULES["zb-h1"](stages, micro_batches, stage)     # a list of Instruction
    in_flight(stages, micro_batches, stage, "zb-h1")     # activations that must be held

`1f1b` (PipeDream flush, Narayanan et al. 2021, arXiv 2104.04473, figure 4) is DeepSpeed's
TrainSchedule, instruction by instruction. `gpipe` (Huang et al. 2019, arXiv 1811.06965) runs all
forwards, then all backwards. `zb-h1` (Qi et al. 2023, arXiv 2401.10241, section 3.1) splits a
backward pass: the gradient of the input, for which the stage before waits, is computed at once, the
gradient of the weights, for which nobody waits, where the stage would idle. No stage holds more
micro-batches than the first does under 1F1B. `interleaved-V` (Narayanan et al. 2021, section
2.2.2) gives each stage V chunks of consecutive layers, V rounds along the pipeline: the bubble is a
V-th of 1F1B's, for V times the messages, with those from the last stage to the first. The trainer
does not run it; predictions and the memory model read it.

Each schedule is laid out on a grid of equal slots, and a stage's list is its column. A message
passes at the border before the slot that needs it, and all messages of a border have one order, the
same for both ends. So all instructions of all stages have one common order in which a message is a
single event, and the first that is not done yet can always be done: no schedule deadlocks, even
where a send ends only when the receiver has posted its receive (gloo; NCCL on one stream).
`alpenglow.parallel.timeline` places the lists in time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache, partial


class Action(Enum):
    """What a stage does with a micro-batch."""

    load = "load"
    receive_activation = "receive_activation"
    forward = "forward"
    send_activation = "send_activation"
    receive_gradient = "receive_gradient"
    backward = "backward"
    backward_input = "backward_input"
    backward_weight = "backward_weight"
    send_gradient = "send_gradient"
    reduce_gradients = "reduce_gradients"
    optimizer = "optimizer"


COMPUTE = frozenset(
    {Action.forward, Action.backward, Action.backward_input, Action.backward_weight}
)
"""Actions that keep the stage's processor busy."""


@dataclass(frozen=True)
class Instruction:
    """One action; `micro_batch` is -1 for those that belong to the whole step."""

    action: Action
    micro_batch: int = -1
    chunk: int = 0
    """Of an interleaved schedule: which of the stage's chunks; of a message, the chunk on the side
    of the earlier layers."""


Schedule = Callable[[int, int, int], list[Instruction]]
"""(stages, micro-batches, stage) -> what the stage does in one step, in order."""

_Work = tuple[int, int, Instruction]
"""(slot, stage, what the stage computes in it)."""
_Columns = tuple[tuple[Instruction, ...], ...]


def one_forward_one_backward(stages: int, micro_batches: int, stage: int) -> list[Instruction]:
    """List what `stage` does in one step under 1F1B.

    The first `min(micro_batches, stages - stage - 1)` forwards warm the pipeline up; then forward
    and backward alternate; then the remaining backwards drain it.

    Raises:
        ValueError: `stage` is not one of the stages, or a count is below 1.
    """
    _check(stages, micro_batches, stage)
    return list(_one_forward_one_backward(stages, micro_batches)[stage])


def gpipe(stages: int, micro_batches: int, stage: int) -> list[Instruction]:
    """List what `stage` does in one step under GPipe: every forward, then every backward.

    Raises:
        ValueError: as `one_forward_one_backward`.
    """
    _check(stages, micro_batches, stage)
    return list(_gpipe(stages, micro_batches)[stage])


def zero_bubble_h1(stages: int, micro_batches: int, stage: int) -> list[Instruction]:
    """List what `stage` does in one step under ZB-H1.

    With forward, input and weight passes of one length the step takes the larger of
    3m + p - 1 and 2 (m + p - 1) + 1 of them (p stages, m micro-batches); 1F1B takes 3 (m + p - 1).

    Raises:
        ValueError: as `one_forward_one_backward`.
    """
    _check(stages, micro_batches, stage)
    return list(_zero_bubble_h1(stages, micro_batches)[stage])


def interleaved(count: int, stages: int, micro_batches: int, stage: int) -> list[Instruction]:
    """List what `stage` does in one step under interleaved 1F1B with `count` chunks a stage.

    Micro-batches go in groups of as many as there are stages, each group through one chunk after
    the other. Stage s starts with 2 (p - s - 1) + (count - 1) p forwards, then alternates. A
    message is sent as soon as it is made and received where it is needed: sends must be buffered.

    Raises:
        ValueError: as `one_forward_one_backward`; fewer than two stages; micro-batches that the
            stages do not divide.
    """
    _check(stages, micro_batches, stage)
    if stages < 2 or micro_batches % stages:
        raise ValueError(
            f"micro_batches = {micro_batches} on {stages} stages: an interleaved schedule needs "
            "two stages or more, and a multiple of them as micro-batches"
        )
    return list(_interleaved(stages, micro_batches, count)[stage])


SCHEDULES: dict[str, Schedule] = {
    "1f1b": one_forward_one_backward,
    "gpipe": gpipe,
    "zb-h1": zero_bubble_h1,
}
"""By the names that recipes use."""


def find(name: str) -> Schedule:
    """Look a schedule up: one of `SCHEDULES`, or interleaved-V with V chunks a stage.

    Raises:
        ValueError: there is none of that name.
    """
    count = chunks(name)
    return SCHEDULES[name] if count == 1 else partial(interleaved, count)


def chunks(name: str) -> int:
    """Count the chunks into which a schedule divides a stage's layers.

    Raises:
        ValueError: no schedule has that name.
    """
    if name in SCHEDULES:
        return 1
    match = re.fullmatch(r"interleaved-([2-9]|[1-9]\d+)", name)
    if match is None:
        raise ValueError(
            f"schedule = {name!r}; choose from {', '.join(SCHEDULES)}, interleaved-V with 2 or more"
        )
    return int(match[1])


def in_flight(stages: int, micro_batches: int, stage: int, schedule: str = "1f1b") -> int:
    """Count the micro-batches whose activations a stage holds at most.

    Under zb-h1 a micro-batch is held until its weight pass has run: the inputs of the linear layers
    are needed there. Under interleaved-V a chunk of a micro-batch counts as one, with a V-th of the
    stage's layers.

    Raises:
        ValueError: as `one_forward_one_backward`, or an unknown schedule.
    """
    count = chunks(schedule)
    _check(stages, micro_batches, stage)
    if count > 1:
        return min(count * micro_batches, 2 * (stages - stage - 1) + (count - 1) * stages + 1)
    most = {"1f1b": stages - stage, "gpipe": micro_batches, "zb-h1": stages}
    return min(micro_batches, most[schedule])


def awaiting_weights(stages: int, micro_batches: int, stage: int, schedule: str = "1f1b") -> int:
    """Count the micro-batches whose input pass is done and whose weight pass is not, at most.

    They are among those of `in_flight`. Of each a stage holds the input and the output gradient of
    every linear layer, s b h (8 + 24/t) bytes a transformer layer at two bytes a number: as much as
    its activations without the attention core, whatever was recomputed. 0 where backward passes are
    whole.

    Raises:
        ValueError: as `in_flight`.
    """
    find(schedule)
    _check(stages, micro_batches, stage)
    if schedule != "zb-h1":
        return 0
    return min(stage + 1, max(1, micro_batches - (stages - 1 - stage)))


def bubble_fraction(stages: int, micro_batches: int) -> float:
    """Share of a step in which a stage idles, with equal stages and free communication.

    (p - 1) / (m + p - 1), for GPipe and 1F1B alike and any ratio of backward to forward. Narayanan
    et al. 2021 (section 2.2.1) state the same bubble against the ideal time instead: (p - 1) / m.
    The published 7B layout (p = 12, m = 8) idles 11/19 = 57.9 %. Other schedules, unequal stages
    and messages that take time: `alpenglow.parallel.timeline.bubble`.
    """
    _check(stages, micro_batches, 0)
    return (stages - 1) / (micro_batches + stages - 1)


@lru_cache(maxsize=8)
def _one_forward_one_backward(stages: int, micro_batches: int) -> _Columns:
    work = [
        item
        for stage in range(stages)
        for k in range(micro_batches)
        for item in (
            (stage + 2 * k, stage, Instruction(Action.forward, k)),
            (2 * stages - 1 - stage + 2 * k, stage, Instruction(Action.backward, k)),
        )
    ]
    return _columns(stages, work)


@lru_cache(maxsize=8)
def _gpipe(stages: int, micro_batches: int) -> _Columns:
    turn = micro_batches + stages - 1
    work = [
        item
        for stage in range(stages)
        for k in range(micro_batches)
        for item in (
            (stage + k, stage, Instruction(Action.forward, k)),
            (
                turn + (stages - 1 - stage) + (micro_batches - 1 - k),
                stage,
                Instruction(Action.backward, k),
            ),
        )
    ]
    return _columns(stages, work)


@lru_cache(maxsize=8)
def _zero_bubble_h1(stages: int, micro_batches: int) -> _Columns:
    """Fill the grid slot by slot: a forward if it may run, else an input pass, else a weight pass.

    A forward may run while the stage has fewer than `stages - stage` micro-batches before their
    input pass, as in 1F1B, and holds fewer than `stages` before their weight pass. That this greedy
    order takes no more slots than named in `zero_bubble_h1` is a finding, kept by a test for up to
    16 stages and 48 micro-batches.
    """
    forward, inputs, weights = [0] * stages, [0] * stages, [0] * stages  # done so far
    work: list[_Work] = []
    slot = 0
    while min(weights) < micro_batches:
        begun: list[tuple[list[int], int]] = []
        for stage in range(stages):
            arrived = micro_batches if stage == 0 else forward[stage - 1]
            returned = forward[stage] if stage == stages - 1 else inputs[stage + 1]
            if (
                forward[stage] < arrived
                and forward[stage] - inputs[stage] < stages - stage
                and forward[stage] - weights[stage] < stages
            ):
                action, count = Action.forward, forward
            elif inputs[stage] < returned:
                action, count = Action.backward_input, inputs
            elif weights[stage] < inputs[stage]:
                action, count = Action.backward_weight, weights
            else:
                continue
            work.append((slot, stage, Instruction(action, count[stage])))
            begun.append((count, stage))
        for count, stage in begun:  # after all have chosen: what ends in a slot serves the next
            count[stage] += 1
        slot += 1
    return _columns(stages, work)


@lru_cache(maxsize=8)
def _interleaved(stages: int, micro_batches: int, count: int) -> _Columns:
    passes = count * micro_batches
    lists: list[list[Instruction]] = []
    for stage in range(stages):
        forwards, backwards = [], []
        for k in range(passes):
            group, rest = divmod(k, stages * count)
            chunk, micro_batch = rest // stages, group * stages + rest % stages
            forwards.append(Instruction(Action.forward, micro_batch, chunk))
            backwards.append(Instruction(Action.backward, micro_batch, count - 1 - chunk))
        warm = min(passes, 2 * (stages - stage - 1) + (count - 1) * stages)
        pairs = zip(forwards[warm:], backwards, strict=False)
        alternating = [item for pair in pairs for item in pair]
        lists.append(forwards[:warm] + alternating + backwards[passes - warm :])
    # Each pass in the first slot after the passes that it needs.
    done: dict[tuple[Action, int, int], int] = {}
    work: list[_Work] = []
    last, slot = stages * count - 1, 0
    at = [0] * stages
    while len(work) < 2 * passes * stages:
        for stage in range(stages):
            if at[stage] == len(lists[stage]):
                continue
            item = lists[stage][at[stage]]
            place = item.chunk * stages + stage
            forward = item.action is Action.forward
            if place == (0 if forward else last):
                needs = None if forward else (Action.forward, item.micro_batch, place)
            else:
                needs = (item.action, item.micro_batch, place - 1 if forward else place + 1)
            if needs is None or done.get(needs, slot) < slot:
                done[item.action, item.micro_batch, place] = slot
                work.append((slot, stage, item))
                at[stage] += 1
        slot += 1
    return _columns(stages, work, count)


def _columns(stages: int, work: Iterable[_Work], count: int = 1) -> _Columns:
    """Each stage's list, from what it computes in which slot: the messages put between.

    A message stands at the border before the slot that needs it. At a border, pairs of stages whose
    first is even exchange before the others, so that no chain of messages runs along the pipeline,
    and a pair passes its gradient before its activation, as DeepSpeed does.
    """
    events: list[tuple[tuple[int, ...], list[tuple[int, Instruction]]]] = []
    made: dict[tuple[Action, int, int], int] = {}
    for slot, stage, item in work:
        k, place = item.micro_batch, item.chunk * stages + stage
        compute = [item]
        forward = item.action is Action.forward
        made[Action.send_activation if forward else Action.send_gradient, k, place] = slot
        if forward and place in (0, stages * count - 1):
            compute.insert(0, Instruction(Action.load, k, item.chunk))  # tokens, labels
        events.append(((slot, 1), [(stage, each) for each in compute]))
        if forward and place > 0:
            sends, receives = Action.send_activation, Action.receive_activation
            sender, later, chunk = (stage - 1) % stages, 1, (place - 1) // stages
            first = sender
        elif (
            not forward and item.action is not Action.backward_weight and place < stages * count - 1
        ):
            sends, receives = Action.send_gradient, Action.receive_gradient
            sender, later, chunk = (stage + 1) % stages, 0, item.chunk
            first = stage
        else:
            continue
        message = [
            (sender, Instruction(sends, k, chunk)),
            (stage, Instruction(receives, k, chunk)),
        ]
        if count > 1:  # sent when it is made; the receiver may need it many slots later
            since = made[sends, k, place - 1 if forward else place + 1] + 1
            events.append(((since, 0, first % 2, later, first), message[:1]))
            message = message[1:]
        events.append(((slot, 0, first % 2, later, first), message))
    columns: list[list[Instruction]] = [[] for _ in range(stages)]
    for _, event in sorted(events, key=lambda event: event[0]):
        for stage, item in event:
            columns[stage].append(item)
    end = [Instruction(Action.reduce_gradients), Instruction(Action.optimizer)]
    return tuple(tuple(column + end) for column in columns)


def _check(stages: int, micro_batches: int, stage: int) -> None:
    if stages < 1 or micro_batches < 1:
        raise ValueError(f"stages = {stages}, micro_batches = {micro_batches}: both are at least 1")
    if not 0 <= stage < stages:
        raise ValueError(f"stage {stage} is not one of {stages} stages")
