"""Weights of one model at one step, by global tensor name, whatever program wrote them.

A release, a proof and an import read every checkpoint through this one shape, a tensor at a time;
no reader ever holds a model. `open_source` looks at a folder and picks the reader.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from alpenglow.exchange.error import ExchangeError
from alpenglow.exchange.forms import FORMS, form_of
from alpenglow.model.config import ModelConfig, Slice
from alpenglow.train.architecture import first_difference

__all__ = ["FORMS", "Source", "open_source", "open_unlike"]


class Source(Protocol):
    """A checkpoint of any form, open for reading."""

    @property
    def form(self) -> str:
        """One of `FORMS`."""
        ...

    @property
    def path(self) -> Path:
        """The folder, for messages and for the record."""
        ...

    @property
    def step(self) -> int | None:
        """Optimizer steps done; None where the checkpoint does not say."""
        ...

    @property
    def state(self) -> Mapping[str, Any]:
        """What else it says of training (`tokens`, `dtype`, `batches` ...); empty if nothing."""
        ...

    @property
    def config(self) -> ModelConfig:
        """The architecture; every tensor of it has been found, with its shape."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """What the model was trained in."""
        ...

    def stored(self, name: str) -> torch.dtype:
        """Dtype of the best copy of a tensor, which `tensor` gives (fp32 masters if there are)."""
        ...

    def tensor(self, name: str, part: Slice | None = None) -> torch.Tensor:
        """A tensor of `config.tensor_shapes()`, or a box of it, in fresh CPU memory.

        May be called from several threads at once.

        Raises:
            ExchangeError, CheckpointError: damaged or missing bytes.
        """
        ...


def open_source(path: Path, *, form: str = "auto", model: ModelConfig | None = None) -> Source:
    """Open the checkpoint in a folder.

    Args:
        path: `checkpoints/step-N` of a run; `global_stepN` of DeepSpeed or GPT-NeoX, or the folder
            above it, whose `latest` names one; a universal checkpoint; a Hugging Face folder.
        form: one of `FORMS`, or "auto" to look.
        model: the architecture, which deepspeed and universal do not say, nor neox without its
            `configs/`; where the checkpoint says it, it must agree (but for the initializer).

    Raises:
        ExchangeError: no checkpoint of a known form, an incomplete one, another architecture, or a
            file that could run code.
        CheckpointError: a damaged one.
    """
    source = open_unlike(path, form=form, model=model)
    if model is not None:
        config = source.config
        difference = first_difference(config.tensor_shapes(), model, dataclasses.asdict(config))
        if difference is not None:
            raise ExchangeError(f"{source.path}: a model of another architecture: {difference}")
    return source


def open_unlike(path: Path, *, form: str = "auto", model: ModelConfig | None = None) -> Source:
    """Open a checkpoint as `open_source` does, even where it says another model than the one given.

    For a caller that compares them in its own way.
    """
    if form not in ("auto", *FORMS):
        raise ExchangeError(f"form = {form!r}: choose from auto, {', '.join(FORMS)}")
    form = form_of(path) if form == "auto" else form
    if form == "fragments":
        from alpenglow.exchange.fragments import FragmentSource

        return FragmentSource.open(path)
    if form == "deepspeed":
        from alpenglow.exchange.deepspeed_source import DeepSpeedSource

        return DeepSpeedSource.open(path, model)
    if form == "universal":
        from alpenglow.exchange.universal import UniversalSource

        return UniversalSource.open(path, model)
    if form == "neox":
        from alpenglow.exchange.neox import NeoxSource

        return NeoxSource.open(path, model)
    from alpenglow.exchange.huggingface import HuggingFaceSource

    return HuggingFaceSource.open(path)
