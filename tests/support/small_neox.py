"""A tiny checkpoint in the files of EleutherAI's GPT-NeoX, for the tests of its reader.

Written from what upstream's code writes (megatron/checkpointing.py, gpt2_model.py,
tools/ckpts/convert_neox_to_hf.py), not with anything of the reader.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from release_run import tensors

from alpenglow.model.config import ModelConfig

CONFIG = ModelConfig(
    num_layers=3,
    hidden_size=32,
    num_attention_heads=4,
    vocab_size=96,
    max_position_embeddings=64,
    rotary_pct=0.5,
    use_parallel_residual=False,
    initializer="normal",
)
STEP = 12
NEW = {"h_to_4h": "mlp.linear1.{}", "4h_to_h": "mlp.linear2.{}"}
LEGACY = {"h_to_4h": "mlp.dense_h_to_4h.{}", "4h_to_h": "mlp.dense_4h_to_h.{}"}
ENGINE_NORMS = {"input": "input_layernorm.norm.{}", "final": "norm.norm.{}"}
ENGINE = {
    "h_to_4h": "mlp.fc1_{}",
    "4h_to_h": "mlp.fc2_{}",
    "post": "mlp.layer_norm_{}",
    "qkv": "attention.qkv.{}",
    "dense": "attention.proj.{}",
}

State = dict[str, Any]


def weights_of(config: ModelConfig) -> dict[str, torch.Tensor]:
    """Weights whose sums and halves are exact: small multiples of 1/64."""
    return {name: (t * 64).round() / 64 for name, t in tensors(config, seed=3).items()}


def cut(tensor: torch.Tensor, axis: int, rank: int, ranks: int) -> torch.Tensor:
    return tensor.chunk(ranks, axis)[rank].clone()


def bias_of(whole: torch.Tensor, rank: int, ranks: int, config: ModelConfig) -> torch.Tensor:
    """This rank's copy: unequal shares of the sum, or a replica."""
    if not config.use_parallel_residual:
        return whole.clone()
    shares = [whole / 4 + r for r in range(ranks - 1)]
    return torch.stack([*shares, whole - sum(shares)])[rank]


def layer_states(
    config: ModelConfig, weights: dict[str, torch.Tensor], rank: int, ranks: int, names: State
) -> dict[int, State]:
    """What one tensor rank holds, by pipeline slot."""
    held: dict[int, State] = {
        0: {"word_embeddings.weight": cut(weights["embed_in.weight"], 0, rank, ranks)}
    }
    for layer in range(config.num_layers):
        state: State = {}

        def put(
            name: str, local: str, axis: int | None, *, layer: int = layer, state: State = state
        ) -> None:
            for leaf in ("weight", "bias"):
                whole = weights[f"layers.{layer}.{local}.{leaf}"]
                if axis is None:
                    part = whole.clone()
                elif leaf == "bias" and axis == 1:
                    part = bias_of(whole, rank, ranks, config)
                else:
                    part = cut(whole, axis, rank, ranks)
                state[name.format(leaf)] = part

        put(names.get("input", "input_layernorm.{}"), "input_layernorm", None)
        put(names.get("post", "post_attention_layernorm.{}"), "post_attention_layernorm", None)
        put(names.get("qkv", "attention.query_key_value.{}"), "attention.query_key_value", 0)
        put(names.get("dense", "attention.dense.{}"), "attention.dense", 1)
        put(names["h_to_4h"], "mlp.dense_h_to_4h", 0)
        put(names["4h_to_h"], "mlp.dense_4h_to_h", 1)
        state["attention.rotary_emb.inv_freq"] = torch.ones(4)
        if names is ENGINE:
            state["attention.qkv._extra_state"] = io.BytesIO(b"scales")
        held[layer + 2] = state
    final = names.get("final", "norm.{}")
    norm = {
        final.format(leaf): weights[f"final_layer_norm.{leaf}"].clone()
        for leaf in ("weight", "bias")
    }
    held[config.num_layers + 3] = norm
    if not config.tie_word_embeddings:
        held[config.num_layers + 4] = {
            "final_linear.weight": cut(weights["embed_out.weight"], 0, rank, ranks)
        }
    return held


def engine_state(step: int, module: State | None = None) -> State:
    return {
        "module": module,
        "iteration": step,
        "global_steps": step,
        "random_rng_state": random.getstate(),
        "np_rng_state": np.random.get_state(),  # noqa: NPY002  (what upstream saves)
        "torch_rng_state": torch.get_rng_state(),
        "args": {"num_layers": 3, "tokenizer_type": "HFTokenizer", "scale": np.float64(1.5)},
        "sparse_tensor_module_names": set(),
    }


def configuration(config: ModelConfig, ranks: int, pipeline: int) -> dict[str, State]:
    return {
        "model.yml": {
            "num-layers": config.num_layers,
            "hidden-size": config.hidden_size,
            "num-attention-heads": config.num_attention_heads,
            "max-position-embeddings": config.max_position_embeddings,
            "pos-emb": "rotary",
            "rotary_pct": config.rotary_pct,
            "gpt_j_residual": config.use_parallel_residual,
            "no-weight-tying": not config.tie_word_embeddings,
            "attention-config": [[["flash"], config.num_layers]],
        },
        "setup.yml": {
            "pipe_parallel_size": pipeline,
            "model-parallel-size": ranks,
            "num-layers": config.num_layers,
            "fp16": {"enabled": True},
            "layernorm-epsilon": "1e-5",
        },
    }


def write(
    folder: Path,
    config: ModelConfig,
    weights: dict[str, torch.Tensor],
    ranks: int = 1,
    *,
    names: State = NEW,
    sequential: bool = False,
    dtype: torch.dtype = torch.float32,
    zipped: bool = True,
    change: Callable[[int, int, State], None] = lambda slot, rank, state: None,
) -> Path:
    """Write `global_step12` and `latest`; returns the step's folder."""
    place = folder / f"global_step{STEP}"
    (place / "configs").mkdir(parents=True)
    (folder / "latest").write_text(place.name)

    def save(body: State, name: str) -> None:
        torch.save(body, place / name, _use_new_zipfile_serialization=zipped)

    for rank in range(ranks):
        held = layer_states(config, weights, rank, ranks, names)
        for slot, state in held.items():
            for key, value in state.items():
                if isinstance(value, torch.Tensor):
                    state[key] = value.to(dtype)
            change(slot, rank, state)
        if sequential:
            flat = {f"sequential.{s}.{k}": v for s, state in held.items() for k, v in state.items()}
            save(engine_state(STEP, flat), f"mp_rank_{rank:02d}_model_states.pt")
            continue
        for slot, state in held.items():
            save(state, f"layer_{slot:02d}-model_{rank:02d}-model_states.pt")
        save(engine_state(STEP), f"mp_rank_{rank:02d}_model_states.pt")
    for name, table in configuration(config, ranks, 0 if sequential else 2).items():
        (place / "configs" / name).write_text(yaml.safe_dump(table))
    return place


def configure(place: Path, **changes: object) -> None:
    """Change keys of the model's file; one of its spellings replaces the other."""
    path = place / "configs/model.yml"
    body = yaml.safe_load(path.read_text())
    for key, value in changes.items():
        body.pop(key.replace("_", "-"), None)
        body[key] = value
    path.write_text(yaml.safe_dump(body))
