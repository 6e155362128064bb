"""Schedules in time: no deadlock under blocking messages, and the bubble of the papers."""

import pytest

from alpenglow.parallel.schedule import (
    SCHEDULES,
    Action,
    Instruction,
    bubble_fraction,
    gpipe,
    one_forward_one_backward,
)
from alpenglow.parallel.timeline import Durations, bubble, timeline

STAGES = range(1, 17)
MICRO_BATCHES = range(1, 49)


@pytest.mark.parametrize("name", SCHEDULES)
def test_no_deadlock_and_the_length_of_the_papers(name: str) -> None:
    """Every p <= 16 and m <= 48, where a send ends only when the receiver has posted."""
    for p in STAGES:
        for m in MICRO_BATCHES:
            slots = timeline(name, p, m)  # raises where the lists wait for one another
            assert len(slots) == p * m * (3 if name == "zb-h1" else 2)
            unit = max(3 * m + p - 1, 2 * (m + p - 1) + 1) if name == "zb-h1" else 3 * (m + p - 1)
            assert slots[-1].end == max(slot.end for slot in slots) == unit


def causes(action: Action, stage: int, stages: int) -> list[tuple[int, Action]]:
    """The passes of the same micro-batch that must have ended before."""
    if action is Action.forward:
        return [(stage - 1, Action.forward)] if stage else []
    if action is Action.backward_weight:
        return [(stage, Action.backward_input)]
    after = [(stage + 1, action)] if stage < stages - 1 else []
    return [(stage, Action.forward), *after]


@pytest.mark.parametrize("rendezvous", [True, False])
@pytest.mark.parametrize("name", SCHEDULES)
def test_nothing_begins_before_its_cause(name: str, rendezvous: bool) -> None:
    """Unequal stages, messages that take time; a stage does one thing at once."""
    took = Durations((1.0, 1.5, 0.7, 2.0), (1.2, 1.9, 0.8, 2.0), (0.5, 1.0, 0.9, 1.0), 0.1)
    slots = timeline(name, 4, 6, took, rendezvous=rendezvous)
    ends = {(s.stage, s.action, s.micro_batch): s.end for s in slots}
    free = [0.0] * 4
    for slot in slots:
        assert slot.end == slot.begin + took.of(slot.action, slot.stage)
        assert slot.begin >= free[slot.stage]
        free[slot.stage] = slot.end
        for stage, action in causes(slot.action, slot.stage, 4):
            moved = 0.1 if stage != slot.stage else 0.0
            assert slot.begin >= ends[stage, action, slot.micro_batch] + moved - 1e-12


@pytest.mark.parametrize("name", ["1f1b", "gpipe"])
@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.0])
@pytest.mark.parametrize(("stages", "micro_batches"), [(1, 4), (2, 4), (4, 2), (12, 8), (6, 8)])
def test_bubble_is_the_formula(name: str, ratio: float, stages: int, micro_batches: int) -> None:
    """For any ratio of backward to forward."""
    took = Durations(1.0, ratio, ratio)
    formula = bubble_fraction(stages, micro_batches)
    assert bubble(name, stages, micro_batches, took) == pytest.approx(formula)


@pytest.mark.parametrize(
    ("stages", "micro_batches", "theirs", "ours"),
    [(12, 8, 57.9, 38.5), (12, 16, 40.7, 18.6), (6, 8, 38.5, 17.2)],
)
def test_zero_bubble_beside_1f1b(
    stages: int, micro_batches: int, theirs: float, ours: float
) -> None:
    """Per cent, passes of one length."""
    assert 100 * bubble("1f1b", stages, micro_batches) == pytest.approx(theirs, abs=0.05)
    assert 100 * bubble("zb-h1", stages, micro_batches) == pytest.approx(ours, abs=0.05)


@pytest.mark.parametrize("passes", [(1.0, 1.2, 0.8), (1.0, 2.0, 1.0), (2.0, 1.0, 1.0)])
@pytest.mark.parametrize(("stages", "micro_batches"), [(4, 16), (12, 12), (12, 24)])
def test_zero_bubble_of_the_paper(
    passes: tuple[float, float, float], stages: int, micro_batches: int
) -> None:
    """Qi et al. 2023, table 1: ZB-H1 idles (p - 1)(F + B - W), where W is no longer than F."""
    forward, inputs, weights = passes
    end = max(s.end for s in timeline("zb-h1", stages, micro_batches, Durations(*passes)))
    idle = (stages - 1) * (forward + inputs - weights)
    assert end == pytest.approx(micro_batches * sum(passes) + idle)


def test_messages_lengthen_the_step() -> None:
    for name in SCHEDULES:
        lengths = [
            timeline(name, 4, 8, Durations(transfer=0.2), rendezvous=rendezvous)[-1].end
            for rendezvous in (True, False)
        ]
        assert lengths[0] >= lengths[1] > timeline(name, 4, 8)[-1].end


def test_a_backward_needs_its_forward() -> None:
    def backwards_first(stages: int, micro_batches: int, stage: int) -> list[Instruction]:
        return list(reversed(gpipe(stages, micro_batches, stage)))

    with pytest.raises(ValueError, match="stage 0: backward of micro-batch 0 before its forward"):
        timeline(backwards_first, 2, 2)


def test_sends_at_once_deadlock_only_when_they_block() -> None:
    """1F1B with each message sent as soon as it is there: why the order of messages matters."""

    def eager(stages: int, micro_batches: int, stage: int) -> list[Instruction]:
        sends = {Action.forward: Action.send_activation, Action.backward: Action.send_gradient}
        last = {Action.forward: stages - 1, Action.backward: 0}
        items: list[Instruction] = []
        for item in one_forward_one_backward(stages, micro_batches, stage):
            if item.action in sends.values():
                continue
            items.append(item)
            if item.action in sends and stage != last[item.action]:
                items.append(Instruction(sends[item.action], item.micro_batch))
        return items

    assert timeline(eager, 4, 8, rendezvous=False)[-1].end == 33
    with pytest.raises(ValueError, match="deadlocks"):
        timeline(eager, 4, 8)
