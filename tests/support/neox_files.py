"""What EleutherAI's GPT-NeoX keeps, writes and computes, as an account of our own that runs.

    model = NeoxModel(config, tensor=2, naming="new")
    folder = model.write(tmp_path / "checkpoints", step=10)     # .../global_step10
    logits = model.logits(tokens)                               # as its ranks compute them

Every tensor rank draws parameters of its own, so no whole tensor exists here that a reader could
have been tested against by mistake: the one truth is the forward pass over the ranks. The rules are
those of github.com/EleutherAI/gpt-neox, named where they are used; none of its code is here.

Slots of its pipeline (megatron/model/gpt2_model.py): 0 embedding, 1 a function, 2 to L + 1 the
layers, L + 2 a function, L + 3 the norm, L + 4 the head; functions leave no file, nor does the head
of a tied model, which is a function of the embedding's slot.
"""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from alpenglow.model.config import ModelConfig

Naming = Literal["new", "legacy", "transformer_engine"]
NAMINGS: tuple[Naming, ...] = ("new", "legacy", "transformer_engine")

# Names inside a layer's slot by what they are: transformer.py today ("new"), transformer.py of 2021
# to 2023 ("legacy"), transformer_engine.py with te_mha and te_layernorm_mlp.
_LAYER_NAMES: dict[Naming, dict[str, str]] = {
    "new": {
        "norm1": "input_layernorm.{}",
        "norm2": "post_attention_layernorm.{}",
        "qkv": "attention.query_key_value.{}",
        "dense": "attention.dense.{}",
        "up": "mlp.linear1.{}",
        "down": "mlp.linear2.{}",
    },
    "legacy": {
        "norm1": "input_layernorm.{}",
        "norm2": "post_attention_layernorm.{}",
        "qkv": "attention.query_key_value.{}",
        "dense": "attention.dense.{}",
        "up": "mlp.dense_h_to_4h.{}",
        "down": "mlp.dense_4h_to_h.{}",
    },
    "transformer_engine": {
        "norm1": "input_layernorm.{}",
        "norm2": "mlp.layer_norm_{}",
        "qkv": "attention.qkv.{}",
        "dense": "attention.proj.{}",
        "up": "mlp.fc1_{}",
        "down": "mlp.fc2_{}",
    },
}
_ENGINE_STATES = ("attention.qkv", "attention.core_attention", "attention.proj", "mlp")

Slots = dict[int, dict[str, Tensor]]
"""Slot -> parameter name -> this tensor rank's part."""


@dataclass(frozen=True)
class NeoxModel:
    config: ModelConfig
    tensor: int = 1
    naming: Naming = "new"
    pipeline: int = 1
    seed: int = 1
    bias_gelu_fusion: bool = False
    """Its fused GELU is the tanh approximation (fused_bias_gelu.py); without, the exact one."""

    @property
    def reduces_twice(self) -> bool:
        """Whether the ranks' sums are summed again.

        transformer_engine.py hands no parallel_output on: its row-parallel modules reduce by
        themselves whenever there are several ranks, and the parallel residual in transformer.py
        reduces what comes out once more. Such a model computes `tensor` times the branches that its
        matrices say.
        """
        several = self.tensor > 1 and self.config.use_parallel_residual
        return several and self.naming == "transformer_engine"

    @cached_property
    def ranks(self) -> list[Slots]:
        """Parameters of each tensor rank."""
        return [self._rank(rank) for rank in range(self.tensor)]

    def bias(self, rank: int, layer: int, kind: str) -> Tensor:
        """One rank's bias of "qkv", "dense", "up" or "down" in a layer."""
        return _Layer(self, self.ranks[rank][layer + 2]).bias(kind)

    def _rank(self, rank: int) -> Slots:
        c, names = self.config, _LAYER_NAMES[self.naming]
        h, t, last = c.hidden_size, self.tensor, c.num_layers + 1

        def draw(*shape: int, part: str, alike: bool = False, centre: float = 0.0) -> Tensor:
            """`alike`: every rank draws the same, as for what it keeps whole."""
            place = 0 if alike else 1 + rank
            seed = zlib.crc32(f"{self.seed} {part} {place}".encode())
            generator = torch.Generator().manual_seed(seed)
            spread = 0.3 if len(shape) == 1 else 1.4 * h**-0.5
            return centre + spread * torch.randn(shape, generator=generator)

        def linear(kind: str, rows: int, columns: int, slot: int, alike: bool) -> dict[str, Tensor]:
            return {
                names[kind].format("weight"): draw(rows, columns, part=f"{slot} {kind} weight"),
                names[kind].format("bias"): draw(rows, part=f"{slot} {kind} bias", alike=alike),
            }

        def norm(name: str, slot: int) -> dict[str, Tensor]:
            return {
                name.format("weight"): draw(
                    h, part=f"{slot} {name} weight", alike=True, centre=1.0
                ),
                name.format("bias"): draw(h, part=f"{slot} {name} bias", alike=True),
            }

        slots: Slots = {0: {"word_embeddings.weight": draw(c.vocab_size // t, h, part="embed")}}
        # mpu/layers.py, RowParallelLinear: every rank has a whole bias of its own. Added before the
        # all-reduce (parallel_output, which transformer.py sets to gpt_j_residual) each gets the
        # gradient of the sum, but starts and may drift on its own; added after it, all are one.
        one = not c.use_parallel_residual
        for slot in range(2, c.num_layers + 2):
            slots[slot] = {
                **norm(names["norm1"], slot),
                **norm(names["norm2"], slot),
                **linear("qkv", 3 * h // t, h, slot, False),
                **linear("dense", h, h // t, slot, one),
                **linear("up", c.intermediate_size // t, h, slot, False),
                **linear("down", h, c.intermediate_size // t, slot, one),
            }
            if self.naming == "legacy":  # a saved buffer then (positional_embeddings.py)
                slots[slot]["attention.rotary_emb.inv_freq"] = self._frequencies()
            if self.naming == "transformer_engine":
                for module in _ENGINE_STATES:
                    slots[slot][f"{module}._extra_state"] = torch.empty(0, dtype=torch.uint8)
        slots[last + 2] = norm("norm.{}", last + 2)
        if not c.tie_word_embeddings:
            slots[last + 3] = {"final_linear.weight": draw(c.vocab_size // t, h, part="head")}
        return slots

    def _frequencies(self) -> Tensor:
        exponents = torch.arange(0, self.config.rotary_ndims, 2).float() / self.config.rotary_ndims
        return 1.0 / self.config.rotary_emb_base**exponents

    # What it computes.

    @torch.no_grad()
    def logits(self, tokens: Tensor) -> Tensor:
        """int64 [rows, length] -> fp32 [rows, length, vocabulary], by all ranks in turn."""
        c, ranks = self.config, self.ranks
        streams = [x.transpose(0, 1) for x in self._embedded(tokens)]  # its layout: [s, b, h]
        for slot in range(2, c.num_layers + 2):
            streams = self._layer(streams, [_Layer(self, rank[slot]) for rank in ranks])
        norm, head = c.num_layers + 3, c.num_layers + 4
        columns = []
        for x, rank in zip(streams, ranks, strict=True):
            final = functional.layer_norm(
                x.transpose(0, 1),
                (c.hidden_size,),
                rank[norm]["norm.weight"],
                rank[norm]["norm.bias"],
                c.layer_norm_eps,
            )
            matrix = (
                rank[0]["word_embeddings.weight"]
                if c.tie_word_embeddings
                else rank[head]["final_linear.weight"]
            )
            columns.append(final @ matrix.T)
        return torch.cat(columns, dim=-1)

    def _embedded(self, tokens: Tensor) -> list[Tensor]:
        """VocabParallelEmbedding: rows outside a rank's share are zero, then the sum."""
        share = self.config.vocab_size // self.tensor
        parts = []
        for number, rank in enumerate(self.ranks):
            local = tokens - number * share
            outside = (local < 0) | (local >= share)
            rows = rank[0]["word_embeddings.weight"][local.masked_fill(outside, 0)]
            parts.append(rows.masked_fill(outside[..., None], 0.0))
        return _reduced(parts)

    def _layer(self, streams: list[Tensor], layers: list[_Layer]) -> list[Tensor]:
        """ParallelTransformerLayer.forward of transformer.py, for all ranks."""
        inside = self.naming == "transformer_engine"
        first = [layer.norm("norm1", x) for layer, x in zip(layers, streams, strict=True)]
        attended = [layer.attention(x) for layer, x in zip(layers, first, strict=True)]
        if self.config.use_parallel_residual:
            second = [layer.norm("norm2", x) for layer, x in zip(layers, streams, strict=True)]
            wide = [layer.mlp(x) for layer, x in zip(layers, second, strict=True)]
            if inside:
                attended, wide = _reduced(attended), _reduced(wide)
            branches = [
                a + layer.bias("dense") + m + layer.bias("down")
                for a, m, layer in zip(attended, wide, layers, strict=True)
            ]
            return [x + y for x, y in zip(streams, _reduced(branches), strict=True)]
        streams = [
            x + a + layer.bias("dense")
            for x, a, layer in zip(streams, _reduced(attended), layers, strict=True)
        ]
        second = [layer.norm("norm2", x) for layer, x in zip(layers, streams, strict=True)]
        wide = _reduced([layer.mlp(x) for layer, x in zip(layers, second, strict=True)])
        return [
            x + m + layer.bias("down") for x, m, layer in zip(streams, wide, layers, strict=True)
        ]

    # What it writes.

    def write(self, save: Path, step: int, dtype: torch.dtype = torch.float32) -> Path:
        """Write `global_stepN`, its `configs/` and `latest`; returns the step's folder."""
        folder = save / f"global_step{step}"
        folder.mkdir(parents=True)
        for number, slots in enumerate(self.ranks):
            for slot, tensors in slots.items():
                # DeepSpeed's PipelineModule.ckpt_layer_path and save_state_dict.
                file = folder / f"layer_{slot:02d}-model_{number:02d}-model_states.pt"
                cast = {k: v.to(dtype) if v.is_floating_point() else v for k, v in tensors.items()}
                torch.save(cast, file)
        for number in range(self.pipeline * self.tensor):
            state = self._engine_state(step, dtype)
            torch.save(state, folder / f"mp_rank_{number:02d}_model_states.pt")
        (folder / "configs").mkdir()
        for name, text in self.config_files(dtype).items():
            (folder / "configs" / name).write_text(text)
        (save / "latest").write_text(folder.name)
        return folder

    def _engine_state(self, step: int, dtype: torch.dtype) -> dict[str, Any]:
        """DeepSpeed's state of an engine, with what checkpointing.py adds to it."""
        c = self.config
        return {
            "module": None,
            "buffer_names": [],
            "optimizer": None,
            "param_shapes": [{"0.word_embeddings.weight": torch.Size((c.vocab_size, 1))}],
            "frozen_param_shapes": None,
            "lr_scheduler": {"start_lr": 1e-4, "num_iters": step},
            "data_sampler": None,
            "random_ltd": None,
            "skipped_steps": 1,
            "global_steps": step,
            "global_samples": step * 8,
            "dp_world_size": 1,
            "mp_world_size": self.tensor,
            "ds_config": {"train_batch_size": 8, "fp16": {"enabled": dtype == torch.float16}},
            "ds_version": "0.8.2",
            "iteration": step,
            "args": {
                "num_layers": c.num_layers,
                "hidden_size": c.hidden_size,
                "num_attention_heads": c.num_attention_heads,
                "max_position_embeddings": c.max_position_embeddings,
                "make_vocab_size_divisible_by": c.vocab_size // self.tensor,
                "padded_vocab_size": c.vocab_size,
                "tokenizer_type": "HFTokenizer",
                "model_parallel_size": self.tensor,
            },
            "random_rng_state": random.Random(step).getstate(),
            "np_rng_state": np.random.RandomState(step).get_state(),
            "torch_rng_state": torch.get_rng_state(),
            "cuda_rng_state": torch.get_rng_state(),
            "rng_tracker_states": {"model-parallel-rng": torch.get_rng_state()},
        }

    def config_files(self, dtype: torch.dtype) -> dict[str, str]:
        """The configs as users write them: several files, braces and comments, both dashes and
        underscores, and nothing said where the default serves (neox_args.py)."""
        c = self.config
        model: dict[str, object] = {
            "pipe-parallel-size": self.pipeline,
            "model-parallel-size": self.tensor,
            "num-layers": c.num_layers,
            "hidden-size": c.hidden_size,
            "num-attention-heads": c.num_attention_heads,
            "seq-length": c.max_position_embeddings,
            "max-position-embeddings": c.max_position_embeddings,
            "norm": "layernorm",
            "pos-emb": "rotary",
            "output_layer_parallelism": "column",
            "bias-gelu-fusion": self.bias_gelu_fusion,
            "make-vocab-size-divisible-by": c.vocab_size // self.tensor,
            "precision": {torch.float16: "fp16", torch.bfloat16: "bfloat16"}.get(dtype, "fp32"),
            "optimizer": {"type": "Adam", "params": {"lr": 0.00012, "betas": [0.9, 0.95]}},
            "fp16": {"enabled": dtype == torch.float16, "loss_scale": 0},
        }
        if c.rotary_pct != 1.0:  # the default
            model["rotary_pct"] = c.rotary_pct
        if c.rotary_emb_base != 10000:
            model["rotary-emb-base"] = c.rotary_emb_base
        if not c.tie_word_embeddings:  # tied is the default
            model["no-weight-tying"] = True
        if c.use_parallel_residual:  # serial is the default
            model["gpt_j_residual"] = True
        if c.intermediate_size != 4 * c.hidden_size:
            model["intermediate-size"] = c.intermediate_size
        if c.layer_norm_eps != 1e-5:
            model["layernorm-epsilon"] = c.layer_norm_eps
        if self.naming == "transformer_engine":
            model |= {"te_mha": True, "te_layernorm_mlp": True}
        local = {"data-path": "data/text_document", "vocab-file": "data/tokenizer.json"}
        local |= {"tokenizer_type": "HFTokenizer", "save": "checkpoints", "load": "checkpoints"}
        return {"model.yml": _yaml("a small model", model), "local_setup.yml": _yaml("here", local)}


class _Layer:
    """One layer on one tensor rank."""

    def __init__(self, model: NeoxModel, tensors: dict[str, Tensor]) -> None:
        self._model, self._tensors = model, tensors
        self._names = _LAYER_NAMES[model.naming]

    def weight(self, kind: str) -> Tensor:
        return self._tensors[self._names[kind].format("weight")]

    def bias(self, kind: str) -> Tensor:
        return self._tensors[self._names[kind].format("bias")]

    def norm(self, kind: str, x: Tensor) -> Tensor:
        eps = self._model.config.layer_norm_eps
        return functional.layer_norm(x, x.shape[-1:], self.weight(kind), self.bias(kind), eps)

    def mlp(self, x: Tensor) -> Tensor:
        """Before the reduction, without the second bias."""
        form = "tanh" if self._model.bias_gelu_fusion else "none"
        wide = functional.gelu(x @ self.weight("up").T + self.bias("up"), approximate=form)
        return wide @ self.weight("down").T

    def attention(self, x: Tensor) -> Tensor:
        """[s, b, h] -> the same, before the reduction, without the second bias."""
        c = self._model.config
        length, rows, _ = x.shape
        mixed = x @ self.weight("qkv").T + self.bias("qkv")
        heads = mixed.view(length, rows, -1, 3 * c.head_dim)
        query, key, value = torch.split(heads, c.head_dim, dim=-1)  # each [s, b, np, hn]
        query, key = self._turned(query), self._turned(key)
        scores = torch.einsum("sbnd,tbnd->bnst", query, key) / c.head_dim**0.5
        future = torch.ones(length, length, dtype=torch.bool).triu(1)
        weights = scores.masked_fill(future, torch.finfo(scores.dtype).min).softmax(dim=-1)
        mixed = torch.einsum("bnst,tbnd->sbnd", weights, value).reshape(length, rows, -1)
        return mixed @ self.weight("dense").T

    def _turned(self, x: Tensor) -> Tensor:
        """positional_embeddings.py: the first dimensions turn, one half against the other."""
        ndims = self._model.config.rotary_ndims
        angles = torch.outer(torch.arange(len(x)).float(), self._model._frequencies())
        angles = torch.cat((angles, angles), dim=-1)[:, None, None, :]
        turning, passing = x[..., :ndims], x[..., ndims:]
        low, high = turning.chunk(2, dim=-1)
        across = torch.cat((-high, low), dim=-1)
        return torch.cat((turning * angles.cos() + across * angles.sin(), passing), dim=-1)


def _reduced(parts: list[Tensor]) -> list[Tensor]:
    """An all-reduce: every rank gets the sum."""
    return [torch.stack(parts).sum(dim=0)] * len(parts)


def _yaml(title: str, values: Mapping[str, object]) -> str:
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}," for key, value in values.items()]
    return "\n".join([f"# {title}", "{", *lines, "}"]) + "\n"
