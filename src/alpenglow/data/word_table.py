"""Words to numbers at speed: each different word is converted once, then looked up.

Text is made of words that come back: a table of the words seen so far turns the cost of subwords or
hashes of a text into that of one dictionary look-up a word. Language model, classifier and
importance weights all read text through it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_WORDS, MOST_CHARACTERS = 400_000, 6_000_000
"""The table is emptied beyond: about 100 MB of memory at most."""
PIECE = 500_000
"""Characters of a text that are split into words at once: bounds memory for texts of any length."""

_SPACE = re.compile(r"\s")

Convert = Callable[[list[str]], Sequence[Sequence[int]]]


class WordTable:
    """Numbers of words.

    Args:
        convert: different words -> the numbers of each (any count, none too).
        dtype: of the numbers.
    """

    def __init__(self, convert: Convert, dtype: Any) -> None:
        self._convert = convert
        self._dtype = np.dtype(dtype)
        self._empty()

    def _empty(self) -> None:
        self._rows = _Rows()
        self._characters = self._used = 0
        self._start = np.zeros(1024, np.int64)
        self._length = np.zeros(1024, np.int64)
        self._values = np.zeros(1024, self._dtype)

    def numbers(self, groups: Sequence[Sequence[str]]) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Look words up.

        Args:
            groups: the words of each group (a text, a line).

        Returns:
            The numbers of all words, one after another, and how many of them each group has.
        """
        if len(self._rows) > MOST_WORDS or self._characters > MOST_CHARACTERS:
            self._empty()
        before = len(self._rows)
        words = sum(map(len, groups))
        rows = np.fromiter(
            map(self._rows.__getitem__, itertools.chain.from_iterable(groups)), np.int64, words
        )
        self._learn(before)
        lengths = self._length[rows]
        ends = np.concatenate([[0], np.cumsum(lengths)])
        places = np.repeat(self._start[rows] - ends[:-1], lengths)
        places += np.arange(ends[-1])
        bounds = np.concatenate([[0], np.cumsum([len(group) for group in groups], dtype=np.int64)])
        return self._values[places], np.diff(ends[bounds])

    def _learn(self, before: int) -> None:
        unseen, self._rows.unseen = self._rows.unseen, []
        if not unseen:
            return
        found = self._convert(unseen)
        lengths = np.array([len(numbers) for numbers in found], np.int64)
        ends = self._used + np.cumsum(lengths)
        self._start = _grown(self._start, before + len(unseen))
        self._length = _grown(self._length, before + len(unseen))
        self._start[before : before + len(unseen)] = ends - lengths
        self._length[before : before + len(unseen)] = lengths
        self._values = _grown(self._values, int(ends[-1]))
        flat = np.fromiter(itertools.chain.from_iterable(found), self._dtype, int(lengths.sum()))
        self._values[self._used : ends[-1]] = flat
        self._used = int(ends[-1])
        self._characters += sum(map(len, unseen))


class _Rows(dict[str, int]):
    """Word -> row; a word that is not there gets the next row and is noted."""

    def __init__(self) -> None:
        super().__init__()
        self.unseen: list[str] = []

    def __missing__(self, word: str) -> int:
        row = self[word] = len(self)
        self.unseen.append(word)
        return row


def _grown(array: NDArray[Any], size: int) -> NDArray[Any]:
    if size <= len(array):
        return array
    larger = np.zeros(max(size, 2 * len(array)), array.dtype)
    larger[: len(array)] = array
    return larger


def pieces(text: str) -> Iterator[str]:
    """Cut a long text at white space, so that no piece is much longer than `PIECE` characters.

    A run without white space is cut where it reaches twice that.
    """
    begin = 0
    while len(text) - begin > PIECE:
        space = _SPACE.search(text, begin + PIECE, begin + 2 * PIECE)
        end = space.start() if space else min(begin + 2 * PIECE, len(text))
        yield text[begin:end]
        begin = end
    yield text[begin:] if begin else text
