"""A checkpoint as a Hugging Face folder that `transformers` loads.

Works tensor by tensor, needs neither DeepSpeed nor a GPU, and reads a checkpoint of any layout,
because a source gives global tensors (`alpenglow.exchange.source`).

Row-parallel biases (`attention.dense.bias`, `mlp.dense_4h_to_h.bias`) deserve a word: the converter
of GPT-NeoX doubles them. There, every tensor-parallel rank keeps such a bias of its own. With the
parallel residual each rank adds its copy *before* the shared all-reduce, so the model's bias is the
sum of the copies; with the serial residual each adds its copy *after* the all-reduce, so the
model's bias is one copy. The upstream converter sums in both cases, which is wrong for serial
models trained with tensor parallelism (RedPajama-INCITE among them) by a factor of that degree. Our
layers add the bias once and after the reduction in both forms (`alpenglow.parallel.tensor`,
`alpenglow.model.layers`); the ranks' copies are equal replicas, the checkpoint holds one of them,
and that one is the model's bias, exactly, whatever the residual form and the tensor degree. A test
converts a TP 2 checkpoint with non-zero biases in both forms and compares logits.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch

from alpenglow.exchange.huggingface_config import global_name, huggingface_name
from alpenglow.exchange.source import Source
from alpenglow.model.config import ModelConfig
from alpenglow.release.conversion import Conversion
from alpenglow.release.pieces import Pieces
from alpenglow.release.tensor_writer import Written, write_model
from alpenglow.release.tensors import DTYPES
from alpenglow.release.tokenizer import ReleasedTokenizer

__all__ = [
    "SHARD_BYTES",
    "config_json",
    "global_name",
    "huggingface_name",
    "release_dtype",
    "released_bytes",
    "write_release",
]

SHARD_BYTES = 5_000_000_000
"""Largest weight file, the limit that the Hub's own tools used for years."""
_BESIDE = 1 << 20
"""Bytes of config, card and headers, generously."""


def release_dtype(source: Source, dtype: str) -> torch.dtype:
    """The dtype of a release; "auto" is the one that the model was trained in."""
    return source.dtype if dtype == "auto" else DTYPES[dtype]


def config_json(config: ModelConfig, dtype: torch.dtype, end_of_text: int) -> dict[str, Any]:
    """`config.json`: rotary settings in the form of transformers 5 and in the older one.

    transformers 5 reads `rope_parameters` and `dtype`, releases before it and the GGUF converters
    read `rotary_pct`, `rotary_emb_base` and `torch_dtype`; each ignores the other's.
    """
    name = str(dtype).removeprefix("torch.")
    return {
        "architectures": ["GPTNeoXForCausalLM"],
        "model_type": "gpt_neox",
        **config.huggingface_fields(),
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": float(config.rotary_emb_base),
            "partial_rotary_factor": config.rotary_pct,
        },
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "dtype": name,
        "torch_dtype": name,
        "use_cache": True,
    }


def released_bytes(source: Source, dtype: torch.dtype, tokenizer: Path) -> int:
    """Bytes that a release of this source takes on disk, rounded up."""
    parameters = sum(math.prod(shape) for shape in source.config.tensor_shapes().values())
    return parameters * dtype.itemsize + tokenizer.stat().st_size + _BESIDE


def write_release(
    folder: Path,
    source: Source,
    tokenizer: Path,
    *,
    dtype: str = "auto",
    vocabulary: Literal["padded", "trimmed"] = "padded",
    shard_bytes: int = SHARD_BYTES,
    workers: int = 1,
    done: Callable[[int, int], None] = lambda _done, _total: None,
) -> Written:
    """Write everything but the card into an empty folder.

    Args:
        folder: where; must exist.
        source: what to release.
        tokenizer: the run's tokenizer.json.
        dtype: "auto", "fp32", "fp16" or "bf16".
        vocabulary: all of the model's rows, or as many as the tokenizer has ids
            (`alpenglow.release.vocabulary`).
        shard_bytes: largest weight file.
        workers: threads.
        done: told (tensors written, tensors in all).

    Raises:
        ReleaseError: a tokenizer or a tensor that does not fit, a cast that overflows, a full disk.
        ExchangeError, CheckpointError: damage found while reading.
    """
    whole = source.config.vocab_size
    tokens = ReleasedTokenizer.read(tokenizer, source.config)
    rows = min(whole, tokens.ids) if vocabulary == "trimmed" else whole
    config = dataclasses.replace(source.config, vocab_size=rows)
    pieces = Pieces(source, rows)
    target = release_dtype(source, dtype)
    shapes = {huggingface_name(name): shape for name, shape in config.tensor_shapes().items()}
    tokens.write(folder, config)
    written = write_model(
        folder,
        shapes,
        lambda name: pieces.of(global_name(name)),
        target,
        shard_bytes=shard_bytes,
        workers=workers,
        stored=lambda name: pieces.stored(global_name(name)),
        held=lambda name: pieces.held(global_name(name)),
        done=done,
    )
    _write_json(folder / "config.json", config_json(config, target, tokens.end_of_text))
    _write_json(
        folder / "generation_config.json",
        {"bos_token_id": tokens.end_of_text, "eos_token_id": tokens.end_of_text},
    )
    Conversion(
        step=source.step,
        source={"form": source.form, "path": _named(source.path)},
        dtype=str(target).removeprefix("torch."),
        vocabulary={"model": whole, "released": config.vocab_size, "tokenizer": tokens.ids},
        verification=None,
        xxh3_64=written.hashes,
    ).write(folder)
    return written


def _named(checkpoint: Path) -> str:
    """A checkpoint by its place in its run, so that a release tells nobody where the run lies."""
    path = checkpoint.resolve()
    for above in path.parents:
        if (above / "run.toml").is_file():
            return str(path.relative_to(above))
    return str(checkpoint)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
