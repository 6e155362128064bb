"""One training step of ranks that are processes on a few shared cores, played event by event.

Torch-free. Parts are those of `alpenglow.parallel.step_parts`, their order the schedule's own, and
cores are shared as `alpenglow.parallel.shared_cores` has it. On such a computer nothing runs beside
a rank: what the host needs and what the products need adds up (a machine file of CPU ranks has both
in `kernel_seconds`), messages block, and every transfer is work of cores, the ranks' own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable
from dataclasses import dataclass

from alpenglow.parallel.layer_cost import Pass
from alpenglow.parallel.replay import Event, program
from alpenglow.parallel.schedule import Action
from alpenglow.parallel.shared_cores import Compute, Meet, Task, play
from alpenglow.parallel.step_parts import StepParts

PASSES = ("forward", "backward", "weights")
Label = tuple[str, int]
"""Part and stage."""


@dataclass(frozen=True)
class SharedStep:
    """A step as it was played; seconds."""

    seconds: float
    parts: dict[Label, float]
    """Mean of each part by stage, of one micro-batch where it has many: ranks and micro-batches
    averaged, waits left out, as long as it takes while others run."""
    work: float
    """Seconds of cores that all ranks together need."""


def play_step(
    parts: StepParts, cores: int, *, beside: float = 1.0, rest: float = 0.0, updates: float = 1.0
) -> SharedStep:
    """Play a step.

    Args:
        parts: of the step.
        cores: that its ranks share.
        beside: speed of a core while all are busy, that of one alone being 1.
        rest: seconds of each rank that are none of the parts.
        updates: the optimizer's work is so many times as long.
    """
    layout = parts.layout
    ranks: list[list[Task]] = [[] for _ in range(layout.world)]
    last = _last_passes(parts)
    for event in program(parts.schedule, layout.pipeline, parts.work.micro_batches):
        for data in range(layout.data):
            if event.other >= 0:
                _message(ranks, parts, event, data)
            else:
                _pass(ranks, parts, event, data, last[event.stage] == event)
    everyone = tuple(range(layout.world))
    for rank in everyone:
        stage, _, tensor = layout.coordinates(rank)
        group = tuple(layout.rank(stage, data, tensor) for data in range(layout.data))
        if layout.data > 1:
            key = ("reduction", stage, tensor)
            ranks[rank].append(Meet(key, group, parts.exposed[stage], ("reduction", stage)))
        ranks[rank].append(Meet("update", everyone))
        ranks[rank].append(Compute(updates * parts.update[stage], ("optimizer", stage)))
        gather = ("gather", stage, tensor)
        ranks[rank].append(Meet(gather, group, parts.gather[stage], ("optimizer", stage)))
        ranks[rank].append(Compute(rest, ("rest", 0)))
        ranks[rank].append(Meet("end", everyone))

    spent: dict[Hashable, float] = defaultdict(float)

    def noted(rank: int, task: Task, came: float, began: float, end: float) -> None:
        if task.label is not None:
            spent[task.label] += end - began

    played = play(ranks, cores, beside=beside, noted=noted)
    count = dict.fromkeys(range(layout.pipeline), layout.tensor * layout.data)
    each: dict[Label, float] = {}
    for label, seconds in spent.items():
        if not isinstance(label, tuple):
            continue
        kind, stage = label
        many = count[stage] if kind != "rest" else layout.world
        if kind == "message":
            many *= 4  # both ends, and both ways
        if kind not in ("reduction", "optimizer", "rest"):
            many *= parts.work.micro_batches
        each[kind, stage] = seconds / many
    return SharedStep(played.seconds, each, played.work)


def _last_passes(parts: StepParts) -> list[Event]:
    """The pass of each stage in which its last gradients of weights are made."""
    layout = parts.layout
    found: dict[int, Event] = {}
    for event in program(parts.schedule, layout.pipeline, parts.work.micro_batches):
        if event.action in (Action.backward, Action.backward_weight):
            found[event.stage] = event
    return [found[stage] for stage in range(layout.pipeline)]


def _message(ranks: list[list[Task]], parts: StepParts, event: Event, data: int) -> None:
    layout = parts.layout
    border = min(event.stage, event.other)
    for tensor in range(layout.tensor):
        pair = (
            layout.rank(event.stage, data, tensor),
            layout.rank(event.other, data, tensor),
        )
        for rank in pair:
            task = Meet((event, data, tensor), pair, parts.hops[border], ("message", border))
            ranks[rank].append(task)


def _pass(ranks: list[list[Task]], parts: StepParts, event: Event, data: int, last: bool) -> None:
    layout, stage = parts.layout, event.stage
    of = parts.stages[stage]
    kind, own = {
        Action.forward: ("forward", of.forward),
        Action.backward: ("backward", of.backward),
        Action.backward_input: ("backward", of.recompute + of.inputs),
        Action.backward_weight: ("weights", of.weights),
    }[event.action]
    seconds, meetings = _local(own), 0
    if own.tensor > 0:
        meetings = parts.meetings(stage)[0 if kind == "forward" else 1]
    if last:
        # Reduced beside this pass: by the same cores, so it adds to it.
        seconds += parts.reduction[stage] - parts.exposed[stage]
    group = tuple(layout.rank(stage, data, tensor) for tensor in range(layout.tensor))
    for rank in group:
        tasks = ranks[rank]
        tasks.append(Compute(seconds / (meetings + 1), (kind, stage)))
        for number in range(meetings):
            key = (event, data, number)
            tasks.append(Meet(key, group, own.tensor / meetings, (f"{kind} tensor", stage)))
            tasks.append(Compute(seconds / (meetings + 1), (kind, stage)))


def _local(own: Pass) -> float:
    return own.products + own.kernels + own.host
