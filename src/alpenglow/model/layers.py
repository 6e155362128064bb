"""The blocks of GPT-NeoX: rotary embedding, causal attention, MLP, transformer layer.

Numerically the twin of `transformers.GPTNeoXForCausalLM` (see alpenglow.model.proof): exact GELU,
rotation of the first `rotary_ndims` dimensions of each head in two halves, softmax in fp32. No
dropout. The slots of the pipeline fill themselves from alpenglow.model.neox.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from alpenglow.model import neox
from alpenglow.model.config import ModelConfig
from alpenglow.model.documents import Documents
from alpenglow.model.rotary import split_heads
from alpenglow.parallel.head_loss import head_input
from alpenglow.parallel.tensor import (
    ColumnParallelLinear,
    RowParallelLinear,
    TensorGroup,
    VocabularyParallelEmbedding,
)

AttentionKind = Literal["plain", "sdpa"]
"""plain: matrix products and an fp32 softmax. sdpa: torch's fused attention."""


@lru_cache(maxsize=8)
def rotary_table(
    length: int, ndims: int, base: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return cosine and sine [length, ndims] of the rotary angles (arXiv 2104.09864).

    Angles are computed in fp32 whatever `dtype` is, since position x frequency needs the digits.
    Kept outside the modules: a buffer would be cast along with the weights.
    """
    # A table first asked for in evaluation must serve training too.
    with torch.inference_mode(False), torch.no_grad():
        exponents = torch.arange(0, ndims, 2, dtype=torch.float32, device=device) / ndims
        positions = torch.arange(length, dtype=torch.float32, device=device)
        half = positions[:, None] * (1.0 / base**exponents)
        angles = torch.cat((half, half), dim=-1)
        return angles.cos().to(dtype), angles.sin().to(dtype)


@lru_cache(maxsize=8)
def _future(length: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.ones(length, length, dtype=torch.bool, device=device).triu(diagonal=1)


def _at_once(function: Callable[..., Any], *inputs: Any) -> Any:
    return function(*inputs)


class Attention(nn.Module):
    """Causal self-attention with rotary positions; each rank holds whole heads.

    With `documents`, positions begin anew at every document and no token attends to another one's.
    """

    def __init__(
        self,
        config: ModelConfig,
        group: TensorGroup,
        kind: AttentionKind,
        documents: Documents | None = None,
    ) -> None:
        super().__init__()
        if kind not in ("plain", "sdpa"):
            raise ValueError(f"attention = {kind!r}; choose plain or sdpa")
        group.share(config.num_attention_heads, "num_attention_heads")
        self.config = config
        self.kind = kind
        self.documents = documents
        width = config.hidden_size
        self.query_key_value = ColumnParallelLinear(width, 3 * width, group)
        self.dense = RowParallelLinear(width, width, group)
        self.run_core: Callable[..., Any] = _at_once
        """Calls `core`; selective recompute puts a checkpoint here."""

    def core(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """[micro-batch, heads, length, head_dim], thrice -> the heads' weighted sums."""
        packing = None if self.documents is None else self.documents.packing
        if self.kind == "sdpa":
            # With a mask torch takes its memory-efficient kernel, not the flash one.
            allowed = None if packing is None else packing.allowed()
            return functional.scaled_dot_product_attention(
                query, key, value, attn_mask=allowed, is_causal=packing is None
            )
        # Scaling the query rather than the scores keeps fp16 products within range.
        scores = (query * self.config.head_dim**-0.5) @ key.transpose(2, 3)
        length, device = query.shape[2], query.device
        masked = _future(length, device) if packing is None else packing.forbidden()
        scores = scores.masked_fill(masked, float("-inf"))
        weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(value.dtype)
        return weights @ value

    def heads(self, x: Tensor) -> Tensor:
        """[micro-batch, length, hidden] -> this rank's heads side by side, before `dense`."""
        batch, length, _ = x.shape
        cosine, sine = rotary = rotary_table(
            length, self.config.rotary_ndims, self.config.rotary_emb_base, x.dtype, x.device
        )
        if self.documents is not None:
            cosine, sine = self.documents.packing.rotary(x.dtype, lambda: rotary)
        query, key, value = split_heads(self.query_key_value(x), self.config.head_dim, cosine, sine)
        mixed: Tensor = self.run_core(self.core, query, key, value)
        return mixed.transpose(1, 2).reshape(batch, length, -1)

    def forward(self, x: Tensor) -> Tensor:
        """[micro-batch, length, hidden] -> the same shape."""
        return self.dense(self.heads(x))  # type: ignore[no-any-return]


class MLP(nn.Module):
    """Two linear layers around an exact GELU."""

    def __init__(self, config: ModelConfig, group: TensorGroup) -> None:
        super().__init__()
        self.dense_h_to_4h = ColumnParallelLinear(
            config.hidden_size, config.intermediate_size, group
        )
        self.dense_4h_to_h = RowParallelLinear(config.intermediate_size, config.hidden_size, group)

    def widened(self, x: Tensor) -> Tensor:
        """[..., hidden] -> this rank's columns of the activations."""
        return functional.gelu(self.dense_h_to_4h(x))

    def forward(self, x: Tensor) -> Tensor:
        """[..., hidden] -> the same shape."""
        return self.dense_4h_to_h(self.widened(x))  # type: ignore[no-any-return]


class GlobalNames:
    """Mixed into the slots: `prefix`, a dot and a parameter's name are its global name."""

    prefix: str


class Embedding(VocabularyParallelEmbedding, GlobalNames):
    """First slot: int64 token ids [micro-batch, length] to the residual stream.

    With tied embeddings it is the last slot too, by `logits`.
    """

    prefix = "embed_in"

    def __init__(self, config: ModelConfig, group: TensorGroup, seed: int | None) -> None:
        super().__init__(config.vocab_size, config.hidden_size, group)
        neox.fill(self, self.prefix, config, group, seed)


class TransformerLayer(nn.Module, GlobalNames):
    """One transformer layer, parallel or serial residual; layer norms are whole on every rank."""

    def __init__(
        self,
        config: ModelConfig,
        index: int,
        group: TensorGroup,
        seed: int | None,
        attention: AttentionKind = "plain",
        documents: Documents | None = None,
    ) -> None:
        super().__init__()
        self.prefix = f"layers.{index}"
        self.group = group
        self.use_parallel_residual = config.use_parallel_residual
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = Attention(config, group, attention, documents)
        self.mlp = MLP(config, group)
        neox.fill(self, self.prefix, config, group, seed)

    def forward(self, x: Tensor) -> Tensor:
        """[micro-batch, length, hidden] -> the same shape."""
        if not self.use_parallel_residual:
            x = x + self.attention(self.input_layernorm(x))
            return x + self.mlp(self.post_attention_layernorm(x))  # type: ignore[no-any-return]
        if self.group.size == 1:
            # The products add the biases themselves: two passes over the stream less.
            branches = self.attention(self.input_layernorm(x))
            branches = branches + self.mlp(self.post_attention_layernorm(x))
            return x + branches  # type: ignore[no-any-return]
        # The two branches are summed before they are reduced: one all-reduce instead of two.
        attended = self.attention.dense.partial(self.attention.heads(self.input_layernorm(x)))
        widened = self.mlp.widened(self.post_attention_layernorm(x))
        branches = self.group.reduce_out(attended + self.mlp.dense_4h_to_h.partial(widened))
        return x + branches + (self.attention.dense.bias + self.mlp.dense_4h_to_h.bias)


class FinalLayerNorm(nn.LayerNorm, GlobalNames):
    """Last but one slot."""

    prefix = "final_layer_norm"

    def __init__(self, config: ModelConfig, group: TensorGroup, seed: int | None) -> None:
        super().__init__(config.hidden_size, eps=config.layer_norm_eps)
        neox.fill(self, self.prefix, config, group, seed)


class LogitHead(ColumnParallelLinear, GlobalNames):
    """Last slot of an untied model: this rank's columns of the logits, no bias.

    With `fused` it hands its input and its weight on to the loss, which makes the logits itself.
    """

    prefix = "embed_out"

    def __init__(
        self, config: ModelConfig, group: TensorGroup, seed: int | None, fused: bool = False
    ) -> None:
        super().__init__(config.hidden_size, config.vocab_size, group, bias=False)
        self.fused = fused
        neox.fill(self, self.prefix, config, group, seed)

    def forward(self, x: Tensor) -> Any:
        """[..., hidden] -> [..., V / size], or the pair of `head_input`."""
        return head_input(x, self.weight, self.group) if self.fused else super().forward(x)
