"""Hashed words and pairs of words of texts, in arrays: what classifiers and importance weights see.

Words are runs of letters, digits and underscores, or runs of other signs, in small letters (NLTK's
WordPunct, as DSIR splits). A line's end is white space like any other, so the lines of a page count
as joined by spaces. Hashes are xxh3 of a word's UTF-8 and a fixed mix of two of them: the same on
every machine and in every process.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
import xxhash
from numpy.typing import NDArray

from alpenglow.data.word_table import PIECE, WordTable, pieces

_WORD = re.compile(r"\w+|[^\w\s]+")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xC2B2AE3D27D4EB4F)
_HALF = np.uint64(32)


class WordGrams:
    """Words and pairs of words as bucket numbers.

    Args:
        buckets: how many there are, at most 2^32.
    """

    def __init__(self, buckets: int) -> None:
        self.buckets = buckets
        self._table = WordTable(_hashes, np.uint64)

    def words(self, texts: Sequence[str]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Hash the words of all texts, one after another; and how many each text has."""
        parts: list[NDArray[np.uint64]] = [np.empty(0, np.uint64)]
        counts = np.zeros(len(texts), np.int64)
        for groups, owners in _batches(texts):
            hashes, sizes = self._table.numbers(groups)
            parts.append(hashes)
            np.add.at(counts, owners, sizes)
        return np.concatenate(parts), counts

    def singles(self, words: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Bucket of each word."""
        return self._bucket(words)

    def pairs(self, words: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Bucket of each word with the next one; one fewer than words."""
        return self._bucket(words[:-1] * _FIRST + words[1:])

    def _bucket(self, hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
        mixed = (hashes * _FACTOR) >> _HALF
        return ((mixed * np.uint64(self.buckets)) >> _HALF).astype(np.int64)

    def sums(
        self, texts: Sequence[str], weights: NDArray[np.float32]
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Add up the weights of a text's words and pairs.

        Args:
            texts: some.
            weights: of each bucket, [buckets].

        Returns:
            The sum for each text, and how many words and pairs it has.
        """
        total, grams = np.zeros(len(texts)), np.zeros(len(texts), np.int64)
        for groups, owners in _batches(texts):
            words, counts = self._table.numbers(groups)
            if not len(words):
                continue
            each = weights[self.singles(words)].astype(np.float64)
            each[:-1] += np.where(same_text(counts), weights[self.pairs(words)], 0.0)
            ends = np.concatenate([[0], np.cumsum(each)])
            bounds = np.concatenate([[0], np.cumsum(counts)])
            total += np.bincount(owners, np.diff(ends[bounds]), minlength=len(texts))
            grams += np.bincount(
                owners, np.maximum(2 * counts - 1, 0), minlength=len(texts)
            ).astype(np.int64)
        return total, grams

    def counts(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """How often each bucket comes in all texts together, [buckets]."""
        total = np.zeros(self.buckets, np.int64)
        for groups, _ in _batches(texts):
            words, counts = self._table.numbers(groups)
            if len(words):
                total += np.bincount(self.singles(words), minlength=self.buckets)
                pairs = self.pairs(words)[same_text(counts)]
                total += np.bincount(pairs, minlength=self.buckets)
        return total


def same_text(counts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether a word and the next one are of the same text; one fewer than words."""
    same = np.ones(max(0, int(counts.sum()) - 1), np.bool_)
    ends = np.cumsum(counts)
    same[ends[(ends > 0) & (ends <= len(same))] - 1] = False
    return same


def _hashes(words: list[str]) -> list[list[int]]:
    digest = xxhash.xxh3_64_intdigest
    return [
        [digest(part.encode("utf-8", "surrogatepass")) for part in _WORD.findall(word.lower())]
        for word in words
    ]


def _batches(texts: Sequence[str]) -> Iterator[tuple[list[list[str]], NDArray[np.int64]]]:
    """Words of about two megabytes of text at a time; a pair across a cut of a text is not seen."""
    groups: list[list[str]] = []
    owners: list[int] = []
    size = 0
    for number, text in enumerate(texts):
        for piece in pieces(text):
            groups.append(piece.split())
            owners.append(number)
            size += len(piece)
            if size >= 4 * PIECE:
                yield groups, np.array(owners, np.int64)
                groups, owners, size = [], [], 0
    if groups:
        yield groups, np.array(owners, np.int64)
