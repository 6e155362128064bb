"""A Hugging Face GPT-NeoX folder as a source of weights.

`model.safetensors`, numbered shards with `model.safetensors.index.json`, or the older
`pytorch_model.bin` (also sharded), which is read without running what is in it. This module is
imported, never started.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from alpenglow.exchange.error import ExchangeError
from alpenglow.exchange.huggingface_config import (
    OLD,
    SAFE,
    WEIGHTS,
    huggingface_name,
    read_config,
)
from alpenglow.exchange.layer_files import FLOATS, checked, tensors_of
from alpenglow.model.config import ModelConfig, Slice

_HEAD = "embed_out.weight"
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
# Buffers of older transformers, functions of the configuration.
_BUFFERS = (".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq")


@dataclass(frozen=True)
class _Place:
    """Where a tensor lies."""

    path: Path
    name: str
    dtype: torch.dtype


class HuggingFaceSource:
    """A folder that `transformers` loads as GPTNeoXForCausalLM; get one by `open`."""

    form = "huggingface"
    step = None
    """A folder does not say how many steps its weights took."""

    def __init__(self, path: Path, config: ModelConfig, places: Mapping[str, _Place]) -> None:
        self.path = path
        self.config = config
        self.state: Mapping[str, Any] = {}
        self._places = places

    @classmethod
    def open(cls, path: Path) -> HuggingFaceSource:
        """Open a folder and look at the shape of every tensor.

        Raises:
            ExchangeError: an architecture that cannot be expressed; a file that is missing,
                damaged or could run code; a tensor that is missing, too many, or of another shape.
        """
        config = read_config(path)
        files = _files(path)
        wanted = {huggingface_name(name): name for name in config.tensor_shapes()}
        places: dict[str, _Place] = {}
        for file in files:
            for theirs, (shape, dtype) in _header(file).items():
                if theirs.endswith(_BUFFERS) or (theirs == _HEAD and config.tie_word_embeddings):
                    continue
                name = wanted.get(theirs)
                if name is None:
                    raise ExchangeError(f"{file}: {theirs} is no part of the architecture")
                if shape != config.tensor_shapes()[name]:
                    raise ExchangeError(
                        f"{file}: {theirs} is {list(shape)}, config.json wants "
                        f"{list(config.tensor_shapes()[name])}"
                    )
                if dtype not in FLOATS:
                    raise ExchangeError(f"{file}: {theirs} is {dtype}; fp32, fp16 or bf16 is read")
                places[name] = _Place(file, theirs, dtype)
        for theirs, name in wanted.items():
            if name not in places:
                raise ExchangeError(f"{path}: {theirs} is in none of its files")
        return cls(path, config, places)

    @property
    def files(self) -> list[Path]:
        """Its files of weights."""
        return sorted({place.path for place in self._places.values()})

    @property
    def dtype(self) -> torch.dtype:
        """What most of a model's bytes are in: the dtype of its embedding."""
        return self._places["embed_in.weight"].dtype

    def stored(self, name: str) -> torch.dtype:
        """The file's."""
        return self._places[name].dtype

    def tensor(self, name: str, part: Slice | None = None) -> torch.Tensor:
        """A tensor or a box of it.

        Raises:
            ExchangeError: the file is gone or damaged.
        """
        place, shape = self._places[name], self.config.tensor_shapes()[name]
        box = tuple(slice(start, stop) for start, stop in checked(name, shape, part))
        if place.path.suffix != ".safetensors":
            return tensors_of(place.path)[place.name].detach()[box].clone()
        try:
            with safe_open(place.path, framework="pt") as file:
                found: torch.Tensor = file.get_slice(place.name)[box]
                return found.clone()
        except (OSError, SafetensorError) as error:
            raise ExchangeError(f"{place.path}: {place.name} cannot be read ({error})") from None


def _files(folder: Path) -> list[Path]:
    """The weight files of a folder: safetensors before the older form, one file before shards."""
    for one in (SAFE, OLD):
        if (folder / one).is_file():
            return [folder / one]
        index = folder / f"{one}.index.json"
        if not index.is_file():
            continue
        try:
            table = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            names = sorted({str(name) for name in table.values()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise ExchangeError(f"{index}: not an index of weight files") from None
        files = [folder / Path(name).name for name in names]
        for path in files:
            if not path.is_file():
                raise ExchangeError(f"{path}: missing, {index.name} names it")
        return files
    raise ExchangeError(f"{folder}: no weights in it (looked for {', '.join(WEIGHTS)})")


def _header(path: Path) -> dict[str, tuple[tuple[int, ...], object]]:
    """Shape and dtype of every tensor of a file, by name."""
    if path.suffix != ".safetensors":
        return {name: (tuple(t.shape), t.dtype) for name, t in tensors_of(path).items()}
    found: dict[str, tuple[tuple[int, ...], object]] = {}
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  (it is no dict)
                entry = file.get_slice(name)
                code = entry.get_dtype()
                found[name] = tuple(entry.get_shape()), _DTYPES.get(code, code)
    except (OSError, SafetensorError) as error:
        raise ExchangeError(f"{path}: damaged ({error})") from None
    return found
