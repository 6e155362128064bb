"""Numbers beside a store of documents: signals, scores of models; one HDF5 file.

    documents/NAME     a number a document, in the order of the store
    lines/offset       uint64 [documents + 1]: where a document's lines begin in the lists of lines
    lines/NAME         a number a line
    attributes         key: what it was computed from

Filters read columns and nothing else, so another threshold touches no text. The file is written to
another name, fsynced and renamed: where it is, it is whole.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from alpenglow.data.document import DataError, reason

CHUNK = 1 << 14
"""Rows that are compressed together."""

Arrays = Mapping[str, NDArray[Any]]


def write_whole(path: Path, fill: Callable[[h5py.File], None]) -> None:
    """Make an HDF5 file at once: written to another name, fsynced, renamed.

    Raises:
        DataError: the file system refuses; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with h5py.File(temporary, "w", libver="latest") as file:
            fill(file)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        # h5py says RuntimeError where a full disk refuses the flush at the end.
        raise DataError(f"{path}: cannot be written ({reason(error)})") from None
    finally:
        temporary.unlink(missing_ok=True)


def write_columns(path: Path, key: str, parts: Iterable[tuple[Arrays, Arrays]]) -> None:
    """Write the columns of a store as they come.

    Args:
        path: the file to make.
        key: what they were computed from.
        parts: columns of documents and of lines (`offset` among these), a batch of documents each.

    Raises:
        DataError: the file system refuses; nothing is left behind.
    """

    def fill(file: h5py.File) -> None:
        file.create_group("documents")
        total = 0
        for documents, lines in parts:
            for name, column in documents.items():
                append(file, f"documents/{name}", np.asarray(column))
            if not lines:
                continue
            if "lines/offset" not in file:
                append(file, "lines/offset", np.zeros(1, np.uint64))
            offset = np.asarray(lines["offset"], np.uint64)
            append(file, "lines/offset", offset[1:] + np.uint64(total))
            total += int(offset[-1])
            for name, column in lines.items():
                if name != "offset":
                    append(file, f"lines/{name}", np.asarray(column))
        file.attrs["key"] = key

    write_whole(path, fill)


def append(file: h5py.File, name: str, rows: NDArray[Any]) -> None:
    """Lengthen a column, made on first use."""
    if name not in file:
        file.create_dataset(
            name, (0,), rows.dtype, maxshape=(None,), chunks=(CHUNK,), compression="lzf"
        )
    dataset = file[name]
    before = dataset.shape[0]
    dataset.resize(before + len(rows), axis=0)
    if len(rows):
        dataset[before:] = rows


def has(path: Path, key: str) -> bool:
    """Whether a whole file of this key is there."""
    try:
        with h5py.File(path, "r") as file:
            return bool(file.attrs["key"] == key)
    except (OSError, KeyError):
        return False  # a mark that cannot be read is no mark: it is computed again


def read_columns(path: Path, names: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
    """Read columns of documents; all of them if None, else those of the names that are there.

    Raises:
        DataError: missing or cut.
    """
    return _read(path, "documents", names)


def read_lines(path: Path) -> dict[str, NDArray[Any]]:
    """Read columns of lines, `offset` among them; empty where none were stored.

    Raises:
        DataError: missing or cut.
    """
    return _read(path, "lines", None)


def _read(path: Path, group: str, names: Sequence[str] | None) -> dict[str, NDArray[Any]]:
    try:
        with h5py.File(path, "r") as file:
            there = list(file[group]) if group in file else []
            wanted = there if names is None else [name for name in names if name in there]
            return {name: np.asarray(file[f"{group}/{name}"]) for name in wanted}
    except (OSError, KeyError) as error:
        raise DataError(f"{path}: cut, or no columns of documents ({error})") from None
