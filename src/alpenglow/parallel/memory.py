"""Bytes that one rank of a pipeline stage needs on its GPU, from sizes alone.

Torch-free. A lower bound, made to refuse what cannot fit: the CUDA context, NCCL's buffers,
workspaces and fragmentation come on top. Sources:

- weights, gradients, optimizer state: Rajbhandari et al. 2020 (ZeRO, arXiv 1910.02054, sections 3.1
  and 5.1): with mixed precision 2 + 2 bytes a parameter, and 12 of fp32 master weight, momentum
  and variance, of which ZeRO-1 leaves a data-parallel rank its share; in fp32 4 + 4 and 12, since
  DeepSpeed keeps a master copy there too.
- activations of a layer: Korthikanti et al. 2022 (arXiv 2205.05198, sections 4.1 and 4.2.1),
  without the dropout masks, which this model has not: s b h (8 + 24/t) at two bytes an element.
  Their attention term 5 a s^2 b / t counts a dropout mask and two copies at two bytes; `plain`
  attention here keeps the softmax in fp32 and its copy in the working precision (4 + 2 bytes),
  `sdpa` only the logarithm of each row's sum in fp32, and three widths more of the fused product
  and its own output.
- micro-batches in flight: alpenglow.parallel.schedule.in_flight (Narayanan et al. 2021).

    stage_memory(model, layout, stage=0, ...).total
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from alpenglow.parallel.layout import Layout, stage_layers
from alpenglow.parallel.schedule import in_flight

Attention = Literal["plain", "sdpa"]
Recompute = Literal["none", "selective", "full"]

LARGEST_BUCKET = 500_000_000
"""Elements of the largest gradient bucket that the trainer asks DeepSpeed for."""

_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}


class Sizes(Protocol):
    """What is asked of a model; alpenglow.model.config.ModelConfig has it."""

    @property
    def num_layers(self) -> int: ...  # noqa: D102 - named as in ModelConfig, as the rest

    @property
    def hidden_size(self) -> int: ...  # noqa: D102

    @property
    def intermediate_size(self) -> int: ...  # noqa: D102

    @property
    def num_attention_heads(self) -> int: ...  # noqa: D102

    @property
    def vocab_size(self) -> int: ...  # noqa: D102

    @property
    def tie_word_embeddings(self) -> bool: ...  # noqa: D102


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
    bucket: float
    """The buffer through which gradients are reduced."""
    activations: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.bucket + self.activations


def stage_parameters(model: Sizes, layout: Layout, stage: int) -> int:
    """Count the parameters that one tensor rank of a stage holds.

    A tied head needs the embedding's matrix on the last stage as well as on the first.
    """
    h, ffn, tensor = model.hidden_size, model.intermediate_size, layout.tensor
    # Shared by the tensor group: the four matrices and the biases of the two that widen. Whole on
    # every rank: the other two biases, and weight and bias of two layer norms.
    layer = (4 * h * h + 2 * h * ffn + 3 * h + ffn) // tensor + 6 * h
    total = stage_layers(model.num_layers, layout.pipeline)[stage] * layer
    vocabulary = model.vocab_size * h // tensor
    last = stage == layout.pipeline - 1
    if stage == 0:
        total += vocabulary
    if last:
        total += 2 * h
        total += 0 if model.tie_word_embeddings and stage == 0 else vocabulary
    return total


def core_activations(
    model: Sizes,
    *,
    micro_batch_size: int,
    sequence_length: int,
    tensor: int,
    dtype: str,
    attention: Attention,
) -> float:
    """Bytes that the attention core of one layer keeps beyond query, key and value.

    Plain: the softmax in fp32 and its copy in the working precision. Fused: its output and the
    logarithm of each row's sum.
    """
    size, tokens = _BYTES[dtype], sequence_length * micro_batch_size
    heads = model.num_attention_heads / tensor
    if attention == "plain":
        return heads * sequence_length * tokens * (4 + (size if size < 4 else 0))
    return tokens * (heads * 4 + model.hidden_size / tensor * size)


def layer_activations(
    model: Sizes,
    *,
    micro_batch_size: int,
    sequence_length: int,
    tensor: int,
    dtype: str,
    attention: Attention,
) -> float:
    """Bytes that one layer keeps for its backward pass, one micro-batch, one tensor rank."""
    size, h = _BYTES[dtype], model.hidden_size
    tokens = sequence_length * micro_batch_size
    # Whole on every rank: inputs of two layer norms and of the two matrices behind them. Shared:
    # query, key, value and the projection's input; before and after the GELU. Fused attention keeps
    # its output as well, and with the value, a view, all three of the fused product.
    narrow = (4 if attention == "plain" else 7) * h
    elements = tokens * (4 * h + (narrow + 2 * model.intermediate_size) / tensor)
    heads = model.num_attention_heads / tensor
    if attention == "plain":
        scores = heads * sequence_length * tokens * (4 + (size if size < 4 else 0))
    else:
        scores = heads * tokens * 4
    return elements * size + scores


def stage_memory(
    model: Sizes,
    layout: Layout,
    stage: int,
    *,
    micro_batch_size: int,
    micro_batches: int,
    sequence_length: int,
    dtype: str = "fp16",
    attention: Attention = "plain",
    recompute: Recompute = "none",
) -> StageMemory:
    """Estimate the bytes of one rank of `stage`.

    Args:
        model: the architecture.
        layout: degrees of parallelism.
        stage: pipeline stage, from 0.
        micro_batch_size: sequences of a micro-batch.
        micro_batches: micro-batches a replica and step.
        sequence_length: tokens of a sequence.
        dtype: fp32, fp16 or bf16; gradients of bf16 are summed in fp32.
        attention: how scores are computed.
        recompute: `full` keeps only a layer's input and one layer's activations at a time,
            `selective` all but the attention core's, and one layer's of that.

    Raises:
        ValueError: a stage that the layout lacks, or a dtype that is none of the three.
    """
    if dtype not in _BYTES:
        raise ValueError(f"dtype = {dtype!r}; choose from {', '.join(_BYTES)}")
    size = _BYTES[dtype]
    parameters = stage_parameters(model, layout, stage)
    alive = in_flight(layout.pipeline, micro_batches, stage)
    tokens = micro_batch_size * sequence_length
    layers = stage_layers(model.num_layers, layout.pipeline)[stage]
    layer = layer_activations(
        model,
        micro_batch_size=micro_batch_size,
        sequence_length=sequence_length,
        tensor=layout.tensor,
        dtype=dtype,
        attention=attention,
    )
    border = tokens * model.hidden_size * size
    kept = alive * layers * layer
    if recompute == "full":
        kept = alive * layers * border + layer
    elif recompute == "selective":
        core = core_activations(
            model,
            micro_batch_size=micro_batch_size,
            sequence_length=sequence_length,
            tensor=layout.tensor,
            dtype=dtype,
            attention=attention,
        )
        kept = alive * layers * (layer - core) + core
    if stage == layout.pipeline - 1:
        # Input of the final norm and of the head; logits in working precision and in fp32, for one
        # micro-batch, since its backward follows at once (Korthikanti et al. 2022, section 4.3).
        kept += 2 * border + tokens * model.vocab_size / layout.tensor * (size + 4)
    return StageMemory(
        stage=stage,
        parameters=parameters,
        micro_batches=alive,
        weights=size * parameters,
        gradients=(4 if dtype == "bf16" else size) * parameters,
        optimizer=12 * parameters / layout.data,
        bucket=size * min(LARGEST_BUCKET, parameters),
        activations=kept,
    )


def worst_stage(
    model: Sizes,
    layout: Layout,
    *,
    micro_batch_size: int,
    micro_batches: int,
    sequence_length: int,
    dtype: str = "fp16",
    attention: Attention = "plain",
    recompute: Recompute = "none",
) -> StageMemory:
    """Estimate every stage and return the one that needs most; arguments as `stage_memory`."""
    stages = (
        stage_memory(
            model,
            layout,
            stage,
            micro_batch_size=micro_batch_size,
            micro_batches=micro_batches,
            sequence_length=sequence_length,
            dtype=dtype,
            attention=attention,
            recompute=recompute,
        )
        for stage in range(layout.pipeline)
    )
    return max(stages, key=lambda s: s.total)
