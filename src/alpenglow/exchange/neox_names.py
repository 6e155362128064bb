"""Names that EleutherAI's GPT-NeoX has given the same tensors over the years.

Slots of its pipeline: 0 is the embedding, 1 and L+2 are functions without parameters, 2 to L+1 the
layers, L+3 the final norm, L+4 the head where the embeddings are not tied (megatron/model/
gpt2_model.py). The MLP was `dense_h_to_4h`/`dense_4h_to_h`, later `linear1`/`linear2`; with
Transformer Engine the MLP has its layer norm inside, and attention other names
(tools/ckpts/convert_neox_to_hf.py). Each block may be Transformer Engine's or not, so names are
looked up one by one. This module is imported, never started.
"""

from __future__ import annotations

from typing import Literal

Merge = Literal["rows", "columns", "bias", "replica"]
"""Across tensor ranks: rows or columns side by side, a row-parallel bias, replicas of a vector."""

_LAYER: dict[str, tuple[Merge, tuple[str, ...]]] = {
    "input_layernorm": ("replica", ("input_layernorm", "input_layernorm.norm")),
    "post_attention_layernorm": (
        "replica",
        ("post_attention_layernorm", "post_attention_layernorm.norm", "mlp.layer_norm"),
    ),
    "attention.query_key_value": ("rows", ("attention.query_key_value", "attention.qkv")),
    "attention.dense": ("columns", ("attention.dense", "attention.proj")),
    "mlp.dense_h_to_4h": ("rows", ("mlp.linear1", "mlp.dense_h_to_4h", "mlp.fc1")),
    "mlp.dense_4h_to_h": ("columns", ("mlp.linear2", "mlp.dense_4h_to_h", "mlp.fc2")),
}
_JOINED = ("mlp.layer_norm", "mlp.fc1", "mlp.fc2")
"""Transformer Engine's MLP is one module: `mlp.fc1_weight`, without a dot."""

_IGNORED = (
    "_extra_state",  # Transformer Engine's fp8 scales
    "inv_freq",  # of the rotary embedding, a function of its base
    "attention.bias",  # causal masks that old releases kept as buffers
    "attention.masked_bias",
)


def slots(num_layers: int, *, tied: bool) -> list[int]:
    """Slots of the pipeline that hold parameters."""
    head = [] if tied else [num_layers + 4]
    return [0, *range(2, num_layers + 2), num_layers + 3, *head]


def slot_of(name: str, num_layers: int) -> int:
    """The slot that holds a tensor of ours."""
    room, _, rest = name.partition(".")
    if room == "layers":
        return int(rest.partition(".")[0]) + 2
    return {"embed_in": 0, "final_layer_norm": num_layers + 3, "embed_out": num_layers + 4}[room]


def candidates(name: str) -> tuple[str, ...]:
    """What a tensor of ours may be called in its slot."""
    room, _, local = name.partition(".")
    if room == "embed_in":
        return ("word_embeddings.weight",)
    if room == "embed_out":
        return ("final_linear.weight",)
    if room == "final_layer_norm":
        return (f"norm.{local}", f"norm.norm.{local}")
    module, _, leaf = local.partition(".")[2].rpartition(".")
    return tuple(
        f"{theirs}_{leaf}" if theirs in _JOINED else f"{theirs}.{leaf}"
        for theirs in _LAYER[module][1]
    )


def merge_of(name: str) -> Merge:
    """How tensor ranks share a tensor of ours."""
    room, _, local = name.partition(".")
    if room != "layers":
        return "replica" if room == "final_layer_norm" else "rows"
    module, _, leaf = local.partition(".")[2].rpartition(".")
    merge = _LAYER[module][0]
    return "bias" if (merge, leaf) == ("columns", "bias") else merge


def ignored(key: str) -> bool:
    """Whether a name in a file is no parameter."""
    return key.endswith(_IGNORED)
