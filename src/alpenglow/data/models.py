"""Trained models of a recipe, and the columns that they add to each document's signals.

`[models]` (model_settings.py) names them. The columns: `ccnet_perplexity`; `ccnet_bucket` (0 head,
1 middle, 2 tail), where the language model
has cutoffs; `rps_doc_ml_NAME_score`; `rps_doc_NAME_importance`. The names are RedPajama v2's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alpenglow.data.classifier import Classifier
from alpenglow.data.document import Document
from alpenglow.data.importance import Importance
from alpenglow.data.language_model import LanguageModel
from alpenglow.data.model_settings import ModelSettings, score_column, weight_column

__all__ = ["ModelSettings", "Models"]


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
