"""The file of a trained model: one HDF5 file of plain arrays, without pickled objects.

    attributes   kind, format_version, about (JSON: name, language, what it was trained on, figures)
    NAME         arrays, contiguous and uncompressed: processes of a node map the same pages

Written beside its place, fsynced and renamed: where it is, it is whole.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from alpenglow.data.document import DataError, reason

FORMAT_VERSION = 1


@dataclass(frozen=True)
class ModelFile:
    """What a model's file holds."""

    kind: str
    """`language model`, `classifier` or `importance model`."""
    about: Mapping[str, Any]
    """What JSON can hold: settings of the model, and what it was trained on."""
    arrays: Mapping[str, NDArray[Any]]

    def write(self, path: Path) -> None:
        """Write it, replacing an older one in one step.

        Raises:
            DataError: the file system refuses; nothing is left behind.
        """
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with h5py.File(temporary, "w", libver="latest") as file:
                file.attrs["kind"] = self.kind
                file.attrs["format_version"] = FORMAT_VERSION
                # An attribute of HDF5 holds 64 KiB at most, a dataset any length.
                file["about"] = np.frombuffer(json.dumps(dict(self.about)).encode(), np.uint8)
                for name, array in self.arrays.items():
                    file.create_dataset(name, data=array)
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.replace(path)
        except (OSError, RuntimeError) as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise DataError(f"{path}: cannot be written ({reason(error)})") from None

    @classmethod
    def read(cls, path: Path, kind: str) -> ModelFile:
        """Open a model; its arrays are mapped, not read.

        Raises:
            DataError: missing, cut, of another kind or version.
        """
        command = f"`alpenglow data {TRAINED_BY[kind]}`"
        if not path.is_file():
            raise DataError(f"{path}: the {kind} is not there; train it with {command}")
        try:
            with h5py.File(path, "r") as file:
                found = str(file.attrs["kind"])
                version = int(file.attrs["format_version"])
                about = json.loads(np.asarray(file["about"]).tobytes())
                names: list[str] = []
                file.visit(names.append)
                there = {name: file[name] for name in names if name != "about"}
                arrays = {
                    name: _mapped(path, item)
                    for name, item in there.items()
                    if isinstance(item, h5py.Dataset)
                }
        except (OSError, KeyError, ValueError) as error:
            raise DataError(
                f"{path}: cut, or no model of Alpenglow ({error}); train it with {command}"
            ) from None
        if found != kind:
            raise DataError(f"{path}: a {found}, where a {kind} is asked for")
        if version != FORMAT_VERSION:
            raise DataError(
                f"{path}: format version {version}, this is {FORMAT_VERSION}; train it again "
                f"with {command}"
            )
        return cls(kind, about, arrays)


TRAINED_BY = {
    "language model": "train-lm",
    "classifier": "train-classifier",
    "importance model": "train-importance",
}
"""Kind -> command that makes it."""


def _mapped(path: Path, dataset: h5py.Dataset) -> NDArray[Any]:
    offset = dataset.id.get_offset()
    if offset is None or dataset.size == 0:  # nothing is stored of an empty array
        return np.asarray(dataset)
    if offset + dataset.nbytes > path.stat().st_size:
        raise ValueError(f"{dataset.name} ends beyond the file")
    # As a plain array: the class memmap costs time at every look-up, and keeps the same pages.
    return np.asarray(np.memmap(path, dataset.dtype, "r", offset, dataset.shape))
