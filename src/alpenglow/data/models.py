"""Trained models of a recipe, and the columns that they add to each document's signals.

    [models]
    language_model = "models/de.h5"
    classifiers = { wikiref = "models/wikiref_de.h5" }
    importance = { books = "models/books_de.h5" }

The columns: `ccnet_perplexity`; `ccnet_bucket` (0 head, 1 middle, 2 tail), where the language model
has cutoffs; `rps_doc_ml_NAME_score`; `rps_doc_NAME_importance`. The names are RedPajama v2's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from alpenglow.data.classifier import Classifier
from alpenglow.data.document import DataError, Document
from alpenglow.data.importance import Importance
from alpenglow.data.language_model import LanguageModel


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


class Models:
    """The models of the settings, open.

    Raises:
        DataError: a file is missing, cut, or of another kind or version.
    """

    def __init__(self, settings: ModelSettings) -> None:
        path = settings.language_model
        self._language_model = None if path is None else LanguageModel.load(path)
        self._classifiers = {
            score_column(name): Classifier.load(path)
            for name, path in sorted(settings.classifiers.items())
        }
        self._importance = {
            weight_column(name): Importance.load(path)
            for name, path in sorted(settings.importance.items())
        }

    def compute(self, documents: Sequence[Document]) -> dict[str, NDArray[Any]]:
        """Return a number a document in each column; NaN where a text has no words to score."""
        texts = [document.text for document in documents]
        columns: dict[str, NDArray[Any]] = {}
        model = self._language_model
        if model is not None:
            perplexity = model.perplexity(texts)
            columns["ccnet_perplexity"] = perplexity.astype(np.float32)
            if model.cutoffs is not None:
                columns["ccnet_bucket"] = model.buckets(perplexity)
        for column, classifier in self._classifiers.items():
            columns[column] = classifier.scores(texts)
        for column, importance in self._importance.items():
            columns[column] = importance.weights(texts)
        return columns


def score_column(name: str) -> str:
    """Column of a classifier."""
    return f"rps_doc_ml_{name}_score"


def weight_column(name: str) -> str:
    """Column of an importance model."""
    return f"rps_doc_{name}_importance"
