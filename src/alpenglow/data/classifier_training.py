"""Train a classifier on named positives and negatives.

What RedPajama v1 did, and what is done here:

- Its guard against positives that are there twice wrote the literal key "digest" for each, so it
  removed none. Here no text is twice on a side, and a text on both sides is on neither.
- Positives had a floor of 1000 characters, negatives none: a model could tell them by length. Here
  both sides have the same lengths, word for word: equally many pages, sorted by length, and of each
  two the longer is cut to the shorter. The score is a mean, which length cannot move.
- Negatives were the first N pages of each file, N counting positives that were dropped. Here both
  sides are random samples over all that was named, by a keyed hash of the text.
- Whether it worked was not measured. Here a tenth of the pages, drawn at random, is never trained
  on; accuracy and area under the ROC curve on it are printed and stored in the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alpenglow.data.classifier import BUCKETS, Classifier
from alpenglow.data.document import DataError
from alpenglow.data.seed_text import Seed
from alpenglow.data.word_grams import WordGrams, same_text

SHORTEST, LONGEST = 20, 1000
"""Words of a page: shorter ones are left out, of longer ones the beginning counts."""
LEAST_PAGES = 20
SCALE = 100.0
"""Features are shares of a page's words and pairs times this, so that a weight is of order 1."""
INVERSE_PENALTY = 1.0
"""C of scikit-learn's LogisticRegression."""


@dataclass(frozen=True)
class ClassifierSettings:
    """What a classifier is made of, beside its seed text."""

    name: str
    """`NAME` of the column rps_doc_ml_NAME_score."""
    pages: int = 50_000
    """Of each side, at most; about 20 kB of memory a page."""
    key: int = 0
    """Another draws other samples and another tenth."""

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ValueError(f"name = {self.name!r} should be letters, digits and underscores")
        if self.pages < LEAST_PAGES:
            raise ValueError(f"pages = {self.pages} should be {LEAST_PAGES} or more")


@dataclass(frozen=True)
class Side:
    """Pages of one side as hashed words, one after another."""

    words: NDArray[np.uint64]
    counts: NDArray[np.int64]

    def take(self, pages: NDArray[np.int64], lengths: NDArray[np.int64]) -> Side:
        """These pages, each cut to its length in words."""
        starts = (np.cumsum(self.counts) - self.counts)[pages]
        ends = np.cumsum(lengths)
        places = np.repeat(starts - (ends - lengths), lengths) + np.arange(int(lengths.sum()))
        return Side(self.words[places], lengths)


def train(positives: Seed, negatives: Seed, settings: ClassifierSettings) -> Classifier:
    """Train; the same texts give the same classifier.

    Raises:
        DataError: too few pages on a side, or scikit-learn is not installed.
    """
    yes, no = (seed.sample(settings.pages, settings.key) for seed in (positives, negatives))
    both = set(yes) & set(no)
    grams = WordGrams(BUCKETS)
    sides = []
    for seed, texts in ((positives, yes), (negatives, no)):
        side = _side(grams, [text for text in texts if text not in both])
        if len(side.counts) < LEAST_PAGES:
            raise DataError(
                f"{', '.join(map(str, seed.paths))}: {len(side.counts)} different pages of "
                f"{SHORTEST} words or more that the other side lacks; {LEAST_PAGES} are needed, "
                "and thousands to be worth something"
            )
        sides.append(side)
    before = area(*(side.counts.astype(float) for side in sides))
    first, second = same_lengths(*sides)
    held_out = np.zeros(len(first.counts), np.bool_)
    held_out[: max(2, len(held_out) // 10)] = True
    held_out = np.random.default_rng(settings.key).permutation(held_out)
    weights, bias = _fit(grams, first, second, ~held_out)
    found = [_scores(grams, side, weights, bias)[held_out] for side in (first, second)]
    about: dict[str, Any] = {
        "name": settings.name,
        "positives": positives.about,
        "negatives": negatives.about,
        "on_both_sides": len(both),
        "pages": len(held_out),
        "words": int(first.counts.sum()),
        "held_out": int(held_out.sum()),
        "accuracy": float(np.mean([*(found[0] > 0), *(found[1] <= 0)])),
        "area": area(*found),
        "area_by_length_before": before,
        "area_by_length": area(first.counts.astype(float), second.counts.astype(float)),
    }
    return Classifier(weights, bias, about)


def same_lengths(first: Side, second: Side) -> tuple[Side, Side]:
    """Give two sides the same number of pages and the same lengths in words.

    Each is sorted by length; of the two pages of a rank, the longer is cut to the shorter.
    """
    count = min(len(first.counts), len(second.counts))
    # The samples are in random order, so the first of them are as good as any.
    orders = [np.argsort(side.counts[:count], kind="stable") for side in (first, second)]
    lengths = np.minimum(first.counts[orders[0]], second.counts[orders[1]])
    return first.take(orders[0], lengths), second.take(orders[1], lengths)


def area(positives: NDArray[np.float64], negatives: NDArray[np.float64]) -> float:
    """Area under the ROC curve: how often a positive has more than a negative; ties are halves."""
    ordered = np.sort(negatives)
    less = np.searchsorted(ordered, positives, "left")
    no_more = np.searchsorted(ordered, positives, "right")
    return float((less + no_more).mean() / 2 / len(negatives))


def _side(grams: WordGrams, texts: Sequence[str]) -> Side:
    words, counts = grams.words(texts)
    whole = Side(words, counts)
    pages = np.flatnonzero(counts >= SHORTEST)
    return whole.take(pages, np.minimum(counts[pages], LONGEST))


def _features(grams: WordGrams, side: Side) -> Any:
    """Shares of each page's words and pairs, x SCALE; a sparse matrix [pages, buckets]."""
    from scipy.sparse import csr_array

    page = np.repeat(np.arange(len(side.counts)), side.counts)
    same = same_text(side.counts)
    rows = np.concatenate([page, page[:-1][same]])
    columns = np.concatenate([grams.singles(side.words), grams.pairs(side.words)[same]])
    share = SCALE / np.maximum(1, 2 * side.counts - 1)
    values = share[rows].astype(np.float32)
    shape = (len(side.counts), grams.buckets)
    return csr_array((values, (rows.astype(np.int32), columns.astype(np.int32))), shape)


def _fit(
    grams: WordGrams, first: Side, second: Side, chosen: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], float]:
    try:
        from scipy.sparse import vstack
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        raise DataError(
            "training a classifier needs scikit-learn: pip install 'alpenglow[raw]'"
        ) from None
    features = vstack([_features(grams, side)[chosen] for side in (first, second)], "csr")
    # A bucket that never comes keeps the weight 0: only the others are fitted.
    seen = np.unique(features.indices)
    labels = np.repeat([1, 0], int(chosen.sum()))
    model = LogisticRegression(C=INVERSE_PENALTY, max_iter=1000, tol=1e-4)
    model.fit(features[:, seen], labels)
    weights = np.zeros(grams.buckets, np.float32)
    weights[seen] = SCALE * model.coef_[0]
    return weights, float(model.intercept_[0])


def _scores(
    grams: WordGrams, side: Side, weights: NDArray[np.float32], bias: float
) -> NDArray[np.float64]:
    each = weights[grams.singles(side.words)].astype(np.float64)
    each[:-1] += np.where(same_text(side.counts), weights[grams.pairs(side.words)], 0.0)
    ends = np.concatenate([[0], np.cumsum(each)])
    bounds = np.concatenate([[0], np.cumsum(side.counts)])
    mean = np.diff(ends[bounds]) / np.maximum(1, 2 * side.counts - 1)
    return np.asarray(mean + bias, np.float64)
