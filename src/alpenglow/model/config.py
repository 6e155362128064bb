"""The GPT-NeoX architecture as numbers: sizes, tensors, parameters, FLOPs.

Torch-free: the planner and the script check use it as well as the model. Tensors carry the names
of Hugging Face's GPTNeoXForCausalLM without the `gpt_neox.` prefix.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, Literal

Slice = tuple[tuple[int, int], ...]
"""[start, stop) for each dimension of a global tensor."""

FLOPS_FORMULA = "72 l h^2 (1 + s/(6h) + V/(12 l h)) a token: Narayanan et al. 2021, no recompute"

_SPLIT_ROWS = (
    "embed_in.weight",
    "embed_out.weight",
    "query_key_value.weight",
    "query_key_value.bias",
    "dense_h_to_4h.weight",
    "dense_h_to_4h.bias",
)
_SPLIT_COLUMNS = ("attention.dense.weight", "dense_4h_to_h.weight")


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and switches of a GPT-NeoX model.

    Args:
        num_layers: transformer layers.
        hidden_size: width of the residual stream.
        num_attention_heads: heads; each is hidden_size / num_attention_heads wide.
        vocab_size: rows of the embedding, padding included: part of the model, whatever the
            tensor-parallel degree.
        max_position_embeddings: longest sequence.
        intermediate_size: width inside the MLP; 0 means four times hidden_size.
        rotary_pct: share of each head's dimensions that is rotated.
        rotary_emb_base: base of the rotary frequencies.
        use_parallel_residual: x + attention(ln1(x)) + mlp(ln2(x)) where true (Pythia); attention
            first, then MLP, each with its own residual, where false (RedPajama-INCITE).
        tie_word_embeddings: the head uses the embedding's matrix.
        layer_norm_eps: epsilon of every layer norm.
        initializer: "small_init": N(0, 2/(5h)) and 2/(l sqrt(h)) for the two output projections
            (gpt-neox's small_init and wang_init, as Pythia); "normal": N(0, initializer_range^2)
            and initializer_range / sqrt(2 l) for the output projections (gpt-neox's default).
        initializer_range: standard deviation for "normal".

    Raises:
        ValueError: sizes that do not fit one another, with both values.
    """

    num_layers: int
    hidden_size: int
    num_attention_heads: int
    vocab_size: int
    max_position_embeddings: int = 2048
    intermediate_size: int = 0
    rotary_pct: float = 0.25
    rotary_emb_base: int = 10000
    use_parallel_residual: bool = True
    tie_word_embeddings: bool = False
    layer_norm_eps: float = 1e-5
    initializer: Literal["small_init", "normal"] = "small_init"
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        if self.intermediate_size == 0:
            object.__setattr__(self, "intermediate_size", 4 * self.hidden_size)
        for name in (
            "num_layers",
            "hidden_size",
            "num_attention_heads",
            "vocab_size",
            "max_position_embeddings",
            "intermediate_size",
            "rotary_emb_base",
            "layer_norm_eps",
            "initializer_range",
        ):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} = {getattr(self, name)} must be positive")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size = {self.hidden_size} is not a multiple of "
                f"num_attention_heads = {self.num_attention_heads}"
            )
        if not 0 < self.rotary_pct <= 1:
            raise ValueError(f"rotary_pct = {self.rotary_pct} must be above 0 and at most 1")
        if self.rotary_ndims < 2 or self.rotary_ndims % 2:
            raise ValueError(
                f"rotary_pct = {self.rotary_pct} of a head of {self.head_dim} dimensions rotates "
                f"{self.rotary_ndims} of them; they turn in pairs, so it must be even and above 0"
            )
        if self.initializer not in ("small_init", "normal"):
            raise ValueError(f"initializer = {self.initializer!r}; choose small_init or normal")

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def rotary_ndims(self) -> int:
        """Rotated dimensions of each head."""
        return int(self.head_dim * self.rotary_pct)

    def check_parallel(self, pipeline: int, tensor: int) -> None:
        """Refuse degrees that do not divide the model.

        Raises:
            ValueError: naming the size and the degree that do not fit.
        """
        if self.num_layers < pipeline:
            raise ValueError(
                f"num_layers = {self.num_layers} cannot fill pipeline = {pipeline} stages"
            )
        for name in ("num_attention_heads", "intermediate_size", "vocab_size"):
            if getattr(self, name) % tensor:
                raise ValueError(
                    f"{name} = {getattr(self, name)} does not divide by tensor = {tensor}"
                )

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Every weight and bias by name with its global shape, input end first.

        query_key_value rows lie as [head][q|k|v][head_dim]. `embed_out.weight` is absent when the
        embeddings are tied.
        """
        h, ffn, vocabulary = self.hidden_size, self.intermediate_size, self.vocab_size
        shapes: dict[str, tuple[int, ...]] = {"embed_in.weight": (vocabulary, h)}
        for index in range(self.num_layers):
            layer = f"layers.{index}"
            for norm in ("input_layernorm", "post_attention_layernorm"):
                shapes[f"{layer}.{norm}.weight"] = (h,)
                shapes[f"{layer}.{norm}.bias"] = (h,)
            for linear, rows, columns in (
                ("attention.query_key_value", 3 * h, h),
                ("attention.dense", h, h),
                ("mlp.dense_h_to_4h", ffn, h),
                ("mlp.dense_4h_to_h", h, ffn),
            ):
                shapes[f"{layer}.{linear}.weight"] = (rows, columns)
                shapes[f"{layer}.{linear}.bias"] = (rows,)
        shapes["final_layer_norm.weight"] = (h,)
        shapes["final_layer_norm.bias"] = (h,)
        if not self.tie_word_embeddings:
            shapes["embed_out.weight"] = (vocabulary, h)
        return shapes

    def parameters(self) -> int:
        """Count weights and biases.

        With untied embeddings and intermediate_size 4h this is l(12h^2 + 13h) + 2h + 2Vh, the
        count of every published Pythia size and of RedPajama-INCITE.
        """
        h, ffn = self.hidden_size, self.intermediate_size
        layer = 4 * h * h + 9 * h + 2 * h * ffn + ffn
        embeddings = self.vocab_size * h * (1 if self.tie_word_embeddings else 2)
        return self.num_layers * layer + 2 * h + embeddings

    def flops_per_token(self, sequence_length: int) -> float:
        """Model FLOPs of a token in training, forward and backward, without recompute.

        72 l h^2 (1 + s/(6h) + V/(12 l h)) for intermediate_size 4h. Narayanan et al. 2021 (arXiv
        2104.04473, section 5.1) state 96 l h^2 (1 + s/(6h) + V/(16 l h)) a token, with a second
        forward through the layers for recompute; without it the layers do three quarters of that
        and the logits the same. Matrix products only; attention is counted in full, though half
        of it is masked, as there.
        """
        h, ffn = self.hidden_size, self.intermediate_size
        layer = 8 * h * h + 4 * sequence_length * h + 4 * h * ffn
        return 3.0 * (self.num_layers * layer + 2 * h * self.vocab_size)

    def huggingface_fields(self) -> dict[str, Any]:
        """Return the keyword arguments of `transformers.GPTNeoXConfig` for this architecture."""
        return {
            "num_hidden_layers": self.num_layers,
            "hidden_size": self.hidden_size,
            "num_attention_heads": self.num_attention_heads,
            "vocab_size": self.vocab_size,
            "max_position_embeddings": self.max_position_embeddings,
            "intermediate_size": self.intermediate_size,
            "rotary_pct": self.rotary_pct,
            "rotary_emb_base": self.rotary_emb_base,
            "use_parallel_residual": self.use_parallel_residual,
            "tie_word_embeddings": self.tie_word_embeddings,
            "layer_norm_eps": self.layer_norm_eps,
            "initializer_range": self.initializer_range,
            "hidden_act": "gelu",
            "attention_bias": True,
            "attention_dropout": 0.0,
            "hidden_dropout": 0.0,
        }


def split_axis(name: str) -> int | None:
    """Dimension along which tensor parallelism cuts a tensor; None: every rank holds it whole.

    Rows of the matrices that widen and of the two vocabulary matrices, columns of the two that
    come back to hidden_size. The biases of the latter are whole: they are added after the reduce.
    """
    if name.endswith(_SPLIT_ROWS):
        return 0
    return 1 if name.endswith(_SPLIT_COLUMNS) else None


def local_slice(name: str, shape: tuple[int, ...], rank: int, size: int) -> Slice:
    """Part of a global tensor that tensor rank `rank` of `size` holds."""
    axis = split_axis(name)
    if axis is not None and shape[axis] % size:
        raise ValueError(f"{name}: dimension {axis} = {shape[axis]} does not divide by {size}")
    return tuple(
        (rank * (n // size), (rank + 1) * (n // size)) if i == axis else (0, n)
        for i, n in enumerate(shape)
    )


def slice_numel(part: Slice) -> int:
    """Count the elements of a slice."""
    return prod(stop - start for start, stop in part)
