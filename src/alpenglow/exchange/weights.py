"""A run that begins with another model's weights.

A checkpoint of weights alone, at step 0: samples, updates and learning-rate schedule begin anew,
and Adam's moments at zero (`alpenglow.train.training_state.load`). Weights are widened to fp32,
which is exact for fp16 and bf16; the state keeps the dtype that they had, so that a release of the
checkpoint as it is gives the same bytes back. This module is imported, never started.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch

from alpenglow.exchange.error import ExchangeError
from alpenglow.exchange.source import Source
from alpenglow.exchange.writer import Writer
from alpenglow.model.config import ModelConfig
from alpenglow.train.architecture import first_difference
from alpenglow.train.fragments import Fragment, dtype_name

STEP = 0
"""The step of a checkpoint that a run begins with."""

_VOCABULARY = ("embed_in.weight", "embed_out.weight")


def import_weights(
    source: Source,
    checkpoints: Path,
    model: ModelConfig,
    say: Callable[[str], None],
    *,
    pad_vocabulary: bool = False,
    repository: str | None = None,
) -> Path:
    """Make `checkpoints/step-00000000` of any source's weights; returns it.

    One tensor is in memory at a time, with its fp32 copy.

    Args:
        source: where from.
        checkpoints: the run's folder of checkpoints.
        model: the recipe's; the source must be of the same architecture.
        say: told how far it is.
        pad_vocabulary: give a larger vocabulary of the recipe rows of zeros, for tokens that the
            tokenizer does not have; without it the vocabularies must be equal.
        repository: where the model is published (ORGANISATION/NAME), for the card of what comes of
            it.

    Raises:
        ExchangeError: another architecture, or a source that cannot be read.
        CheckpointError: the checkpoint cannot be written.
    """
    config = _fitting(source, model, pad_vocabulary)
    shapes = config.tensor_shapes()
    writer = Writer(checkpoints, STEP)
    try:
        for count, (name, shape) in enumerate(shapes.items(), 1):
            tensor = source.tensor(name).float()
            if name in _VOCABULARY and len(tensor) < shape[0]:
                rows = tensor.new_zeros(shape[0] - len(tensor), shape[1])
                tensor = torch.cat([tensor, rows])
            writer.add([(Fragment.of("weight", name, tensor), tensor)])
            say(f"{name} ({count} of {len(shapes)})")
        writer.commit(
            {
                "step": STEP,
                "updates": 0,
                "samples": 0,
                "applied": 0,
                "tokens": 0,
                "dtype": "fp32",
                "loss_scale": None,
                "imported": {
                    "from": source.form,
                    "path": str(source.path),
                    "step": source.step,
                    "dtype": dtype_name(source.dtype),
                    "weights_alone": True,
                    **({} if repository is None else {"repository": repository}),
                },
                "recipe": {"model": dataclasses.asdict(config)},
            }
        )
    except BaseException:
        writer.clear()
        raise
    return writer.directory


def _fitting(source: Source, model: ModelConfig, pad_vocabulary: bool) -> ModelConfig:
    """The source's architecture, with the recipe's vocabulary; refuses another one."""
    config = source.config
    rows = config.vocab_size
    if pad_vocabulary and rows < model.vocab_size:
        config = dataclasses.replace(config, vocab_size=model.vocab_size)
    difference = first_difference(config.tensor_shapes(), model, dataclasses.asdict(config))
    if difference is None:
        return config
    advice = ""
    if config.vocab_size < model.vocab_size:
        advice = (
            f"; set model.vocab_size={rows}, or add --pad-vocabulary, which gives the "
            f"{model.vocab_size - rows} tokens more rows of zeros"
        )
    raise ExchangeError(f"{source.path}: a model of another architecture: {difference}{advice}")
