"""`config.json` of a Hugging Face GPT-NeoX folder as an architecture.

Rotary settings are read in both forms: `rope_parameters` of transformers 5, and the older
`rotary_pct`, `rotary_emb_base` and `rope_scaling`. Defaults are those of transformers'
GPTNeoXConfig. What the architecture here cannot express is refused by name. This module is
imported, never started.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alpenglow.exchange.error import ExchangeError
from alpenglow.model.config import ModelConfig

CONFIG = "config.json"
SAFE = "model.safetensors"
OLD = "pytorch_model.bin"
WEIGHTS = (SAFE, f"{SAFE}.index.json", OLD, f"{OLD}.index.json")
"""Files of weights, or of what lies where in several."""

_HEAD = "embed_out.weight"
_PREFIX = "gpt_neox."
_SIZES = {
    "num_layers": "num_hidden_layers",
    "hidden_size": "hidden_size",
    "num_attention_heads": "num_attention_heads",
    "vocab_size": "vocab_size",
    "max_position_embeddings": "max_position_embeddings",
    "intermediate_size": "intermediate_size",
}


def huggingface_name(name: str) -> str:
    """`layers.0.mlp.dense_h_to_4h.bias` -> `gpt_neox.layers.0...`; the head has no prefix."""
    return name if name == _HEAD else _PREFIX + name


def global_name(name: str) -> str:
    """Undo `huggingface_name`."""
    return name.removeprefix(_PREFIX)


def read_config(folder: Path) -> ModelConfig:
    """Read the architecture of a folder.

    Raises:
        ExchangeError: no `config.json`, not JSON, another model type, or a key whose value cannot
            be expressed.
    """
    path = folder / CONFIG
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ExchangeError(f"{path}: missing: not a Hugging Face folder") from None
    except (OSError, ValueError) as error:
        raise ExchangeError(f"{path}: not readable ({error})") from None
    if not isinstance(body, dict):
        raise ExchangeError(f"{path}: not a table of keys")
    for key, default, wanted in (
        ("model_type", None, "gpt_neox"),
        ("hidden_act", "gelu", "gelu"),
        ("attention_bias", True, True),
    ):
        if body.get(key, default) != wanted:
            raise ExchangeError(
                f"{path}: {key} = {body.get(key, default)!r} cannot be expressed: a GPT-NeoX model "
                f"here has {key} = {wanted!r}"
            )
    sizes = {ours: _whole(path, body, theirs) for ours, theirs in _SIZES.items()}
    share, base = _rotary(path, body)
    try:
        return ModelConfig(
            **sizes,
            rotary_pct=share,
            rotary_emb_base=base,
            use_parallel_residual=_flag(path, body, "use_parallel_residual", True),
            tie_word_embeddings=_flag(path, body, "tie_word_embeddings", False),
            layer_norm_eps=_number(path, body, "layer_norm_eps", 1e-5),
            initializer="normal",
            initializer_range=_number(path, body, "initializer_range", 0.02),
        )
    except ValueError as error:
        raise ExchangeError(f"{path}: {error}") from None


def _rotary(path: Path, body: Mapping[str, Any]) -> tuple[float, int]:
    """Rotated share of each head, and base; the two forms must not disagree."""
    forms = [body.get("rope_parameters"), body.get("rope_scaling")]
    tables = [form for form in forms if isinstance(form, dict)]
    for table in tables:
        kind = table.get("rope_type", table.get("type", "default"))
        if kind != "default":
            raise ExchangeError(
                f"{path}: rope_type = {kind!r} cannot be expressed: rotary embeddings are not "
                "scaled here"
            )
    found = []
    for new, old, default in (
        ("partial_rotary_factor", "rotary_pct", 0.25),
        ("rope_theta", "rotary_emb_base", 10000.0),
    ):
        said = [_number(path, table, new, default) for table in tables if new in table]
        said += [_number(path, body, key, default) for key in (old, new) if key in body]
        if len(set(said)) > 1:
            raise ExchangeError(f"{path}: {new} and {old} disagree: {said[0]:g} and {said[-1]:g}")
        found.append(said[0] if said else default)
    share, base = found
    if base != int(base):
        raise ExchangeError(f"{path}: rotary_emb_base = {base} is not a whole number")
    return share, int(base)


def _whole(path: Path, body: Mapping[str, Any], key: str) -> int:
    value = body.get(key)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ExchangeError(f"{path}: {key} = {value!r} is not a whole number")
    return value


def _number(path: Path, body: Mapping[str, Any], key: str, default: float) -> float:
    value = body.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ExchangeError(f"{path}: {key} = {value!r} is not a number")
    return float(value)


def _flag(path: Path, body: Mapping[str, Any], key: str, default: bool) -> bool:
    value = body.get(key, default)
    if not isinstance(value, bool):
        raise ExchangeError(f"{path}: {key} = {value!r} is neither true nor false")
    return value
