"""Which trained models a recipe names: the `[models]` table.

[models]
language_model = "models/de.h5"
classifiers = { wikiref = "models/wikiref_de.h5" }
importance = { books = "models/books_de.h5" }
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import xxhash

from alpenglow.data.document import DataError


@dataclass(frozen=True)
class ModelSettings:
    """The recipe's `[models]` table; all of it may be absent."""

    language_model: Path | None = None
    """Trained by `alpenglow data train-lm`."""
    classifiers: Mapping[str, Path] = field(default_factory=dict)
    """Name of the column -> file, trained by `alpenglow data train-classifier`."""
    importance: Mapping[str, Path] = field(default_factory=dict)
    """Name of the column -> file, trained by `alpenglow data train-importance`."""

    def __post_init__(self) -> None:
        for name in (*self.classifiers, *self.importance):
            if not name.isidentifier():
                raise ValueError(f"model name {name!r} should be letters, digits and underscores")

    @property
    def hash(self) -> str:
        """Return 16 hex digits over names and content of all files.

        Raises:
            DataError: a file is not there.
        """
        hasher = xxhash.xxh3_64()
        for column, path in self._files():
            hasher.update(column.encode() + b"\0")
            try:
                with path.open("rb") as file:
                    while part := file.read(1 << 24):
                        hasher.update(part)
            except OSError as error:
                raise DataError(f"{path}: the model cannot be read ({error.strerror})") from None
        return hasher.hexdigest()

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that are always there; `ccnet_bucket` comes with cutoffs."""
        return tuple(column for column, _ in self._files())

    def _files(self) -> list[tuple[str, Path]]:
        found = [] if self.language_model is None else [("ccnet_perplexity", self.language_model)]
        found += [(score_column(name), path) for name, path in sorted(self.classifiers.items())]
        found += [(weight_column(name), path) for name, path in sorted(self.importance.items())]
        return found


def score_column(name: str) -> str:
    """Column of a classifier."""
    return f"rps_doc_ml_{name}_score"


def weight_column(name: str) -> str:
    """Column of an importance model."""
    return f"rps_doc_{name}_importance"
