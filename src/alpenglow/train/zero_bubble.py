"""ZB-H1 on DeepSpeed's pipeline engine: backward passes in two, in the order of our own schedule.

    engine = split(record(engine, recorder, ZeroBubbleEngine), group)

The order is alpenglow.parallel.schedule's, the split alpenglow.parallel.weight_gradients'. The
input pass is the stock backward pass, in which the layers leave their weight gradients for later;
messages, reductions, optimizer and evaluation are the stock ones too. Sends block as DeepSpeed's
do: the order of messages is one for both ends of each pair, so gloo and NCCL need no more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from deepspeed.runtime.bf16_optimizer import BF16_Optimizer
from deepspeed.runtime.pipe import schedule
from deepspeed.runtime.pipe.engine import PipelineEngine
from torch import Tensor, nn

from alpenglow.parallel.schedule import Action, Instruction, zero_bubble_h1
from alpenglow.parallel.tensor import TensorGroup
from alpenglow.parallel.weight_gradients import Deliver, WeightGradients
from alpenglow.train.failure import TrainingError
from alpenglow.train.instructions import RecordedEngine, compute
from alpenglow_profiling.kind import Kind


class BackwardInput(schedule.BufferOpInstruction):
    """Gradient of a micro-batch's input, and of what the layers do not split."""


class BackwardWeight(schedule.PipeInstruction):
    """Weight gradients of the oldest micro-batch that has none yet."""


_INSTRUCTIONS: dict[Action, Callable[[int], Any]] = {
    Action.load: schedule.LoadMicroBatch,
    Action.receive_activation: schedule.RecvActivation,
    Action.forward: schedule.ForwardPass,
    Action.send_activation: schedule.SendActivation,
    Action.receive_gradient: schedule.RecvGrad,
    Action.backward_input: BackwardInput,
    Action.send_gradient: schedule.SendGrad,
}


class ZeroBubbleSchedule(schedule.PipeSchedule):
    """`zero_bubble_h1` as DeepSpeed's instructions."""

    def __init__(self, micro_batches: int, stages: int, stage_id: int) -> None:
        super().__init__(micro_batches, stages, stage_id)
        self.plan = zero_bubble_h1(stages, micro_batches, stage_id)
        self.buffers = buffers(self.plan, first=stage_id == 0)

    def num_pipe_buffers(self) -> int:
        """Buffers for micro-batches between their input's arrival and its gradient's departure."""
        return self.buffers

    def steps(self) -> Iterator[list[Any]]:
        """Yield one instruction after another."""
        for item in self.plan:
            if item.action is Action.backward_weight:
                yield [BackwardWeight()]
            elif item.action is Action.reduce_gradients:
                yield [schedule.ReduceTiedGrads(), schedule.ReduceGrads()]
            elif item.action is Action.optimizer:
                yield [schedule.OptimizerStep()]
            else:
                yield [_INSTRUCTIONS[item.action](self._buffer_idx(item.micro_batch))]


def buffers(plan: list[Instruction], *, first: bool) -> int:
    """Count the micro-batches that a stage's buffers must hold at once, at least DeepSpeed's two.

    Weight gradients need no buffer; the gradient of the input waits in one until it is sent.
    """
    begin = Action.load if first else Action.receive_activation
    end = Action.backward_input if first else Action.send_gradient
    held = most = 0
    for item in plan:
        held += (item.action is begin) - (item.action is end)
        most = max(most, held)
    return max(2, most)


class ZeroBubbleEngine(RecordedEngine):
    """The pipeline engine under ZB-H1; made by `record` and `split`, never constructed."""

    weight_gradients: WeightGradients
    deliver: Deliver
    grad_layer: Any

    def _train_schedule(self) -> ZeroBubbleSchedule:
        self.weight_gradients.clear()  # an earlier step may have been broken off
        return ZeroBubbleSchedule(self.micro_batches, self.num_stages, self.stage_id)

    def _exec_backward_input(self, buffer_id: int) -> None:
        self.weight_gradients.open()
        received = self.grad_layer
        # The receive buffer is one, and a layer may keep the gradient that it holds.
        if isinstance(received, Tensor):
            self.grad_layer = received.clone()
        elif received is not None and not self.is_grad_partitioned:
            self.grad_layer = [part.clone() for part in received]
        PipelineEngine._exec_backward_pass(self, buffer_id)
        self.grad_layer = received

    def _exec_backward_weight(self) -> None:
        self.weight_gradients.run(self._deliver)

    def _deliver(self, parameter: nn.Parameter, gradient: Tensor) -> None:
        self.deliver(parameter, gradient)
        if self.reduction is not None:  # no autograd hook tells it
            self.reduction.ready(parameter)

    _INSTRUCTION_MAP = {  # noqa: RUF012 - DeepSpeed's class attribute
        **RecordedEngine._INSTRUCTION_MAP,
        BackwardInput: compute(Kind.BACKWARD, _exec_backward_input),
        BackwardWeight: compute(Kind.WEIGHT_GRAD, _exec_backward_weight),
    }


def split(engine: ZeroBubbleEngine, group: TensorGroup) -> ZeroBubbleEngine:
    """Let the layers of `group` leave their weight gradients to the engine's weight passes."""
    engine.weight_gradients = group.weight_gradients = WeightGradients()
    engine.deliver = _delivery(engine.optimizer)
    return engine


def _delivery(optimizer: Any) -> Deliver:
    """How a gradient that no autograd hook saw reaches the optimizer's accumulator.

    DeepSpeed has three: fp32 buffers of its bf16 optimizer, an fp32 attribute beside the gradient
    in ZeRO with separate accumulation, and the gradient itself.
    """
    if isinstance(optimizer, BF16_Optimizer):
        if optimizer.immediate_grad_update:
            raise TrainingError("zb-h1 does not go with bf16.immediate_grad_update")
        places = {
            parameter: (i, j)
            for i, group in enumerate(optimizer.bf16_groups)
            for j, parameter in enumerate(group)
        }

        def add_to_buffer(parameter: nn.Parameter, gradient: Tensor) -> None:
            parameter.grad = gradient
            optimizer._update_hp_grad(parameter, *places[parameter], False)
            parameter.grad = None

        return add_to_buffer
    if optimizer.use_grad_accum_attribute:

        def add_to_attribute(parameter: nn.Parameter, gradient: Tensor) -> None:
            parameter.grad = gradient
            optimizer._fill_param_grad_accum_attribute(parameter)

        return add_to_attribute

    def add_to_gradient(parameter: nn.Parameter, gradient: Tensor) -> None:
        if parameter.grad is None:
            parameter.grad = gradient
        else:
            parameter.grad.add_(gradient)

    return add_to_gradient
