"""A Hugging Face folder of a GPT-NeoX model as conversions to other formats read it.

A few rows at a time, single or sharded safetensors, the rotary settings of either generation of
transformers. Used by `alpenglow.release.gguf_file` and `alpenglow.release.mlc`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError, safe_open

from alpenglow.model.config import ModelConfig
from alpenglow.release.error import ReleaseError
from alpenglow.release.huggingface import CONVERSION, huggingface_name

INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class ReleasedFolder:
    """A released model."""

    path: Path
    config: ModelConfig
    fields: dict[str, Any]
    """config.json as it is."""
    files: dict[str, str]
    """Tensor name of Hugging Face -> file that holds it."""

    @classmethod
    def open(cls, path: Path) -> ReleasedFolder:
        """Read what the folder says of itself, and check that every tensor is listed.

        Raises:
            ReleaseError: no such folder, not a GPT-NeoX model, a setting that no converter here
                carries over, a tensor or a file that is absent.
        """
        if not path.is_dir():
            raise ReleaseError(f"{path}: no such folder; name a release, as convert writes it")
        fields = _json(path / "config.json")
        config = model_config(path / "config.json", fields)
        files = _files(path)
        for name in config.tensor_shapes():
            if huggingface_name(name) not in files:
                raise ReleaseError(f"{path}: {huggingface_name(name)} is missing")
        return cls(path, config, fields, files)

    @contextmanager
    def reading(self, name: str) -> Iterator[Callable[[int, int], torch.Tensor]]:
        """Give a function that reads rows [start, stop) of a tensor, in the dtype that is stored.

        Args:
            name: the model's own name (without `gpt_neox.`).

        Raises:
            ReleaseError: the file is damaged or the shape is another one.
        """
        key = huggingface_name(name)
        file = self.path / self.files[key]
        try:
            with safe_open(file, framework="pt") as opened:
                found = opened.get_slice(key)
                shape, wanted = tuple(found.get_shape()), self.config.tensor_shapes()[name]
                if shape != wanted:
                    raise ReleaseError(f"{file}: {key} has shape {shape}, not {wanted}")
                yield lambda start, stop: found[start:stop]
        except SafetensorError as error:
            raise ReleaseError(f"{file}: {key}: {error}") from None

    @property
    def dtype(self) -> torch.dtype:
        """Of the stored weights: what the embedding has."""
        key = huggingface_name("embed_in.weight")
        try:
            with safe_open(self.path / self.files[key], framework="pt") as opened:
                code = str(opened.get_slice(key).get_dtype())
        except (OSError, SafetensorError) as error:
            raise ReleaseError(f"{self.path / self.files[key]}: {error}") from None
        known = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
        if code not in known:
            raise ReleaseError(f"{self.path}: weights of dtype {code}; use F32, F16 or BF16 ones")
        return known[code]

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
        step = _json(self.path / CONVERSION).get("step")
        return step if isinstance(step, int) else None

    def token_id(self, which: str) -> int | None:
        """`bos_token_id` or `eos_token_id` of config.json."""
        value = self.fields.get(which)
        return value if isinstance(value, int) and not isinstance(value, bool) else None


def model_config(path: Path, fields: dict[str, Any]) -> ModelConfig:
    """The architecture that a config.json states; `path` is for messages.

    Raises:
        ReleaseError: another architecture, a field that is absent or unusable.
    """
    if fields.get("model_type") != "gpt_neox":
        raise ReleaseError(f"{path}: model_type {fields.get('model_type')!r}, not gpt_neox")
    rotary = fields.get("rope_parameters") or fields.get("rope_scaling") or {}
    kind = rotary.get("rope_type", rotary.get("type", "default"))
    if kind != "default":
        raise ReleaseError(f"{path}: rotary scaling {kind!r} is not converted; only default is")
    if fields.get("hidden_act", "gelu") not in ("gelu", "gelu_new", "gelu_fast"):
        raise ReleaseError(f"{path}: hidden_act {fields['hidden_act']!r}; GPT-NeoX has gelu")
    if fields.get("attention_bias", True) is not True:
        raise ReleaseError(f"{path}: attention_bias is off; every linear layer needs its bias")
    share = rotary.get("partial_rotary_factor", fields.get("rotary_pct"))
    base = rotary.get("rope_theta", fields.get("rotary_emb_base"))
    try:
        return ModelConfig(
            num_layers=int(fields["num_hidden_layers"]),
            hidden_size=int(fields["hidden_size"]),
            num_attention_heads=int(fields["num_attention_heads"]),
            vocab_size=int(fields["vocab_size"]),
            max_position_embeddings=int(fields["max_position_embeddings"]),
            intermediate_size=int(fields["intermediate_size"]),
            rotary_pct=float(0.25 if share is None else share),
            rotary_emb_base=int(10000 if base is None else base),
            use_parallel_residual=bool(fields.get("use_parallel_residual", True)),
            tie_word_embeddings=bool(fields.get("tie_word_embeddings", False)),
            layer_norm_eps=float(fields.get("layer_norm_eps", 1e-5)),
        )
    except KeyError as error:
        raise ReleaseError(f"{path}: {error.args[0]} is absent") from None
    except (TypeError, ValueError) as error:
        raise ReleaseError(f"{path}: {error}") from None


def _files(path: Path) -> dict[str, str]:
    if (path / INDEX).is_file():
        named = _json(path / INDEX).get("weight_map")
        if not isinstance(named, dict) or not named:
            raise ReleaseError(f"{path / INDEX}: it has no weight_map")
        for file in sorted(set(named.values())):
            if not (path / file).is_file():
                raise ReleaseError(f"{path / file}: missing, and {INDEX} names it")
        return named
    file = path / "model.safetensors"
    try:
        with safe_open(file, framework="pt") as opened:
            return dict.fromkeys(opened.keys(), file.name)
    except FileNotFoundError:
        raise ReleaseError(f"{path}: no model.safetensors and no {INDEX}") from None
    except (OSError, SafetensorError) as error:
        raise ReleaseError(f"{file}: {error}") from None


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ReleaseError(f"{path}: missing") from None
    except (OSError, ValueError) as error:
        raise ReleaseError(f"{path}: {error}") from None
    if not isinstance(found, dict):
        raise ReleaseError(f"{path}: not a JSON object")
    return found
