"""A classifier of texts: how much a page reads like the positives that a user named.

RedPajama v1 kept pages of CommonCrawl that fastText took for pages which Wikipedia refers to. This
is the same kind of model: a text is the mean of the weights of its words and pairs of words, hashed
to buckets, and a logistic function makes a score of it. A text twice in a row has the score of the
text: length alone tells the model nothing. How it is trained, and what v1 did otherwise, is told in
`alpenglow.data.classifier_training`.

    classifier = Classifier.load(Path("models/wikiref.h5"))
    classifier.scores(["a page", "another"])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alpenglow.data.document import DataError
from alpenglow.data.model_file import ModelFile
from alpenglow.data.word_grams import WordGrams

KIND = "classifier"
BUCKETS = 1 << 20
"""A million weights: 4 MB."""


class Classifier:
    """A model that is ready to score.

    Args:
        weights: of each bucket, float32 [buckets].
        bias: added to the mean.
        about: name, seed text of both sides, figures of the held-out tenth.

    Attributes:
        name: as it was trained, such as `wikiref`.
    """

    def __init__(self, weights: NDArray[np.float32], bias: float, about: Mapping[str, Any]) -> None:
        self.weights, self.bias, self.about = weights, bias, dict(about)
        self.name = str(about["name"])
        self._grams = WordGrams(len(weights))

    def scores(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the probability that each text is a positive, float32 [n]; NaN without words."""
        total, grams = self._grams.sums(texts, self.weights)
        with np.errstate(divide="ignore", invalid="ignore"):
            logit = total / grams + self.bias
        return np.asarray(logistic(logit), np.float32)

    def save(self, path: Path) -> None:
        """Write the model.

        Raises:
            DataError: the file system refuses.
        """
        arrays = {"weights": self.weights, "bias": np.array([self.bias])}
        ModelFile(KIND, self.about, arrays).write(path)

    @classmethod
    def load(cls, path: Path) -> Classifier:
        """Open a model.

        Raises:
            DataError: missing, cut, of another kind or version.
        """
        file = ModelFile.read(path, KIND)
        try:
            return cls(file.arrays["weights"], float(file.arrays["bias"][0]), file.about)
        except KeyError as error:
            raise DataError(f"{path}: the classifier lacks {error}; train it again") from None


def logistic(logit: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 / (1 + exp(-x)) without overflow; NaN stays."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logit)), np.float64)
