"""Interpolated modified Kneser-Ney probabilities of the n-grams of a text, in arrays.

Chen and Goodman (1999), "An empirical study of smoothing techniques for language modeling", section
3; with the counts at line beginnings and the pruning as in Heafield et al. (2013), "Scalable
modified Kneser-Ney language model estimation". For an n-gram of context h and token w

    p(w | h) = (c(hw) - D(c(hw))) / sum_v c(hv) + backoff(h) p(w | h'),   h' = h without its first

c is the count at the highest order, and for n-grams that begin a line; below, the number of
different tokens seen to the left. D is one of three discounts of an order, for counts 1, 2, and 3
or more. Single tokens are interpolated with the uniform distribution, so every token of the
vocabulary has a probability and they sum to 1 after any context. An n-gram that is pruned leaves
its whole count to backoff(h), so they still do.

N-grams are numbered: one of order n is its number's prefix (an n-gram of order n - 1) and a token.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FALLBACK = (0.5, 1.0, 1.5)
"""Discounts where a text has too few n-grams to estimate them (KenLM's `--discount_fallback`)."""


@dataclass(frozen=True)
class Vocabulary:
    """Numbers of tokens: the tokenizer's own first, then end and beginning of a line."""

    size: int
    """Tokens of the tokenizer."""

    @property
    def end(self) -> int:
        """End of a line: predicted as any other token."""
        return self.size

    @property
    def begin(self) -> int:
        """Beginning of a line: only ever context."""
        return self.size + 1

    @property
    def all(self) -> int:
        """All numbers."""
        return self.size + 2


@dataclass
class Level:
    """All n-grams of one order, sorted by prefix, then token."""

    prefix: Ints
    """Number of the first n - 1 tokens in the level below."""
    token: Ints
    probability: Floats
    """Of the token after the prefix, interpolated."""
    backoff: Floats = field(default_factory=lambda: np.empty(0))
    """What tokens not listed after this n-gram share; 1 where none is listed."""


@dataclass
class _Counts:
    """N-grams of one order, before anything is pruned."""

    prefix: Ints
    token: Ints
    suffix: Ints
    """Number of the last n - 1 tokens in the level below."""
    begins: NDArray[np.bool_]
    """Whether the first token is the beginning of a line."""
    raw: Ints


def as_lines(
    tokens: NDArray[np.int32], counts: Ints, vocabulary: Vocabulary
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Put beginning and end around each line.

    Args:
        tokens: of all lines, one after another.
        counts: tokens of each line.
        vocabulary: numbers of the tokens.

    Returns:
        The tokens with begin and end, and the place of each in its line (0 is the beginning).
    """
    lengths = counts + 2
    ends = np.cumsum(lengths)
    starts = ends - lengths
    stream = np.full(int(lengths.sum()), vocabulary.end, np.int32)
    stream[starts] = vocabulary.begin
    inside = np.arange(len(tokens)) + np.repeat(2 * np.arange(len(counts)) + 1, counts)
    stream[inside] = tokens
    place = np.arange(len(stream), dtype=np.int64) - np.repeat(starts, lengths)
    return stream, place.astype(np.int32)


def estimate(
    stream: NDArray[np.int32],
    place: NDArray[np.int32],
    vocabulary: Vocabulary,
    order: int = 5,
    prune: int = 0,
) -> tuple[list[Level], list[tuple[float, float, float]]]:
    """Estimate all levels.

    Args:
        stream: tokens of all lines with their beginnings and ends (`as_lines`).
        place: of each in its line.
        vocabulary: numbers of the tokens.
        order: longest n-gram.
        prune: n-grams of three tokens or more are left out if seen so often or less.

    Returns:
        Levels 1 to `order`, and the discounts of each.
    """
    counts = _count(stream, place, vocabulary, order)
    levels: list[Level] = []
    discounts = []
    probability = np.empty(0)
    kept_below = np.empty(0, np.int64)
    for n, level in enumerate(counts, start=1):
        adjusted = level.raw
        if n < order:
            lefts = np.bincount(counts[n].suffix, minlength=len(level.raw))
            adjusted = np.where(level.begins, level.raw, lefts)
        if n == 1:
            adjusted[vocabulary.begin] = 0
        discount = _discounts(adjusted)
        discounts.append(discount)
        cut = np.array([0.0, *discount])[np.minimum(adjusted, 3)]
        if n == 1:
            total = max(1, int(adjusted.sum()))
            left = cut.sum() / total if adjusted.any() else 1.0
            probability = (adjusted - cut) / total + left / (vocabulary.size + 1)
            probability[vocabulary.begin] = 0.0
            levels.append(Level(np.zeros(len(adjusted), np.int64), level.token, probability))
            kept_below = np.arange(len(adjusted))
            continue
        kept = level.raw > (prune if n > 2 else 0)
        size = len(counts[n - 2].raw)
        totals = np.bincount(level.prefix, adjusted, minlength=size)
        freed = np.bincount(level.prefix, np.where(kept, cut, adjusted), minlength=size)
        backoff = np.divide(freed, totals, out=np.ones(size), where=totals > 0)
        probability = (adjusted - cut) / totals[level.prefix] + (
            backoff[level.prefix] * probability[level.suffix]
        )
        below = levels[-1]
        below.backoff = backoff[kept_below]
        number = np.full(size, -1, np.int64)
        number[kept_below] = np.arange(len(kept_below))
        kept_below = np.flatnonzero(kept)
        levels.append(
            Level(number[level.prefix[kept]], level.token[kept], probability[kept])
        )  # what has a kept n-gram above it is kept: it was seen as often or more
    levels[-1].backoff = np.ones(len(levels[-1].token))
    return levels, discounts


def _count(
    stream: NDArray[np.int32], place: NDArray[np.int32], vocabulary: Vocabulary, order: int
) -> list[_Counts]:
    tokens = np.arange(vocabulary.all)
    raw = np.bincount(stream, minlength=vocabulary.all)
    counts = [_Counts(tokens * 0, tokens, tokens * 0, tokens == vocabulary.begin, raw)]
    number = stream.astype(np.int64)  # of the n-gram that ends here
    for n in range(2, order + 1):
        ends = np.flatnonzero(place >= n - 1)
        key = number[ends - 1] * vocabulary.all + stream[ends]
        different, first, inverse, raw = np.unique(
            key, return_index=True, return_inverse=True, return_counts=True
        )
        del key
        at = ends[first]
        counts.append(
            _Counts(
                prefix=different // vocabulary.all,
                token=different % vocabulary.all,
                suffix=number[at],
                begins=place[at] == n - 1,
                raw=raw,
            )
        )
        number[ends] = inverse
    return counts


def _discounts(adjusted: Ints) -> tuple[float, float, float]:
    """Chen and Goodman's three, from how many n-grams have count 1, 2, 3, 4 (equation 26)."""
    seen = np.bincount(np.minimum(adjusted, 5), minlength=6)[1:5].astype(float)
    if (seen == 0).any():
        return FALLBACK
    share = seen[0] / (seen[0] + 2 * seen[1])
    one, two, three = (k - (k + 1) * share * seen[k] / seen[k - 1] for k in (1, 2, 3))
    if not (0 <= one <= 1 and 0 <= two <= 2 and 0 <= three <= 3):
        return FALLBACK
    return float(one), float(two), float(three)
