"""Our own checkpoints as a source of weights: whatever layout wrote them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from alpenglow.config import ConfigError, parse
from alpenglow.exchange.error import ExchangeError
from alpenglow.model.config import ModelConfig, Slice
from alpenglow.train.checkpoint import Checkpoint
from alpenglow.train.fragments import DTYPES


class FragmentSource:
    """A checkpoint of the trainer.

    Args:
        checkpoint: open.
    """

    form = "fragments"

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._kind = "master" if "master" in checkpoint.kinds() else "weight"

    @classmethod
    def open(cls, directory: Path) -> FragmentSource:
        """Open `checkpoints/step-N`.

        Raises:
            CheckpointError: no checkpoint here, or a damaged one.
        """
        return cls(Checkpoint.open(directory))

    @property
    def path(self) -> Path:
        """The folder of the step."""
        return self._checkpoint.directory

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self._checkpoint.step

    @property
    def state(self) -> Mapping[str, Any]:
        """What the trainer wrote beside the tensors."""
        return self._checkpoint.state

    @cached_property
    def config(self) -> ModelConfig:
        """The architecture, from the checkpoint's own table.

        Raises:
            ExchangeError: the state has neither a recipe's model table nor one of its own, or the
                tensors do not fit it.
        """
        recipe = self.state.get("recipe")
        table = (recipe if isinstance(recipe, dict) else self.state).get("model")
        if not isinstance(table, dict):
            raise ExchangeError(
                f"{self.path}: its state has no model table, so its architecture is unknown"
            )
        try:
            config = parse(ModelConfig, table, f"{self.path}: model")
        except ConfigError as error:
            raise ExchangeError(str(error)) from None
        present = set(self._checkpoint.names(self._kind))
        for name, shape in config.tensor_shapes().items():
            found = self._checkpoint.shape(self._kind, name) if name in present else None
            if found != shape:
                what = f"has shape {found}" if found else "is missing"
                raise ExchangeError(f"{self.path}: {name} of shape {shape} {what}")
        return config

    @property
    def dtype(self) -> torch.dtype:
        """What the model was trained in; of an import, what its own files held."""
        imported = self.state.get("imported")
        named = imported.get("dtype") if isinstance(imported, dict) else None
        if named in DTYPES:
            return DTYPES[named]
        return self._checkpoint.dtype("weight", self._checkpoint.names("weight")[0])

    def stored(self, name: str) -> torch.dtype:
        """Dtype of the optimizer's master copy where there is one, else of the weight."""
        return self._checkpoint.dtype(self._kind, name)

    def tensor(self, name: str, part: Slice | None = None) -> torch.Tensor:
        """A tensor, or a box of it.

        Raises:
            CheckpointError: damaged or missing fragments.
        """
        return self._checkpoint.tensor(self._kind, name, part)

    def rows(self, name: str, stop: int | None = None) -> Iterator[torch.Tensor]:
        """The rows of a tensor from the first, some at a time; each is valid until the next.

        Takes the memory of two small chunks. The checksums are verified when the iterator ends.

        Args:
            name: of `config.tensor_shapes()`.
            stop: rows wanted; None is all.

        Raises:
            CheckpointError: damaged or missing fragments.
        """
        return self._checkpoint.rows(self._kind, name, stop)
