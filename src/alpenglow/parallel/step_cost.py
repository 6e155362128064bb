"""Seconds of one training step of a layout on a machine, part by part.

Torch-free. What a micro-batch costs a stage comes from alpenglow.parallel.layer_cost, how passes
follow one another from alpenglow.parallel.pipeline_time (the schedules themselves), what a rank
must hold from alpenglow.parallel.memory. This module adds what a step has once: the reduction
of gradients, the optimizer, the embedding that first and last stage share. One replica stands for
all that lie alike on their nodes; where they do not (Summit's third pair of GPUs straddles the
sockets), of each stage the slowest kind counts, since its reduction waits for all.

    cost = step_cost(model, layout, work, machine.load("summit"))
    cost.seconds, cost.model_flops, cost.parts()

The step ends when the slowest stage has reduced its gradients, all know the gradients' norm and the
largest optimizer has run. Jitter and slow ranks are in alpenglow.parallel.simulation, reading of
data is in neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from alpenglow.parallel import kernels
from alpenglow.parallel.collectives import Span, all_gather, all_reduce, reduce_scatter
from alpenglow.parallel.framework import DEEPSPEED, Framework
from alpenglow.parallel.hardware import Gpu, Hardware
from alpenglow.parallel.kernels import Kernels
from alpenglow.parallel.layer_cost import (
    Passes,
    beside,
    embedding_passes,
    head_passes,
    layer_passes,
)
from alpenglow.parallel.layout import Layout
from alpenglow.parallel.memory import StageMemory, stage_parameters, stages_memory
from alpenglow.parallel.pipeline_time import StageSeconds, finish
from alpenglow.parallel.schedule import chunks
from alpenglow.parallel.spans import data_span, ends_span, hop_seconds, patterns
from alpenglow.parallel.split import layer_flops
from alpenglow.parallel.work import Sizes, Work
from alpenglow_lsf.machine import Machine

EXCHANGE_OPERATIONS = 4
"""Operations that the host starts for a message once its queue has run empty."""


@dataclass(frozen=True)
class Replica:
    """How the replicas of one kind compute."""

    stages: tuple[Passes, ...]
    """One micro-batch on each stage."""
    hops: tuple[float, ...]
    """Seconds of a message from each stage to the next, and from the last to the first."""


@dataclass(frozen=True)
class StageEnd:
    """What a step has once, for one stage; seconds."""

    reduce: float
    """Reduction of its gradients, from its begin to its end."""
    behind: float
    """What of it comes behind the last pass, however long that takes; all of it where the two do
    not overlap."""
    update: float
    """Norm, and the update of a rank's share."""
    gather: float
    """Gathering of the weights, under ZeRO-1."""


@dataclass(frozen=True)
class StepCost:
    """What one step takes; seconds, and shares of the GPUs' peak."""

    model: Sizes
    layout: Layout
    work: Work
    hardware: Hardware
    seconds: float
    stages: tuple[Passes, ...]
    """One micro-batch on each stage of the slowest replica."""
    p2p: float
    """What messages add to the step."""
    bubble: float
    """What the slowest stage waits because the pipeline fills and drains."""
    reduction: float
    """Gradients' reduction, and the tied embedding's, as far as nothing hides it."""
    optimizer: float
    """Norm, update and, under ZeRO-1, the gathering of weights."""
    how: Framework
    replicas: tuple[Replica, ...]
    """Of the first replicas, after which kinds repeat: replica d is as number d % len."""
    ends: tuple[StageEnd, ...]
    """Of each stage."""
    tied: float
    """Sum of a tied embedding's gradients."""

    @property
    def tokens(self) -> int:
        """Tokens of a step, all replicas together."""
        return self.work.tokens * self.work.micro_batches * self.layout.data

    @property
    def tokens_per_second(self) -> float:
        """Of all replicas together."""
        return self.tokens / self.seconds

    @property
    def model_flops(self) -> float:
        """Model FLOP/s a GPU: 72 l h^2 (1 + s/6h + V/12lh) a token, whatever is computed again."""
        return self._flops(3.0, 0.0, 3.0) / self.seconds

    @property
    def hardware_flops(self) -> float:
        """FLOP/s a GPU with what is computed again.

        Under full recompute 96 B s l h^2 (1 + s/6h + V/16lh) a step (Narayanan et al. 2021,
        equation 3), under selective recompute the attention core a fourth time (Korthikanti et al.
        2022, equation 9).
        """
        again = {"full": (1.0, 1.0), "selective": (0.0, 1.0), "none": (0.0, 0.0)}
        linear, core = again[self.work.recompute]
        if self.work.attention != "plain":
            core = linear
        return self._flops(3 + linear, core - linear, 3.0) / self.seconds

    @property
    def mfu(self) -> float:
        """Model FLOP/s over the peak."""
        return self.model_flops / self.hardware.peak

    @property
    def hfu(self) -> float:
        """FLOP/s with recompute over the peak."""
        return self.hardware_flops / self.hardware.peak

    def _flops(self, layers: float, core: float, head: float) -> float:
        """FLOPs a GPU and step: times that layers, the core beyond them, and the head count."""
        m, s = self.model, self.work.sequence_length
        attention = 4.0 * s * m.hidden_size
        token = m.num_layers * (layers * layer_flops(m, s) + core * attention)
        token += head * 2 * m.hidden_size * m.vocab_size
        return token * self.tokens / self.layout.world

    @property
    def slowest(self) -> Passes:
        """The stage that computes longest."""
        return max(self.stages, key=_seconds)

    def parts(self) -> dict[str, float]:
        """Part -> seconds of the step along its slowest stage; they sum to `seconds`.

        Matrix products forward, of the input's and of the weights' gradient; recompute, with its
        collectives; kernels; what the host adds; tensor collectives; messages; bubble; reduction;
        optimizer.
        """
        one, m = self.slowest, self.work.micro_batches
        live = one.forward + one.inputs + one.weights
        return {
            "products forward": m * one.forward.products,
            "products of input gradients": m * one.inputs.products,
            "products of weight gradients": m * one.weights.products,
            "kernels": m * live.kernels,
            "host": m * live.host,
            "tensor collectives": m * live.tensor,
            "recompute": m * one.recompute.seconds,
            "p2p": self.p2p,
            "bubble": self.bubble,
            "gradient reduction": self.reduction,
            "optimizer": self.optimizer,
        }

    @property
    def memory(self) -> list[StageMemory]:
        """What a rank of each stage needs."""
        return stages_memory(self.model, self.layout, self.work)

    @property
    def fits(self) -> bool:
        """Whether every stage's need is within a GPU's memory."""
        return max(each.total for each in self.memory) <= self.hardware.memory_bytes

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the machine file lacked, and what was taken instead; the framework's note."""
        return (*self.hardware.warnings, *((self.how.note,) if self.how.note else ()))


def step_cost(
    model: Sizes,
    layout: Layout,
    work: Work,
    machine: Machine | Hardware,
    how: Framework = DEEPSPEED,
) -> StepCost:
    """Predict one step.

    Args:
        model: the architecture.
        layout: degrees, axis order, seats, and layers of each stage.
        work: one replica's step; its schedule may be interleaved-V.
        machine: a machine file, or what `Hardware.of` read from one (for many layouts).
        how: the framework.

    Raises:
        LayoutError: the layout does not fit the model.
        ValueError: the schedule does not go with the counts, or a tensor degree does not divide the
            heads, the MLP or the vocabulary.
        MachineError: the machine file lacks GPUs, links or a peak.
    """
    hardware = (
        machine if isinstance(machine, Hardware) else Hardware.of(machine, layout.world, work.dtype)
    )
    _check(model, layout, work)
    if how.efficiency != 1 or how.fused_attention:
        gpu = hardware.gpu.at(how.efficiency, how.fused_attention)
        hardware = replace(hardware, gpu=gpu)
    laid = patterns(hardware, layout)
    runs = {
        pattern: _replica(model, layout, work, hardware, how, pattern.tensor, pattern.hops)
        for pattern in dict.fromkeys(laid)
    }
    slowest = max(runs.values(), key=lambda run: max(run.ends))
    last = max(slowest.ends)
    span = data_span(hardware, layout)
    parameters = [stage_parameters(model, layout, s) for s in range(layout.pipeline)]
    updates = [_update(work, how, n, span, hardware, layout.world) for n in parameters]
    gathered = how.zero and not how.sharded
    gathers = [all_gather(float(n * work.size), span) if gathered else 0.0 for n in parameters]
    reductions = [_reduction(work, how, n, span) for n in parameters]
    reduced = max(
        run.ends[stage] + max(whole - _window(work, run.of.stages[stage]), behind)
        for stage, (whole, behind) in enumerate(reductions)
        for run in runs.values()
    )
    tied = _tied(model, layout, work, hardware)
    reduced = max(reduced, last) + tied
    update = max(own + gather for own, gather in zip(updates, gathers, strict=True))
    base = work.micro_batches * max(map(_seconds, slowest.of.stages))
    return StepCost(
        model=model,
        layout=layout,
        work=work,
        hardware=hardware,
        seconds=reduced + update,
        stages=slowest.of.stages,
        p2p=last - slowest.free,
        bubble=slowest.free - base,
        reduction=reduced - last,
        optimizer=update,
        how=how,
        replicas=tuple(runs[pattern].of for pattern in laid),
        ends=tuple(
            StageEnd(*reduction, own, gather)
            for reduction, own, gather in zip(reductions, updates, gathers, strict=True)
        ),
        tied=tied,
    )


@dataclass(frozen=True)
class _Run:
    """One replica's passes, played."""

    of: Replica
    ends: tuple[float, ...]
    free: float
    """Its end if messages took no time."""


def _replica(
    model: Sizes,
    layout: Layout,
    work: Work,
    hardware: Hardware,
    how: Framework,
    tensor: Sequence[Span],
    links: Sequence[str],
) -> _Run:
    gpu, p = hardware.gpu, layout.pipeline
    layers = layout.layers_of(model.num_layers)
    stages = []
    for stage, span in enumerate(tensor):
        whole = layer_passes(model, work, gpu, span, how) * layers[stage]
        if stage == 0:
            whole += embedding_passes(model, work, gpu, span, how)
        if stage == p - 1:
            whole += head_passes(model, work, gpu, span, how)
        if how.sharded and layout.data > 1:
            count = stage_parameters(model, layout, stage)
            whole = _sharded(whole, work, count, layers[stage], hardware, layout)
        stages.append(whole)
    border = float(work.tokens * model.hidden_size * work.size)
    # Sequence parallelism has the tokens shared already; else slices are gathered behind the hop.
    sliced = work.slice_transfers or work.sequence_parallel
    sent = border / layout.tensor if sliced else border
    hops = []
    for stage, link in enumerate(links):
        seconds = hop_seconds(hardware, layout, link, sent)  # type: ignore[arg-type]
        if sliced and not work.sequence_parallel:
            seconds += all_gather(border, tensor[(stage + 1) % p])
        if how.p2p != "buffered":
            seconds += EXCHANGE_OPERATIONS * gpu.host_s
        hops.append(seconds)
    seconds_of = tuple(
        StageSeconds(
            each.forward.seconds,
            each.recompute.seconds + each.inputs.seconds,
            each.weights.seconds,
        )
        for each in stages
    )
    m = work.micro_batches
    ends = finish(work.schedule, seconds_of, tuple(hops), m, how.p2p)
    free = finish(work.schedule, seconds_of, (0.0,) * p, m, how.p2p)
    return _Run(Replica(tuple(stages), tuple(hops)), ends, max(free))


def _sharded(
    passes: Passes, work: Work, parameters: int, layers: int, hardware: Hardware, layout: Layout
) -> Passes:
    """A micro-batch of a stage whose weights, gradients and optimizer are sharded (ZeRO-3).

    Each layer's weights are gathered while the layer before is computed, forward and again
    backward, and its gradients are scattered beside the next one's backward pass (Rajbhandari et
    al. 2020, arXiv 1910.02054, section 7.2; Zhao et al. 2023, arXiv 2304.11277, section 3.3). What
    moves takes multiprocessors from what is computed; of the first layer's weights and the last
    gradients nothing is hidden.
    """
    span = data_span(hardware, layout)
    gathered = all_gather(float(parameters * work.size), span)
    scattered = reduce_scatter(float(parameters * (work.travels or work.gradient_size)), span)
    ends = 1 / (layers + 1)
    shown = []
    for seconds, moved in (
        (passes.forward.seconds, gathered),
        (passes.backward.seconds, gathered + scattered),
    ):
        hidden = beside(hardware.gpu, seconds, (1 - ends) * moved)
        shown.append(hidden + ends * moved)
    return replace(
        passes,
        forward=replace(passes.forward, tensor=passes.forward.tensor + shown[0]),
        inputs=replace(passes.inputs, tensor=passes.inputs.tensor + shown[1]),
    )


def _reduction(work: Work, how: Framework, parameters: int, span: Span) -> tuple[float, float]:
    """Seconds of the reduction of a stage's gradients; those behind its last pass at least."""
    if how.sharded:
        return 0.0, 0.0
    nbytes = float(parameters * (work.travels or work.gradient_size))
    if not (work.overlapped and (how.early_bf16 or work.reduces_early)):
        whole = all_reduce(nbytes, span)
        return whole, whole
    whole = reduce_scatter(nbytes, span) if how.zero else all_reduce(nbytes, span)
    # Beside the last backward pass, but for the last bucket.
    return whole, min(1 / 8, work.bucket / max(1, parameters)) * whole


def _window(work: Work, passes: Passes) -> float:
    """Seconds of a stage's last pass, beside which its reduction may run."""
    chunk = passes * (1 / chunks(work.schedule))
    return chunk.weights.seconds if work.schedule == "zb-h1" else chunk.backward.seconds


def _tied(model: Sizes, layout: Layout, work: Work, hardware: Hardware) -> float:
    """Seconds in which first and last stage sum the gradients of a matrix that both hold."""
    if not model.tie_word_embeddings or layout.pipeline == 1:
        return 0.0
    table = model.vocab_size * model.hidden_size // layout.tensor
    return all_reduce(float(table * work.gradient_size), ends_span(hardware, layout))


def _update(
    work: Work, how: Framework, parameters: int, span: Span, hardware: Hardware, world: int
) -> float:
    gpu: Gpu = hardware.gpu
    shard = parameters / (span.ranks if how.zero or how.sharded else 1)
    sizes = kernels.optimizer_bytes(parameters, shard, work.size, work.gradient_size)
    each = len(hardware.site.sockets)
    everyone = Span(world, max(1, world // each), 1e9, library=hardware.library)
    return Kernels().add(*sizes).seconds(gpu) + 2 * all_reduce(8.0, everyone)


def _check(model: Sizes, layout: Layout, work: Work) -> None:
    for name in ("num_attention_heads", "intermediate_size", "vocab_size"):
        if getattr(model, name) % layout.tensor:
            raise ValueError(
                f"{name} = {getattr(model, name)} does not divide by tensor = {layout.tensor}"
            )
    count = chunks(work.schedule)
    uneven = [n for n in layout.layers_of(model.num_layers) if n % count]
    if uneven:
        raise ValueError(
            f"schedule = {work.schedule}: a stage of {uneven[0]} layers has no {count} equal chunks"
        )


def _seconds(passes: Passes) -> float:
    return passes.forward.seconds + passes.backward.seconds
