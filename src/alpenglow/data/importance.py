"""Importance of a text: is it drawn from the target, or from what there is of everything?

DSIR (Xie et al. 2023, arXiv 2302.03169, section 3): words and pairs of words are hashed to 10,000
buckets; target and source are each a bag of buckets; a text's weight is the logarithm of the ratio
of its likelihoods, log p(text | target) - log p(text | source). RedPajama v2 stores it for books,
OpenWebText and Wikipedia as `rps_doc_NAME_importance`. It is a sum over the text, so longer texts
have larger weights of either sign.

RedPajama v2 hashed with Python's own `hash`, which differs between processes unless PYTHONHASHSEED
is pinned; here the hash is xxh3. Each bucket's count is one more than was seen, so that a bucket
which one side lacks does not decide alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alpenglow.data.document import DataError
from alpenglow.data.model_file import ModelFile
from alpenglow.data.seed_text import Seed
from alpenglow.data.word_grams import WordGrams

KIND = "importance model"
BUCKETS = 10_000
PAGES = 500_000
"""Of each side (RedPajama v2)."""
PART = 1000
"""Texts that are counted at once."""


class Importance:
    """A model that is ready to weigh.

    Args:
        ratio: log p(bucket | target) - log p(bucket | source), float32 [buckets].
        about: name, and the seed text of both sides.

    Attributes:
        name: of the target, such as `books`.
    """

    def __init__(self, ratio: NDArray[np.float32], about: Mapping[str, Any]) -> None:
        self.ratio, self.about = ratio, dict(about)
        self.name = str(about["name"])
        self._grams = WordGrams(len(ratio))

    @classmethod
    def train(cls, name: str, target: Seed, source: Seed, pages: int = PAGES) -> Importance:
        """Count both sides.

        Args:
            name: of the target.
            target: what the data should be like.
            source: what there is.
            pages: random documents of each side, about.

        Raises:
            DataError: a side has no words.
        """
        if not name.isidentifier():
            raise DataError(f"name = {name!r} should be letters, digits and underscores")
        grams = WordGrams(BUCKETS)
        logs = []
        for seed in (target, source):
            count = np.zeros(BUCKETS, np.int64)
            share = pages / max(1, sum(1 for _ in seed.texts()))
            texts = seed.part(share)
            while some := list(itertools.islice(texts, PART)):
                count += grams.counts(some)
            if not count.any():
                raise DataError(f"{', '.join(map(str, seed.paths))}: no words to count")
            logs.append(np.log(count + 1.0) - np.log(count.sum() + BUCKETS))
        about = {"name": name, "target": target.about, "source": source.about}
        return cls(np.asarray(logs[0] - logs[1], np.float32), about)

    def weights(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the log-likelihood ratio of each text, float32 [n]; 0 without words."""
        return np.asarray(self._grams.sums(texts, self.ratio)[0], np.float32)

    def save(self, path: Path) -> None:
        """Write the model.

        Raises:
            DataError: the file system refuses.
        """
        ModelFile(KIND, self.about, {"ratio": self.ratio}).write(path)

    @classmethod
    def load(cls, path: Path) -> Importance:
        """Open a model.

        Raises:
            DataError: missing, cut, of another kind or version.
        """
        file = ModelFile.read(path, KIND)
        if "ratio" not in file.arrays:
            raise DataError(f"{path}: the importance model lacks 'ratio'; train it again")
        return cls(file.arrays["ratio"], file.about)
