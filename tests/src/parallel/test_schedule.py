"""1F1B and GPipe as data: order, memory, bubble, and DeepSpeed's own schedule."""

import pytest

from alpenglow.parallel.schedule import (
    Action,
    Instruction,
    Schedule,
    bubble_fraction,
    gpipe,
    in_flight,
    one_forward_one_backward,
    timeline,
)

SIZES = [(1, 1), (1, 4), (2, 1), (2, 4), (4, 2), (4, 8), (12, 8), (6, 8), (3, 5)]


def computes(schedule: Schedule, stages: int, micro_batches: int, stage: int) -> list[Instruction]:
    wanted = (Action.forward, Action.backward)
    return [i for i in schedule(stages, micro_batches, stage) if i.action in wanted]


@pytest.mark.parametrize(("stages", "micro_batches"), SIZES)
def test_order_is_deepspeeds(stages: int, micro_batches: int) -> None:
    theirs = pytest.importorskip("deepspeed.runtime.pipe.schedule")
    for stage in range(stages):
        schedule = theirs.TrainSchedule(micro_batches, stages, stage)
        order = []
        for step, commands in enumerate(schedule.steps()):
            micro_batch, _ = schedule._step_to_micro_batch(step)
            for command in commands:
                if isinstance(command, theirs.ForwardPass):
                    order.append(Instruction(Action.forward, micro_batch))
                if isinstance(command, theirs.BackwardPass):
                    order.append(Instruction(Action.backward, micro_batch))
        assert computes(one_forward_one_backward, stages, micro_batches, stage) == order


@pytest.mark.parametrize("schedule", [one_forward_one_backward, gpipe])
@pytest.mark.parametrize(("stages", "micro_batches"), SIZES)
def test_bubble_is_the_formula(schedule: Schedule, stages: int, micro_batches: int) -> None:
    slots = timeline(schedule, stages, micro_batches, forward=1.0, backward=2.0)
    end = max(slot.end for slot in slots)
    assert end == pytest.approx(3.0 * (micro_batches + stages - 1))
    for stage in range(stages):
        busy = sum(slot.end - slot.begin for slot in slots if slot.stage == stage)
        assert 1 - busy / end == pytest.approx(bubble_fraction(stages, micro_batches))


@pytest.mark.parametrize(("stages", "micro_batches"), SIZES)
def test_each_message_is_sent_and_received(stages: int, micro_batches: int) -> None:
    for stage in range(stages - 1):
        here = one_forward_one_backward(stages, micro_batches, stage)
        after = one_forward_one_backward(stages, micro_batches, stage + 1)
        for sender, receiver, sent, received in (
            (here, after, Action.send_activation, Action.receive_activation),
            (after, here, Action.send_gradient, Action.receive_gradient),
        ):
            out = [i.micro_batch for i in sender if i.action is sent]
            assert out == [i.micro_batch for i in receiver if i.action is received]
            assert out == list(range(micro_batches))


@pytest.mark.parametrize(("stages", "micro_batches"), SIZES)
def test_activations_in_flight(stages: int, micro_batches: int) -> None:
    for stage in range(stages):
        alive = most = 0
        for item in computes(one_forward_one_backward, stages, micro_batches, stage):
            alive += 1 if item.action is Action.forward else -1
            most = max(most, alive)
        assert most == in_flight(stages, micro_batches, stage)


def test_published_7b_bubble() -> None:
    assert bubble_fraction(12, 8) == pytest.approx(11 / 19)
    assert bubble_fraction(1, 8) == 0


def test_transfers_lengthen_the_step() -> None:
    slow = timeline(one_forward_one_backward, 4, 8, transfer=0.5)
    quick = timeline(one_forward_one_backward, 4, 8)
    assert max(s.end for s in slow) > max(s.end for s in quick)


def test_a_schedule_that_waits_for_itself_is_refused() -> None:
    def backwards_first(stages: int, micro_batches: int, stage: int) -> list[Instruction]:
        return list(reversed(gpipe(stages, micro_batches, stage)))

    with pytest.raises(ValueError, match="deadlocks"):
        timeline(backwards_first, 2, 2)


@pytest.mark.parametrize(("stages", "micro_batches", "stage"), [(0, 1, 0), (2, 0, 0), (2, 2, 2)])
def test_impossible_sizes(stages: int, micro_batches: int, stage: int) -> None:
    with pytest.raises(ValueError, match=r"at least 1|not one of"):
        one_forward_one_backward(stages, micro_batches, stage)
