"""A store of documents to columns of numbers: signals of the text, scores of models.

Two files beside the store, each named by the store and by what decides its numbers: another
classifier computes its scores anew and leaves the signals alone, another threshold computes
nothing. Imported, never started.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash
from numpy.typing import NDArray

from alpenglow.data import columns, signals
from alpenglow.data.collect import BATCH_BYTES
from alpenglow.data.document_store import Store
from alpenglow.data.model_settings import ModelSettings
from alpenglow.data.models import Models
from alpenglow.data.signals import SignalSettings

FORMAT = 1
"""Raised when the same settings give other numbers."""


@dataclass(frozen=True)
class Annotating:
    """What decides the columns of a store."""

    signals: SignalSettings
    models: ModelSettings
    keys: tuple[str, str]
    """Hash of the signals' settings and of the models'."""

    @classmethod
    def of(cls, signals: SignalSettings, models: ModelSettings) -> Annotating:
        """Hash lists and models, which may be large: the client does it, once a job.

        Raises:
            DataError: a file cannot be read.
        """
        return cls(signals, models, (signals.hash, models.hash))


@dataclass(frozen=True)
class Annotated:
    """The files of columns of one store."""

    files: tuple[Path, ...]

    def read(self, names: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
        """Read columns of documents; all of them if None."""
        found: dict[str, NDArray[Any]] = {}
        for path in self.files:
            found |= columns.read_columns(path, names)
        return found


def annotate(store: Store, about: Annotating) -> Annotated:
    """Compute the columns of a store, unless they are there.

    Raises:
        DataError: a model cannot be read, or the file system refuses.
    """
    made = []
    for kind, key in zip(("signals", "models"), about.keys, strict=True):
        if kind == "models" and about.models == ModelSettings():
            continue
        mark = xxhash.xxh3_64_hexdigest(f"{FORMAT} {store.key} {kind} {key}".encode())
        path = store.path.with_name(f"{store.path.stem}.{mark[:8]}.{kind}.h5")
        if not columns.has(path, mark):
            columns.write_columns(path, mark, _parts(kind, store, about))
        made.append(path)
    return Annotated(tuple(made))


def _parts(
    kind: str, store: Store, about: Annotating
) -> Iterator[tuple[columns.Arrays, columns.Arrays]]:
    for batch in store.documents(BATCH_BYTES):
        if kind == "models":
            yield _loaded(about).compute(batch), {}
        else:
            yield signals.compute(batch, about.signals)


_models: dict[str, Models] = {}
"""Models of this process, by the hash of what they were made from; one at a time."""


def _loaded(about: Annotating) -> Models:
    key = about.keys[1]
    if key not in _models:
        _models.clear()
        _models[key] = Models(about.models)
    return _models[key]
