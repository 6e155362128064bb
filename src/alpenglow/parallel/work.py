"""What one step asks of a rank: the model's sizes and how its micro-batches are computed.

Torch-free. The memory model, the placement and the split read the same two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

Attention = Literal["plain", "sdpa"]
Recompute = Literal["none", "selective", "full"]
Loss = Literal["plain", "fused"]

BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
"""dtype -> bytes of an element."""


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

    @property
    def use_parallel_residual(self) -> bool: ...  # noqa: D102

    def __hash__(self) -> int: ...


@dataclass(frozen=True)
class Work:
    """One step of one replica.

    Args:
        micro_batch_size: sequences of a micro-batch.
        micro_batches: micro-batches a replica and step.
        sequence_length: tokens of a sequence.
        dtype: fp32, fp16 or bf16.
        attention: `plain` matrix products with an fp32 softmax, or torch's fused `sdpa`.
        recompute: what the backward pass computes again instead of keeping it: nothing, the
            attention's core (`selective`, Korthikanti et al. 2022), or whole layers (`full`).
        loss: `plain` keeps the logits of a micro-batch; `fused` makes the head's gradients with the
            loss, a chunk of tokens at a time (alpenglow.parallel.head_loss).
        masked: attention keeps to documents, by a mask for each micro-batch in flight.
        schedule: name in alpenglow.parallel.schedule.
        fp32_gradients: gradients are summed over micro-batches in fp32; bf16 always is.
        slice_transfers: each tensor rank sends its share of what goes between stages.
        overlapped: gradients go to their owners within the last backward pass, not all-reduced
            after it (alpenglow.train.reduction); bf16's never do.
        bucket: most gradients that are reduced together, where they are overlapped; an eighth of a
            stage's at most.
        travels: bytes of a gradient that is reduced; 0 means as it is kept.
        sequence_parallel: the tensor ranks share the tokens where they do not share the matrices:
            norms, residuals, their activations (Korthikanti et al. 2022). The trainer has it not;
            the cost of a step and the memory model do.

    Raises:
        ValueError: a dtype that is none of the three, or a size below 1.
    """

    micro_batch_size: int
    micro_batches: int
    sequence_length: int
    dtype: str = "fp16"
    attention: Attention = "plain"
    recompute: Recompute = "none"
    loss: Loss = "fused"
    masked: bool = False
    schedule: str = "1f1b"
    fp32_gradients: bool = False
    slice_transfers: bool = True
    overlapped: bool = True
    bucket: int = 25_000_000
    travels: float = 0
    sequence_parallel: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in BYTES:
            raise ValueError(f"dtype = {self.dtype!r}; choose from {', '.join(BYTES)}")
        for name in ("micro_batch_size", "micro_batches", "sequence_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: it is at least 1")

    @property
    def size(self) -> int:
        """Bytes of an element of weights and activations."""
        return BYTES[self.dtype]

    @property
    def tokens(self) -> int:
        """Tokens of a micro-batch."""
        return self.micro_batch_size * self.sequence_length

    @property
    def gradient_size(self) -> int:
        """Bytes of a gradient as it is kept until the optimizer's step."""
        return 4 if self.sums_in_fp32 else self.size

    @property
    def reduces_early(self) -> bool:
        """Whether reduction begins within the last backward pass."""
        return self.overlapped and self.dtype != "bf16"

    @property
    def sums_in_fp32(self) -> bool:
        """Whether gradients have an fp32 sum beside those of a micro-batch."""
        return self.dtype == "bf16" or (self.fp32_gradients and self.size < 4)
