"""A Hugging Face folder of a GPT-NeoX model as conversions to other formats read it.

Its weights (`alpenglow.exchange.huggingface`), and what config, card and conversion.json say.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from alpenglow.exchange.huggingface import HuggingFaceSource
from alpenglow.model.config import ModelConfig
from alpenglow.release.conversion import CONVERSION
from alpenglow.release.error import ReleaseError
from alpenglow.release.verification.model_files import read_json


@dataclass(frozen=True)
class ReleasedFolder:
    """A released model."""

    path: Path
    source: HuggingFaceSource
    """Its weights."""
    fields: dict[str, Any]
    """config.json as it is."""

    @classmethod
    def open(cls, path: Path) -> ReleasedFolder:
        """Read what the folder says of itself, and look at the shape of every tensor.

        Raises:
            ReleaseError: no such folder.
            ExchangeError: not a GPT-NeoX model, a setting that is not carried over, a tensor or a
                file that is absent or damaged.
        """
        if not path.is_dir():
            raise ReleaseError(f"{path}: no such folder; name a release, as convert writes it")
        source = HuggingFaceSource.open(path)
        return cls(path, source, read_json(path / "config.json"))

    @property
    def config(self) -> ModelConfig:
        """The architecture."""
        return self.source.config

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows [start, stop) of a tensor by the model's own name, in the dtype that is stored.

        Raises:
            ExchangeError: the file is gone or damaged.
        """
        _, *columns = self.config.tensor_shapes()[name]
        return self.source.tensor(name, ((start, stop), *((0, n) for n in columns)))

    @property
    def dtype(self) -> torch.dtype:
        """Of the stored weights."""
        return self.source.dtype

    @property
    def tokenizer(self) -> Path:
        """tokenizer.json."""
        return self.path / "tokenizer.json"

    def card(self) -> dict[str, Any]:
        """Front matter of the model card; empty where there is none that can be read."""
        try:
            text = (self.path / "README.md").read_text(encoding="utf-8")
            if not text.startswith("---\n"):
                return {}
            found = yaml.safe_load(text[4:].split("\n---", 1)[0])
        except (OSError, ValueError, yaml.YAMLError):
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def name(self) -> str:
        """As the card says, else the folder's."""
        named = self.card().get("model_name")
        return str(named) if named else self.path.resolve().name

    @property
    def licence(self) -> str | None:
        """As the card says; None where it says nothing or "unknown"."""
        said = self.card().get("license")
        return str(said) if said and said != "unknown" else None

    @property
    def step(self) -> int | None:
        """Training step, where conversion.json says it."""
        if not (self.path / CONVERSION).is_file():
            return None
        step = read_json(self.path / CONVERSION).get("step")
        return step if isinstance(step, int) else None

    def token_id(self, which: str) -> int | None:
        """`bos_token_id` or `eos_token_id` of config.json."""
        value = self.fields.get(which)
        return value if isinstance(value, int) and not isinstance(value, bool) else None
