"""One rank of a rehearsal: DeepSpeed's engine with passes that last as long as they are said to.

Every instruction is the real one, on a layer so small that it takes no time worth speaking of; what
is left of a pass's modelled length is slept away. Messages, reductions and the optimizer's step are
real and as long as they are. `alpenglow.train.rehearsal` starts the ranks.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import io
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic_ns
from typing import Any

import deepspeed
import torch
import torch.distributed
from deepspeed.pipe import LayerSpec
from deepspeed.runtime.pipe import p2p, schedule
from deepspeed.runtime.pipe.engine import PipelineEngine
from deepspeed.runtime.pipe.topology import PipeModelDataParallelTopology
from torch import Tensor, nn

from alpenglow.parallel.layout import Layout
from alpenglow.parallel.schedule import Action
from alpenglow.parallel.tensor import ColumnParallelLinear, TensorGroup, VocabularyParallelEmbedding
from alpenglow.parallel.timeline import Durations
from alpenglow.train.engine import deepspeed_config, own_reduction
from alpenglow.train.instructions import RecordedEngine, compute, record
from alpenglow.train.no_compiler import without_compiler
from alpenglow.train.optimizer import build_optimizer
from alpenglow.train.recipe import PretrainRecipe
from alpenglow.train.run_directory import Metrics
from alpenglow.train.zero_bubble import BackwardInput, BackwardWeight, ZeroBubbleEngine, split
from alpenglow_profiling.events import Kind, Recorder

ROUNDS = 25
"""Exchanges by which the time of a message is measured."""
SETTLE_NS = 20_000
"""Step by which a rank shortens or lengthens its sleeps, to wake on time in the median."""
MOST_EARLY_NS = 3_000_000


@dataclass(frozen=True)
class Case:
    """What one rehearsal plays."""

    recipe: PretrainRecipe
    layout: Layout
    took: Durations
    """Lengths of the passes in seconds."""
    steps: int
    run: Path
    """Run directory of this rehearsal."""

    @property
    def schedule(self) -> str:
        """Name of the schedule."""
        return self.recipe.parallel.schedule


class WaitingLayer(ColumnParallelLinear):
    """One small product [width, width] with bias: something to pass on, to split and to reduce."""

    def __init__(self, width: int, group: TensorGroup) -> None:
        super().__init__(width, width, group)
        nn.init.eye_(self.weight)
        assert self.bias is not None
        nn.init.zeros_(self.bias)


class TokenLayer(VocabularyParallelEmbedding):
    """Tokens to the first activations, as in a model."""

    def __init__(self, vocabulary: int, width: int, group: TensorGroup) -> None:
        super().__init__(vocabulary, width, group)
        nn.init.normal_(self.weight, std=0.1)


class Clock:
    """Sleeps until a moment, and learns how late this machine wakes."""

    def __init__(self) -> None:
        self.early_ns = 0

    def sleep_until(self, moment_ns: int) -> None:
        """Return at `moment_ns` of `monotonic_ns`, as nearly as sleeping can."""
        left = moment_ns - monotonic_ns() - self.early_ns
        if left <= 0:
            return
        time.sleep(left / 1e9)
        late = monotonic_ns() > moment_ns
        self.early_ns += SETTLE_NS if late else -SETTLE_NS
        self.early_ns = min(max(self.early_ns, 0), MOST_EARLY_NS)


def paced(
    kind: type[RecordedEngine], clock: Clock, length_ns: Callable[[Action], int]
) -> type[RecordedEngine]:
    """A class like `kind` whose passes last `length_ns(action)`."""

    def wait(method: Callable[..., None], action: Action) -> Callable[..., None]:
        @functools.wraps(method)
        def run(engine: Any, **arguments: Any) -> None:
            end = monotonic_ns() + length_ns(action)
            method(engine, **arguments)
            clock.sleep_until(end)

        return run

    passes: dict[type, tuple[Kind, Callable[..., None], Action]] = {
        schedule.ForwardPass: (
            Kind.FORWARD,
            PipelineEngine._exec_forward_pass,
            Action.forward,
        ),
        schedule.BackwardPass: (
            Kind.BACKWARD,
            PipelineEngine._exec_backward_pass,
            Action.backward,
        ),
        BackwardInput: (
            Kind.BACKWARD,
            ZeroBubbleEngine._exec_backward_input,
            Action.backward_input,
        ),
        BackwardWeight: (
            Kind.WEIGHT_GRAD,
            ZeroBubbleEngine._exec_backward_weight,
            Action.backward_weight,
        ),
    }
    table = dict(kind._INSTRUCTION_MAP)
    for command, (of, method, action) in passes.items():
        if command in table:
            table[command] = compute(of, wait(method, action))
    return type(f"Paced{kind.__name__}", (kind,), {"_INSTRUCTION_MAP": table})


def build(case: Case, recorder: Recorder, clock: Clock) -> RecordedEngine:
    """Build this rank's stage of a rehearsal; collective."""
    recipe, layout = case.recipe, case.layout
    rank = torch.distributed.get_rank()
    stage, _, _ = layout.coordinates(rank)
    width = recipe.model.hidden_size
    with contextlib.redirect_stdout(io.StringIO()), without_compiler():
        group = TensorGroup.create(layout, rank, recorder, comm=deepspeed.comm)
        module = deepspeed.PipelineModule(
            layers=[
                LayerSpec(TokenLayer, recipe.model.vocab_size, width, group),
                *(LayerSpec(WaitingLayer, width, group) for _ in range(layout.pipeline)),
            ],
            loss_fn=_loss,
            topology=PipeModelDataParallelTopology(
                num_pp=layout.pipeline, num_mp=layout.tensor, num_dp=layout.data
            ),
            partition_method=f"type:{WaitingLayer.__name__}",
        )
        largest = width * (recipe.model.vocab_size + width + 1)
        inner, _, _, _ = deepspeed.initialize(
            model=module,
            optimizer=build_optimizer(module, recipe.optimizer, torch.device("cpu")),
            config=deepspeed_config(recipe, layout, "fp32", largest),
        )

    def length_ns(action: Action) -> int:
        return round(1e9 * case.took.of(action, stage))

    if case.schedule == "zb-h1":
        kind = paced(ZeroBubbleEngine, clock, length_ns)
        engine: RecordedEngine = split(record(inner, recorder, kind), group)
    else:
        engine = record(inner, recorder, paced(RecordedEngine, clock, length_ns))
    engine.reduction = own_reduction(engine, recipe)
    return engine


def _loss(outputs: Tensor, labels: Tensor) -> Tensor:
    return (outputs.mean(dim=-1) - labels).square().mean()


def message_s(engine: RecordedEngine, clock: Clock, pause_s: float) -> float:
    """Measure how long a message takes while all stages exchange; the same on every rank.

    Each round stands for a border of the schedule: all ranks wake at one moment (forked ranks share
    a clock), then pairs whose first stage is even exchange, then the others. The median over rounds
    and ranks counts.
    """
    width = next(engine.module.parameters()).shape[1]
    tensor, took = torch.zeros(1, width), []
    stage, last = engine.stage_id, engine.num_stages - 1
    torch.distributed.barrier()
    start = torch.tensor([monotonic_ns() + 50_000_000])
    torch.distributed.broadcast(start, 0)
    for number in range(ROUNDS):
        clock.sleep_until(int(start) + round(number * pause_s * 1e9))
        for parity in (0, 1):
            first = stage if stage % 2 == parity else stage - 1
            if first < 0 or first == last:
                continue
            begin = monotonic_ns()
            if stage == first:
                p2p.send(tensor, stage + 1)
            else:
                p2p.recv(tensor, stage - 1)
            took.append(monotonic_ns() - begin)
    everyone: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everyone, took[len(took) // 5 :])
    return float(statistics.median(t for each in everyone for t in each)) / 1e9


def rehearse(case: Case, segment: str, host: str, check: Callable[[float], str | None]) -> float:
    """Play a case on this rank; returns the measured time of a message in seconds.

    Args:
        case: what to play.
        segment: name of the segment in the run directory.
        host: name of this node.
        check: message time -> a sentence that refuses to go on, or None.

    Raises:
        ValueError: `check` refused; on every rank alike.
    """
    rank = torch.distributed.get_rank()
    begun = monotonic_ns()
    recorder = Recorder(case.run / "events" / segment, rank, host, world_size=case.layout.world)
    clock = Clock()
    try:
        engine = build(case, recorder, clock)
        took = case.took
        pause = min(took.of(a, engine.stage_id) for a in (Action.forward, Action.backward))
        message = message_s(engine, clock, max(0.02, pause / 2))
        refusal = check(message)
        if refusal is not None:
            raise ValueError(refusal)
        recorder.record(Kind.STARTUP, begun, monotonic_ns())
        _play(case, engine, recorder, segment, rank)
    finally:
        recorder.close()
    return message


def _play(case: Case, engine: RecordedEngine, recorder: Recorder, segment: str, rank: int) -> None:
    count = case.recipe.micro_batches(case.layout)
    batch = case.recipe.batch
    metrics = Metrics(case.run / "metrics.jsonl") if rank == 0 else None
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        for step in range(1, case.steps + 1):
            torch.distributed.barrier()  # a step begins on all stages together, as theory has it
            recorder.step = step
            begin = time.monotonic()
            if engine.reduction is not None:
                engine.reduction.begin()
            with recorder.span(Kind.STEP):
                loss = float(engine.train_batch(data_iter=_micro_batches(case, count)))
            seconds = time.monotonic() - begin
            if metrics is not None:
                metrics.append(
                    segment=segment,
                    step=step,
                    loss=loss,
                    tokens=step * batch.tokens_per_step,
                    lr=case.recipe.optimizer.lr,
                    grad_norm=float(engine.get_global_grad_norm()),
                    loss_scale=1.0,
                    step_time_s=round(seconds, 6),
                    tokens_per_s=round(batch.tokens_per_step / seconds, 1),
                    time=round(time.time(), 3),
                )
    finally:
        gc.enable()
        if metrics is not None:
            metrics.close()
        sys.stdout.flush()


def _micro_batches(case: Case, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    tokens = torch.zeros(1, case.recipe.batch.sequence_length, dtype=torch.int64)
    labels = torch.ones(1, case.recipe.batch.sequence_length)
    return iter([(tokens, labels)] * count)
