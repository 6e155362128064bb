"""Weights of one model at one step, by global tensor name, whatever program wrote them.

A release, a proof and an import read every checkpoint through this one shape, a tensor at a time;
no reader ever holds a model. `open_source` looks at a folder and picks the reader.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from alpenglow.exchange.error import ExchangeError
from alpenglow.model.config import ModelConfig, Slice

FORMS = ("fragments",)
"""What `open_source` knows, by the names that it takes."""


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
        path: `checkpoints/step-N` of a run.
        form: one of `FORMS`, or "auto" to look.
        model: the architecture, for forms that do not say it; for the others it must agree.

    Raises:
        ExchangeError: no checkpoint of a known form, an incomplete one, or another architecture.
        CheckpointError: a damaged one.
    """
    from alpenglow.exchange.fragments import FragmentSource

    if form not in ("auto", *FORMS):
        raise ExchangeError(f"form = {form!r}: choose from auto, {', '.join(FORMS)}")
    return FragmentSource.open(path)
