"""Schedules as data: order, messages, memory, and DeepSpeed's own schedule."""

import pytest

from alpenglow.parallel.schedule import (
    SCHEDULES,
    Action,
    Instruction,
    awaiting_weights,
    bubble_fraction,
    chunks,
    find,
    in_flight,
    one_forward_one_backward,
)

SIZES = [(1, 1), (1, 4), (2, 1), (2, 4), (4, 2), (4, 8), (12, 8), (6, 8), (3, 5)]
CLOSES = {"1f1b": Action.backward, "gpipe": Action.backward, "zb-h1": Action.backward_weight}


@pytest.mark.parametrize(("stages", "micro_batches"), SIZES)
def test_1f1b_is_deepspeeds_instruction_by_instruction(stages: int, micro_batches: int) -> None:
    theirs = pytest.importorskip("deepspeed.runtime.pipe.schedule")
    action = {
        theirs.LoadMicroBatch: Action.load,
        theirs.RecvActivation: Action.receive_activation,
        theirs.ForwardPass: Action.forward,
        theirs.SendActivation: Action.send_activation,
        theirs.RecvGrad: Action.receive_gradient,
        theirs.BackwardPass: Action.backward,
        theirs.SendGrad: Action.send_gradient,
        theirs.ReduceGrads: Action.reduce_gradients,
        theirs.OptimizerStep: Action.optimizer,
    }
    for stage in range(stages):
        commands = [c for step in theirs.TrainSchedule(micro_batches, stages, stage) for c in step]
        order = [action[type(c)] for c in commands if type(c) in action]
        ours = one_forward_one_backward(stages, micro_batches, stage)
        assert [item.action for item in ours] == order
        for kind in set(order):
            numbers = [item.micro_batch for item in ours if item.action is kind]
            assert numbers in (list(range(micro_batches)), [-1])


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("stages", "micro_batches"), SIZES)
def test_each_message_is_sent_and_received_in_one_order(
    name: str, stages: int, micro_batches: int
) -> None:
    """NCCL and gloo match the messages of a pair by their order."""
    down = {Action.send_activation: "activation", Action.receive_gradient: "gradient"}
    up = {Action.receive_activation: "activation", Action.send_gradient: "gradient"}
    for stage in range(stages - 1):
        one = SCHEDULES[name](stages, micro_batches, stage)
        other = SCHEDULES[name](stages, micro_batches, stage + 1)
        here = [(down[i.action], i.micro_batch) for i in one if i.action in down]
        assert here == [(up[i.action], i.micro_batch) for i in other if i.action in up]
        assert sorted(here) == sorted(
            (what, k) for what in ("activation", "gradient") for k in range(micro_batches)
        )


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("stages", "micro_batches"), [*SIZES, (12, 40), (16, 17), (16, 3), (7, 6)])
def test_activations_in_flight(name: str, stages: int, micro_batches: int) -> None:
    for stage in range(stages):
        alive = most = halfway = most_halfway = 0
        for item in SCHEDULES[name](stages, micro_batches, stage):
            alive += {Action.forward: 1, CLOSES[name]: -1}.get(item.action, 0)
            halfway += (item.action is Action.backward_input) - (
                item.action is Action.backward_weight
            )
            most, most_halfway = max(most, alive), max(most_halfway, halfway)
        assert alive == halfway == 0
        assert most == in_flight(stages, micro_batches, stage, name)
        assert most_halfway == awaiting_weights(stages, micro_batches, stage, name)


@pytest.mark.parametrize(("stages", "micro_batches"), SIZES)
def test_zero_bubble_fits_deepspeeds_buffers(stages: int, micro_batches: int) -> None:
    """A gradient is used before the next comes into the engine's one buffer; passes of a kind are
    in order; the last stage, whose loss is one variable, goes forward and backward by turns."""
    for stage in range(stages):
        items = SCHEDULES["zb-h1"](stages, micro_batches, stage)
        for kind in (Action.forward, Action.backward_input, Action.backward_weight):
            numbers = [item.micro_batch for item in items if item.action is kind]
            assert numbers == list(range(micro_batches))
        order = [item.action for item in items]
        shared = (Action.receive_activation, Action.receive_gradient, Action.backward_input)
        received = [action for action in order if action in shared]
        gradients = [action for action in received if action is not Action.receive_activation]
        if stage < stages - 1:
            assert gradients == [Action.receive_gradient, Action.backward_input] * micro_batches
            # DeepSpeed receives activations into the same buffer as gradients of their size.
            for place, action in enumerate(received[:-1]):
                if action is Action.receive_gradient:
                    assert received[place + 1] is Action.backward_input
        started = 0
        for action in order:
            started += {Action.forward: 1, Action.backward_input: -1}.get(action, 0)
            assert started <= stages - stage


def test_published_7b_bubble() -> None:
    assert bubble_fraction(12, 8) == pytest.approx(11 / 19)
    assert bubble_fraction(1, 8) == 0


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("stages", "micro_batches", "stage"), [(0, 1, 0), (2, 0, 0), (2, 2, 2)])
def test_impossible_sizes(name: str, stages: int, micro_batches: int, stage: int) -> None:
    with pytest.raises(ValueError, match=r"at least 1|not one of"):
        SCHEDULES[name](stages, micro_batches, stage)


def test_an_unknown_schedule_is_named() -> None:
    with pytest.raises(ValueError, match="'zb-v'; choose from 1f1b, gpipe, zb-h1"):
        in_flight(2, 2, 0, "zb-v")


def test_lists_are_copies() -> None:
    one_forward_one_backward(2, 2, 0).append(Instruction(Action.load))
    assert one_forward_one_backward(2, 2, 0)[-1] == Instruction(Action.optimizer)


@pytest.mark.parametrize(("stages", "micro_batches", "count"), [(2, 2, 2), (4, 8, 3), (3, 12, 4)])
def test_interleaved_runs_every_chunk_of_every_micro_batch_once(
    stages: int, micro_batches: int, count: int
) -> None:
    passes = {(k, chunk) for k in range(micro_batches) for chunk in range(count)}
    for stage in range(stages):
        items = find(f"interleaved-{count}")(stages, micro_batches, stage)
        for action in (Action.forward, Action.backward):
            done = [(i.micro_batch, i.chunk) for i in items if i.action is action]
            assert len(done) == len(passes) and set(done) == passes
        # Held: Narayanan et al. 2021, section 2.2.2, and Megatron-LM's warm-up.
        held = most = 0
        for item in items:
            held += (item.action is Action.forward) - (item.action is Action.backward)
            most = max(most, held)
        assert most == in_flight(stages, micro_batches, stage, f"interleaved-{count}")


def test_interleaved_messages_go_round() -> None:
    lists = [find("interleaved-2")(4, 4, stage) for stage in range(4)]
    ends = {
        kind: [sum(i.action is kind for i in items) for items in lists]
        for kind in (Action.send_activation, Action.receive_activation, Action.send_gradient)
    }
    # Two chunks of four micro-batches: the last chunk's output stays on the last stage.
    assert ends[Action.send_activation] == [8, 8, 8, 4]
    assert ends[Action.receive_activation] == [4, 8, 8, 8]
    assert ends[Action.send_gradient] == [4, 8, 8, 8]


def test_names_of_schedules() -> None:
    assert chunks("1f1b") == 1 and chunks("interleaved-12") == 12
    for name in ("interleaved", "interleaved-1", "interleaved-0", "interleaved-02", "2f2b"):
        with pytest.raises(ValueError, match="choose from"):
            find(name)
    with pytest.raises(ValueError, match="a multiple of them as micro-batches"):
        find("interleaved-2")(4, 6, 0)
