"""Evaluation between two steps, through the pipeline, on any layout.

DeepSpeed's `eval_batch` averages the losses of micro-batches, which is not the mean over tokens
where micro-batches count different numbers of labels; here sums and counts are added up in fp64
over micro-batches and replicas and divided once. Nothing that training reads is changed: weights,
gradients, optimizer, random state and counters stay, so a run is the same with and without.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed
from deepspeed.runtime.pipe.schedule import InferenceSchedule

from alpenglow.train.batches import MicroBatches
from alpenglow.train.engine import Engine
from alpenglow.train.failure import TrainingError
from alpenglow_profiling.events import NullRecorder


def evaluate(engine: Engine, micro_batches: MicroBatches, count: int) -> float:
    """Mean loss in nats over the labels that count, the same on every rank; collective.

    Args:
        engine: between two steps.
        micro_batches: this replica's.
        count: how many they are; the same on every rank.

    Raises:
        TrainingError: no label counts.
    """
    inner = engine.inner
    engine.load_documents(micro_batches)
    total = torch.zeros(2, dtype=torch.float64, device=inner.device)
    with _evaluating(engine), torch.no_grad():
        inner.set_dataiterator(micro_batches)
        inner._exec_schedule(InferenceSchedule(count, inner.num_stages, inner.stage_id))
        # All tensor ranks of the last stage have the same sums: one of them tells.
        if inner.is_last_stage() and engine.coordinates[2] == 0:
            total += torch.stack(inner.fwd_outputs).sum(dim=0)
    torch.distributed.all_reduce(total)
    loss, labels = total.tolist()
    if not labels:
        raise TrainingError("validation: no label counts; take more data.validation_samples")
    return float(loss / labels)


@contextmanager
def _evaluating(engine: Engine) -> Iterator[None]:
    """Sum losses instead of averaging them; put everything back as a training step left it."""
    inner, group = engine.inner, engine.group
    recorders = inner.recorder, group.recorder
    loss_fn, iterator = inner.module.loss_fn, inner.data_iterator
    total_loss, outputs = inner.total_loss, inner.fwd_outputs
    # The whole is one span of its own kind; the parts would count as training.
    inner.recorder = group.recorder = NullRecorder()
    inner.module.loss_fn = engine.loss_sum
    inner._compute_loss = True
    inner.total_loss = None
    inner.module.eval()
    try:
        yield
    finally:
        inner.module.train()
        inner.recorder, group.recorder = recorders
        inner.module.loss_fn = loss_fn
        inner.set_dataiterator(iterator)
        inner.total_loss, inner.fwd_outputs = total_loss, outputs
        # Activations of the last micro-batches would stay in memory during the next step.
        for buffers in inner.pipe_buffers.values():
            buffers[:] = [None] * len(buffers)
