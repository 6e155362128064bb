"""DeepSpeed's pipeline instructions with a recorder around each: where a rank's step goes.

The engine looks an instruction's method up in `_INSTRUCTION_MAP` by its exact type.
`RecordedEngine` replaces that table by one whose methods open a span and call the engine's own; the
arithmetic and the order of communication stay DeepSpeed's. DeepSpeed's timers stay off: they crash
the pipeline engine of 0.19.8 and synchronise the device.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import deepspeed.comm
import torch
import torch.utils.checkpoint
from deepspeed.runtime.pipe import schedule
from deepspeed.runtime.pipe.engine import PipelineEngine

from alpenglow.model.documents import Documents
from alpenglow.train.reduction import GradientReduction
from alpenglow_profiling.kind import ACTIVATION, GRADIENT, Kind
from alpenglow_profiling.span_recorder import NullRecorder, SpanRecorder

Method = Callable[..., Any]


def tensor_bytes(value: Any) -> int:
    """Bytes of a tensor or of the floating-point tensors of a tuple; 0 of anything else."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, tuple | list):
        return sum(tensor_bytes(item) for item in value if item.is_floating_point())
    return 0


def compute(kind: Kind, method: Method) -> Method:
    """A span around an instruction that works on one micro-batch."""

    def run(engine: RecordedEngine, **arguments: Any) -> None:
        micro_batch = engine.next_micro_batch(method.__name__)
        if engine.documents is not None and kind in (Kind.FORWARD, Kind.BACKWARD):
            engine.documents.select(micro_batch)  # backward too: recomputation runs the layers
        if kind in (Kind.BACKWARD, Kind.WEIGHT_GRAD) and engine.reduction is not None:
            engine.reduction.last = micro_batch == engine.micro_batches - 1
        with engine.recorder.span(kind, micro_batch=micro_batch):
            method(engine, **arguments)

    return run


def _transfer(
    method: Method, peer: Callable[[Any], int], moved: Callable[[Any, int], Any], group: int
) -> Method:
    """A span around a send or receive; `group` says what moves (see `Kind.P2P`).

    What was received is known only afterwards, and what was sent is freed by the send, so bytes are
    counted on both sides of the call.
    """

    def run(engine: RecordedEngine, buffer_id: int) -> None:
        micro_batch = engine.next_micro_batch(method.__name__)
        other = engine.grid.stage_to_global(peer(engine))
        before = tensor_bytes(moved(engine, buffer_id))
        with engine.recorder.span(
            Kind.P2P, micro_batch=micro_batch, bytes=before, group=group, peer=other
        ) as span:
            method(engine, buffer_id=buffer_id)
            if not before:
                span.bytes = tensor_bytes(moved(engine, buffer_id))

    return run


def _reduce(method: Method, needed: Callable[[Any], bool]) -> Method:
    """A span around a reduction, unless there is nothing to reduce over."""

    def run(engine: RecordedEngine) -> None:
        if not needed(engine):
            method(engine)
            return
        with engine.recorder.span(Kind.GRADIENT_REDUCE, bytes=engine.gradient_bytes):
            method(engine)

    return run


def _reduce_gradients(engine: RecordedEngine) -> None:
    """Sum over the replicas: what is left of our own reduction, or DeepSpeed's."""
    if engine.reduction is None:
        PipelineEngine._exec_reduce_grads(engine)
    else:
        engine.reduction.finish()


def _reduce_tied_gradients(engine: RecordedEngine) -> None:
    """Sum a tied weight's gradients over its copies, wherever the precision keeps them."""
    if not getattr(engine.optimizer, "use_grad_accum_attribute", False):
        PipelineEngine._exec_reduce_tied_grads(engine)
        return
    for weight, group in engine.module.get_tied_weights_and_groups():
        if weight.grad_accum is not None:
            deepspeed.comm.all_reduce(weight.grad_accum, group=group)


def _optimizer(method: Method) -> Method:
    def run(engine: RecordedEngine) -> None:
        with engine.recorder.span(Kind.OPTIMIZER):
            method(engine)

    return run


class RecordedEngine(PipelineEngine):
    """The pipeline engine with spans; made by `record`, never constructed."""

    recorder: SpanRecorder
    reduction: GradientReduction | None
    gradient_bytes: int
    """Of one gradient of every parameter, as the optimizer gets it."""
    counts: Counter[str]
    documents: Documents | None
    """Shared by the layers, which keep to documents then; told which micro-batch they work on."""

    def next_micro_batch(self, name: str) -> int:
        """Number, within this step, of the micro-batch that instruction `name` works on now."""
        self.counts[name] += 1
        return self.counts[name] - 1

    def _exec_schedule(self, pipe_schedule: Any) -> None:
        self.counts = Counter()
        super()._exec_schedule(pipe_schedule)

    _INSTRUCTION_MAP = {  # noqa: RUF012 - DeepSpeed's class attribute
        schedule.OptimizerStep: _optimizer(PipelineEngine._exec_optimizer_step),
        schedule.ReduceGrads: _reduce(_reduce_gradients, lambda engine: engine.is_data_parallel),
        schedule.ReduceTiedGrads: _reduce(
            _reduce_tied_gradients, lambda engine: bool(engine.module.tied_comms)
        ),
        schedule.LoadMicroBatch: compute(Kind.DATA_WAIT, PipelineEngine._exec_load_micro_batch),
        schedule.ForwardPass: compute(Kind.FORWARD, PipelineEngine._exec_forward_pass),
        schedule.BackwardPass: compute(Kind.BACKWARD, PipelineEngine._exec_backward_pass),
        schedule.SendActivation: _transfer(
            PipelineEngine._exec_send_activations,
            lambda engine: engine.next_stage,
            lambda engine, i: engine.pipe_buffers["outputs"][i],
            ACTIVATION,
        ),
        schedule.RecvActivation: _transfer(
            PipelineEngine._exec_recv_activations,
            lambda engine: engine.prev_stage,
            lambda engine, i: engine.pipe_recv_buf,
            ACTIVATION,
        ),
        schedule.SendGrad: _transfer(
            PipelineEngine._exec_send_grads,
            lambda engine: engine.prev_stage,
            lambda engine, i: engine.pipe_buffers["inputs"][i],
            GRADIENT,
        ),
        schedule.RecvGrad: _transfer(
            PipelineEngine._exec_recv_grads,
            lambda engine: engine.next_stage,
            lambda engine, i: engine.grad_layer,
            GRADIENT,
        ),
    }


def record(
    engine: PipelineEngine, recorder: SpanRecorder, kind: type[RecordedEngine] = RecordedEngine
) -> RecordedEngine:
    """Make a pipeline engine record its instructions from its next step on.

    Args:
        engine: as `deepspeed.initialize` made it.
        recorder: gets the spans.
        kind: the class that it becomes.
    """
    # DeepSpeed builds the engine itself in `initialize`, so its class is changed afterwards; the
    # subclass adds methods and plain attributes only.
    engine.__class__ = kind
    recorded: RecordedEngine = engine
    recorded.recorder = recorder
    recorded.reduction = None
    recorded.counts = Counter()
    recorded.documents = None
    recorded.gradient_bytes = sum(
        parameter.numel() * parameter.element_size()
        for parameter in engine.module.parameters()
        if parameter.requires_grad
    )
    return recorded


class Recomputation:
    """Activation checkpointing of a block of layers, with a span around what is done again.

    Torch's non-reentrant form: the reentrant one needs inputs that require gradients, which the
    first stage's token ids cannot.
    """

    def __init__(self, recorder: SpanRecorder | None = None) -> None:
        self.recorder: SpanRecorder = recorder or NullRecorder()

    def __call__(self, function: Method, *inputs: Any) -> Any:
        """Run `function(*inputs)` and keep only its inputs for the backward pass."""
        done = False

        def run(*arguments: Any) -> Any:
            nonlocal done
            if not done:
                done = True
                return function(*arguments)
            with self.recorder.span(Kind.RECOMPUTE):
                return function(*arguments)

        # No dropout in this architecture, so there is no random state to bring back.
        return torch.utils.checkpoint.checkpoint(
            run, *inputs, use_reentrant=False, preserve_rng_state=False
        )
