"""The safetensors files of a release, opened for reading one tensor at a time.

A folder holds `model.safetensors`, or numbered files and an index that says which tensor lies in
which (https://huggingface.co/docs/safetensors). What the index says and what the files hold must be
the same, since loaders trust the one or the other. This module is imported, never started.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from alpenglow.release.error import ReleaseError

ONE_FILE = "model.safetensors"
INDEX = f"{ONE_FILE}.index.json"


class WeightFiles:
    """Tensors by their names in the files.

    Args:
        folder: the release.
        files: tensor name -> file, from `open`.
    """

    def __init__(self, folder: Path, files: Mapping[str, Path]) -> None:
        self.folder = folder
        self._files = dict(files)

    @classmethod
    def open(cls, folder: Path) -> WeightFiles:
        """Read the headers of all weight files, and the index where there is one.

        Raises:
            ReleaseError: no weights, a missing or damaged file, a tensor in two files, or an index
                that does not fit the files.
        """
        present = {path.name: path for path in sorted(folder.glob("*.safetensors"))}
        index = _index(folder)
        for name in sorted(set(index.values()) - present.keys()):
            raise ReleaseError(f"{folder}: {name} is missing, and {INDEX} names it")
        if not present:
            raise ReleaseError(f"{folder}: {ONE_FILE} is missing, and there is no {INDEX}")
        if not index and [*present] != [ONE_FILE]:
            raise ReleaseError(f"{folder}: {INDEX} is missing, and {next(iter(present))} needs it")
        files: dict[str, Path] = {}
        for path in present.values():
            for name in _names(path):
                if name in files:
                    raise ReleaseError(f"{folder}: {name} is in {files[name].name} and {path.name}")
                if index and index.get(name) != path.name:
                    raise ReleaseError(f"{path}: {name} is in it, and {INDEX} does not say so")
                files[name] = path
        for name, file in index.items():
            if name not in files:
                raise ReleaseError(f"{folder / file}: {name} is not in it, and {INDEX} says so")
        return cls(folder, files)

    def names(self) -> list[str]:
        """Names of all tensors, file by file."""
        return [*self._files]

    def file(self, name: str) -> Path:
        """The file that holds a tensor."""
        return self._files[name]

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, from the file's header."""
        with safe_open(self._files[name], framework="pt") as file:
            return tuple(file.get_slice(name).get_shape())

    def tensor(self, name: str) -> torch.Tensor:
        """Read a whole tensor, in the dtype of the file.

        Raises:
            ReleaseError: no such tensor, or a damaged file.
        """
        return self.rows(name, 0, None)

    def rows(self, name: str, start: int, stop: int | None) -> torch.Tensor:
        """Read some rows of a tensor, in the dtype of the file; a `stop` of None is the last.

        Raises:
            ReleaseError: no such tensor, or a damaged file.
        """
        if name not in self._files:
            raise ReleaseError(f"{self.folder}: {name} is missing")
        try:
            with safe_open(self._files[name], framework="pt") as file:
                tensor: torch.Tensor = file.get_slice(name)[start:stop]
        except (SafetensorError, OSError) as error:
            raise ReleaseError(f"{self._files[name]}: damaged: {error}") from None
        return tensor


def _names(path: Path) -> list[str]:
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except (SafetensorError, OSError) as error:
        raise ReleaseError(f"{path}: damaged: {error}") from None


def _index(folder: Path) -> dict[str, str]:
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        return {str(name): str(file) for name, file in index["weight_map"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ReleaseError(f"{folder / INDEX}: unreadable: {error}") from None
