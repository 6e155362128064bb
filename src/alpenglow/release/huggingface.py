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

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from alpenglow.exchange.source import Source
from alpenglow.model.config import ModelConfig
from alpenglow.release.error import ReleaseError
from alpenglow.release.tensors import DTYPES, Written, write_model

SHARD_BYTES = 5_000_000_000
"""Largest weight file, the limit that the Hub's own tools used for years."""
CONVERSION = "conversion.json"
"""Where a release says which checkpoint it is; its presence marks a folder as ours to replace."""
END_OF_TEXT = "<|endoftext|>"
_HEAD = "embed_out.weight"
_PREFIX = "gpt_neox."


def huggingface_name(name: str) -> str:
    """`layers.0.mlp.dense_h_to_4h.bias` -> `gpt_neox.layers.0...`; the head has no prefix."""
    return name if name == _HEAD else _PREFIX + name


def global_name(name: str) -> str:
    """Undo `huggingface_name`."""
    return name.removeprefix(_PREFIX)


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


def write_tokenizer(folder: Path, source: Path, config: ModelConfig) -> int:
    """Copy the tokenizer and describe it to transformers; returns the id of `<|endoftext|>`.

    Raises:
        ReleaseError: absent, unreadable, without `<|endoftext|>`, or larger than the model's
            vocabulary.
    """
    if not source.is_file():
        raise ReleaseError(
            f"{source}: no such tokenizer; it belongs beside the catalogue that the run names "
            "(jobs/prepare_data.lsf writes it)"
        )
    try:
        tokenizer = Tokenizer.from_file(str(source))
    except Exception as error:  # the library raises Exception itself
        raise ReleaseError(f"{source}: not a tokenizer: {error}") from None
    size = 1 + max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    if size > config.vocab_size:
        raise ReleaseError(
            f"{source}: {size} tokens do not fit the model's vocabulary of {config.vocab_size}; "
            "it is not the tokenizer of this run"
        )
    end_of_text = tokenizer.token_to_id(END_OF_TEXT)
    if end_of_text is None:
        raise ReleaseError(f"{source}: it has no {END_OF_TEXT} token")
    shutil.copyfile(source, folder / "tokenizer.json")
    special = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "unk_token": END_OF_TEXT}
    # The generic class takes everything from tokenizer.json; GPTNeoXTokenizer would bring rules of
    # its own for normalisation and byte-level splitting.
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **special,
            "model_max_length": config.max_position_embeddings,
            "clean_up_tokenization_spaces": False,
        },
    )
    _write_json(folder / "special_tokens_map.json", special)
    return int(end_of_text)


def write_release(
    folder: Path,
    source: Source,
    tokenizer: Path,
    *,
    dtype: str = "auto",
    shard_bytes: int = SHARD_BYTES,
    done: Callable[[int, int], None] = lambda _done, _total: None,
) -> Written:
    """Write everything but the card into an empty folder.

    Args:
        folder: where; must exist.
        source: what to release.
        tokenizer: the run's tokenizer.json.
        dtype: "auto", "fp32", "fp16" or "bf16".
        shard_bytes: largest weight file.
        done: told (tensors written, tensors in all).

    Raises:
        ReleaseError: a tokenizer or a tensor that does not fit, a cast that overflows.
        ExchangeError, CheckpointError: damage found while reading.
    """
    config = source.config
    target = release_dtype(source, dtype)
    end_of_text = write_tokenizer(folder, tokenizer, config)
    written = write_model(
        folder,
        {huggingface_name(name): shape for name, shape in config.tensor_shapes().items()},
        lambda name: source.tensor(global_name(name)),
        target,
        shard_bytes=shard_bytes,
        done=done,
    )
    _write_json(folder / "config.json", config_json(config, target, end_of_text))
    _write_json(
        folder / "generation_config.json",
        {"bos_token_id": end_of_text, "eos_token_id": end_of_text},
    )
    _write_json(
        folder / CONVERSION,
        {
            "format": 1,
            "step": source.step,
            "source": source.form,
            "dtype": str(target).removeprefix("torch."),
            "xxh3_64": written.hashes,
        },
    )
    return written


@contextmanager
def put_in_place(output: Path) -> Iterator[Path]:
    """Give a folder to fill; when the block ends well it becomes `output`, else it goes.

    An earlier release at `output` stays until the new one is whole.

    Raises:
        ReleaseError: `output` exists and is not a release.
    """
    building = output.with_name(f"{output.name}.tmp")
    former = output.with_name(f"{output.name}.former")
    if former.exists() and not output.exists():
        former.rename(output)  # a kill came between the two renames below
    if output.exists() and not (output / CONVERSION).is_file():
        ours = output.is_dir() and not any(output.iterdir())
        if not ours:
            raise ReleaseError(
                f"{output}: exists and is not a release ({CONVERSION} is absent); it is not "
                "replaced, name another output"
            )
    shutil.rmtree(building, ignore_errors=True)
    shutil.rmtree(former, ignore_errors=True)
    building.mkdir(parents=True)
    try:
        yield building
        for path in (*building.iterdir(), building):
            _sync(path)
        if output.exists():
            output.rename(former)
        building.rename(output)
        _sync(output.parent)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    shutil.rmtree(former, ignore_errors=True)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
