"""Bytes that one rank of a pipeline stage needs on its GPU, from sizes alone.

Torch-free. A lower bound, made to refuse what cannot fit: the CUDA context, NCCL's buffers,
workspaces of kernels and fragmentation come on top. Sources:

- weights, gradients, optimizer state: Rajbhandari et al. 2020 (ZeRO, arXiv 1910.02054, sections 3.1
  and 5.1): with mixed precision 2 + 2 bytes a parameter, and 12 of fp32 master weight, momentum
  and variance, of which ZeRO-1 leaves a data-parallel rank its share; in fp32 4 + 4 and 12, since
  DeepSpeed keeps a master copy there too. Where gradients are summed in fp32, DeepSpeed keeps that
  sum (4 bytes) beside the gradients of the micro-batch at hand.
- activations of a layer: Korthikanti et al. 2022 (arXiv 2205.05198, sections 4.1 and 4.2.1),
  without the dropout masks, which this model has not: s b h (8 + 24/t) at two bytes an element.
  Their attention term 5 a s^2 b / t counts a dropout mask and two copies at two bytes; `plain`
  attention here keeps the softmax in fp32 and its copy in the working precision (4 + 2 bytes),
  `sdpa` only the logarithm of each row's sum in fp32, and two widths more of the fused product
  and its own output.
- the kernel behind `sdpa`: a V100 (sm70) has torch's memory-efficient one, which takes sm50 and up
  (pytorch, aten/src/ATen/native/transformers/cuda: check_mem_efficient_hardware_support in
  sdp_utils.cpp; its fp16 kernels for sm70 are listed in mem_eff_attention/kernels/cutlassF.h); the
  flash kernel wants sm80 (check_flash_attention_hardware_support). It keeps query, key, value,
  output and an fp32 logarithm for each row, rows padded to 32 (kAlignLSE in
  mem_eff_attention/kernel_forward.h).
- micro-batches in flight: the schedule's own list (alpenglow.parallel.schedule). Under zb-h1 a
  micro-batch counts until its weight pass: until the backward pass with all its activations, then
  with inputs and output gradients of the linears (Qi et al. 2023, arXiv 2401.10241, section 3.1).
- what DeepSpeed holds beside autograd: a copy of what each micro-batch in flight received and sent
  (runtime/pipe/engine.py, pipe_buffers) and, where its own reduction is asked for, the bucket that
  gradients pass through (runtime/zero/stage_1_and_2.py, ipg_buffer).

    stage_memory(model, layout, 0, work).total
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

from alpenglow.parallel.layout import Layout
from alpenglow.parallel.schedule import Action, chunks, find, in_flight
from alpenglow.parallel.work import Sizes, Work

LOGITS_BYTES = 512 * 2**20
"""fp32 logits that the fused loss of a GPU makes at once (alpenglow.parallel.head_loss)."""
LARGEST_BUCKET = 500_000_000
"""Elements DeepSpeed reduces at once, at most: its own default, and gpt-neox's for these sizes."""

GIGABYTE = 1e9
_LSE_ROWS = 32


@dataclass(frozen=True)
class StageMemory:
    """Bytes of one rank of a stage."""

    stage: int
    parameters: int
    """Parameters that the rank holds."""
    micro_batches: int
    """Micro-batches in flight at most."""
    weights: float
    gradients: float
    optimizer: float
    """The rank's shard of the fp32 master weights and moments (ZeRO-1)."""
    activations: float
    """What autograd keeps of the micro-batches in flight."""
    buffers: float
    """For the reduction, the shard's fp32 gradients, what goes between stages, logits."""

    @property
    def parts(self) -> dict[str, float]:
        """Name -> bytes; they sum to `total`."""
        names = ("weights", "gradients", "optimizer", "activations", "buffers")
        return {name: getattr(self, name) for name in names}

    @property
    def total(self) -> float:
        """All of it."""
        return sum(self.parts.values())

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {size / GIGABYTE:.2f}" for name, size in self.parts.items())
        return f"{self.total / GIGABYTE:.1f} GB ({parts})"


def stage_parameters(model: Sizes, layout: Layout, stage: int) -> int:
    """Count the parameters that one tensor rank of a stage holds.

    A tied head needs the embedding's matrix on the last stage as well as on the first.
    """
    h, ffn, tensor = model.hidden_size, model.intermediate_size, layout.tensor
    # Shared by the tensor group: the four matrices and the biases of the two that widen. Whole on
    # every rank: the other two biases, and weight and bias of two layer norms.
    layer = (4 * h * h + 2 * h * ffn + 3 * h + ffn) // tensor + 6 * h
    total = layout.layers_of(model.num_layers)[stage] * layer
    vocabulary = model.vocab_size * h // tensor
    last = stage == layout.pipeline - 1
    if stage == 0:
        total += vocabulary
    if last:
        total += 2 * h
        total += 0 if model.tie_word_embeddings and stage == 0 else vocabulary
    return total


def layer_activations(model: Sizes, work: Work, tensor: int) -> float:
    """Bytes that one layer keeps for its backward pass, one micro-batch, one rank of `tensor`."""
    h, tokens, size = model.hidden_size, work.tokens, work.size
    shared = tensor if work.sequence_parallel else 1
    if work.recompute == "full":
        return tokens * h * size / shared
    selective, plain = work.recompute == "selective", work.attention == "plain"
    # Whole on every rank: inputs of two layer norms (one where both branches start from it) and of
    # the two matrices behind them. Shared: query, key, value and the projection's input; before and
    # after the GELU. Fused attention keeps its output as well, in the order of heads, and with the
    # value, a view, more of the fused product; so does a core that is computed again.
    wide = (3 if model.use_parallel_residual else 4) * h / shared
    narrow = (4 if plain and not selective else 6) * h
    elements = tokens * (wide + (narrow + 2 * model.intermediate_size) / tensor)
    heads = model.num_attention_heads / tensor
    scores = 0.0
    if plain and not selective:
        scores = heads * work.sequence_length * tokens * (4 + (size if size < 4 else 0))
    elif not selective:
        rows = math.ceil(work.sequence_length / _LSE_ROWS) * _LSE_ROWS * work.micro_batch_size
        scores = heads * rows * 4
    return elements * size + scores


def layer_stash(model: Sizes, work: Work, tensor: int) -> float:
    """Bytes that one layer keeps between its input and its weight gradients, one micro-batch.

    Inputs of the four linears and gradients of their outputs.
    """
    h, ffn = model.hidden_size, model.intermediate_size
    inputs = 2 * h + (h + ffn) / tensor
    gradients = 2 * h + (3 * h + ffn) / tensor
    return (inputs + gradients) * work.tokens * work.size


def _most(stages: int, stage: int, work: Work, whole: float, stash: float) -> float:
    """Largest sum of what micro-batches hold, along the schedule of one stage.

    Args:
        stages: of the pipeline.
        stage: whose schedule is followed.
        work: names it.
        whole: bytes of a micro-batch from its forward pass to its backward pass.
        stash: from there to its weight pass, where the schedule has one.
    """
    peaks = _peaks(work.schedule, stages, work.micro_batches, stage)
    return max(held * whole + stashed * stash for held, stashed in peaks)


@lru_cache(maxsize=4096)
def _peaks(
    schedule: str, stages: int, micro_batches: int, stage: int
) -> tuple[tuple[int, int], ...]:
    """(whole, stashed) micro-batches at the moments of a schedule that no other one exceeds."""
    change = {
        Action.forward: (1, 0),
        Action.backward: (-1, 0),
        Action.backward_input: (-1, 1),
        Action.backward_weight: (0, -1),
    }
    held = stashed = 0
    seen = {(0, 0)}
    for instruction in find(schedule)(stages, micro_batches, stage):
        more, later = change.get(instruction.action, (0, 0))
        held, stashed = held + more, stashed + later
        seen.add((held, stashed))
    kept: list[tuple[int, int]] = []
    for pair in sorted(seen, reverse=True):  # by `held`, so that only `stashed` is left to compare
        if not kept or pair[1] > kept[-1][1]:
            kept.append(pair)
    return tuple(kept)


def stage_memory(model: Sizes, layout: Layout, stage: int, work: Work) -> StageMemory:
    """Estimate the bytes of one rank of `stage`.

    Args:
        model: the architecture.
        layout: degrees of parallelism, and the layers of each stage.
        stage: pipeline stage, from 0.
        work: one step of a replica.

    Raises:
        ValueError: a stage that the layout lacks, or a schedule that is not known.
    """
    alive = in_flight(layout.pipeline, work.micro_batches, stage, work.schedule)
    parameters = stage_parameters(model, layout, stage)
    size, tensor, last = work.size, layout.tensor, stage == layout.pipeline - 1
    layers = layout.layers_of(model.num_layers)[stage]

    border = float(work.tokens * model.hidden_size * size)
    logits = work.tokens * model.vocab_size / tensor
    # Beside the layers the head keeps its gradient, or its input and its output's gradient; the
    # embedding its output's.
    head = model.vocab_size * model.hidden_size / tensor
    of_head = head * size if work.loss == "fused" else border + logits * size
    stash = layers * layer_stash(model, work, tensor) + last * of_head
    stash += border if stage == 0 else 0.0
    held = layer_activations(model, work, tensor)
    # An interleaved stage holds chunks of micro-batches.
    kept = _most(layout.pipeline, stage, work, layers * held / chunks(work.schedule), stash)
    if work.recompute != "none":
        # One layer at a time is whole again.
        kept += layer_activations(model, replace(work, recompute="none"), tensor) - held
    # Copies of what came in (a first stage gets tokens) and of what goes out, for each micro-batch
    # in flight, and one buffer each to receive activations and gradients.
    sliced = border / (tensor if work.slice_transfers else 1)
    copies = 0.0 if stage == 0 or work.slice_transfers else alive * border
    copies += 0.0 if last else alive * sliced
    copies += ((stage > 0) + (not last)) * sliced
    # Of one micro-batch, since its backward follows at once (Korthikanti et al. 2022, section 4.3).
    if last and work.loss == "fused":
        # Input of the final norm, gradient of the head's input and, in fp32, of its weights. Beside
        # them a chunk of logits, in fp32 and twice in working precision, and a summand of the
        # weights' gradient.
        kept += 2 * border + head * 4
        copies += min(logits, LOGITS_BYTES / 4) * (4 + (2 * size if size < 4 else 0)) + head * size
    elif last:
        # Input of the final norm and of the head, and the probabilities in fp32; beside autograd
        # the logits, and their gradient in fp32 and in working precision.
        kept += 2 * border + logits * 4
        copies += logits * (4 + 2 * size)
    if work.masked:  # one byte for each pair of tokens, and the opposite for fused attention
        kept += alive * work.tokens * work.sequence_length * (1 if work.attention == "plain" else 2)
    shard = (4 + (size if size < 4 else 0)) * parameters / layout.data
    return StageMemory(
        stage=stage,
        parameters=parameters,
        micro_batches=alive,
        weights=float(size * parameters),
        gradients=float((size + (4 if work.sums_in_fp32 else 0)) * parameters),
        optimizer=12 * parameters / layout.data,
        activations=kept,
        buffers=_reduction(parameters, work) + shard + copies,
    )


def _reduction(parameters: int, work: Work) -> float:
    """Bytes that the reduction of gradients takes beside them."""
    if not work.reduces_early:  # DeepSpeed fills a bucket at a time
        return float(work.size * min(LARGEST_BUCKET, parameters))
    # In place, unless what travels is of another dtype: then all of it may be under way at once.
    narrow = work.travels not in (0, work.gradient_size)
    return float(work.travels * parameters if narrow else 0)


def stages_memory(model: Sizes, layout: Layout, work: Work) -> list[StageMemory]:
    """Estimate every stage; arguments as `stage_memory`."""
    return [stage_memory(model, layout, stage, work) for stage in range(layout.pipeline)]


def worst_stage(model: Sizes, layout: Layout, work: Work) -> StageMemory:
    """Estimate every stage and return the one that needs most; arguments as `stage_memory`."""
    return max(stages_memory(model, layout, work), key=lambda s: s.total)


def excess(memory: StageMemory, room: float) -> str | None:
    """One sentence where a stage needs more than `room` bytes a GPU, with its parts; else None."""
    if memory.total <= room:
        return None
    return (
        f"a rank of stage {memory.stage} needs at least {memory}, with {memory.micro_batches} "
        f"micro-batches in flight, and its GPU has {room / GIGABYTE:.1f} GB"
    )
