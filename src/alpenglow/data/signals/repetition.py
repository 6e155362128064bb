"""How much of a document says again what it said: single words and runs of 2 to 10 of them.

RedPajama v2's definitions (app/src/core/quality_signals/repetitions.py of its repository), after
Gopher (Rae et al. 2021, Table A1), on normalised words:

- top n-gram: characters of the n-gram that occurs most often (of several, the one that comes
  first) times its occurrences over characters of all words; 0 where none occurs twice;
- duplicate n-grams: characters of words that are in an n-gram that occurs twice or more, each
  word counted once, over characters of all words.

A run of n words that occurs twice begins with a run of n - 1 that does, and the one that begins a
word later does too. So each length looks only at places that the one before left, and two runs are
equal where these two parts are: numbers of groups, not words, are compared.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from alpenglow.data.signals.hashes import Groups, Hashes, Places, mix, salts
from alpenglow.data.signals.rows import share, totals

TOP = (2, 3, 4)
DUPLICATE = (5, 6, 7, 8, 9, 10)


class Repetition:
    """Repeated words of one row of texts."""

    def __init__(self, hashes: Hashes, offset: Places, characters: Places) -> None:
        """Group equal words of each text.

        Args:
            hashes: of the words of all texts; shape (words,).
            offset: words before each text; shape (texts + 1,).
            characters: characters before each word; shape (words + 1,).
        """
        self._offset, self._characters = offset, characters
        counts = np.diff(offset)
        self._texts, self._all = counts, np.diff(characters[offset])
        self._text = np.repeat(np.arange(counts.size, dtype=np.int32), counts)
        own = salts(counts.size)
        self._groups = Groups.of(mix(hashes ^ own[self._text])) if hashes.size else None

    def columns(self) -> dict[str, NDArray[Any]]:
        """Return columns of documents; shape (texts,) each."""
        counts = self._texts
        columns: dict[str, NDArray[Any]] = {}
        unique = np.zeros(counts.size, np.int64)
        entropy = np.full(counts.size, np.nan)
        group = np.empty(0, np.int32)
        if self._groups is not None:
            order, begins = self._groups.order, self._groups.begins
            sizes = np.diff(begins, append=order.size)
            text = self._text[order[begins]]
            unique = np.bincount(text, minlength=counts.size)
            weighted = np.bincount(text, sizes * np.log(sizes), counts.size)
            some = counts > 0
            # -sum(c/T log(c/T)) over words that occur c times = log T - sum(c log c) / T
            entropy[some] = np.log(counts[some]) - weighted[some] / counts[some]
            entropy = np.maximum(entropy, 0.0)
            group = np.full(order.size, -1, np.int32)
            _number(self._groups, None, group)
            self._groups = None
        columns["rps_doc_frac_unique_words"] = share(unique, counts, np.nan)
        columns["rps_doc_unigram_entropy"] = entropy
        places = np.flatnonzero(group >= 0)
        for size in range(2, DUPLICATE[-1] + 1):
            places, group = self._longer(size, places, group, columns)
        return columns

    def _longer(
        self, size: int, places: Places, group: NDArray[np.int32], columns: dict[str, NDArray[Any]]
    ) -> tuple[Places, NDArray[np.int32]]:
        """Group runs of `size` words.

        Args:
            size: words.
            places: where runs of a word less begin that occur twice, ascending.
            group: for each word the number of the group of the run that begins there, or -1.
            columns: is given this size's signal.

        Returns:
            The same of this size.
        """
        places = places[places < group.size - 1]
        places = places[group[places + 1] >= 0]
        if size == 2:
            places = places[self._text[places] == self._text[places + 1]]
        top = np.zeros(self._texts.size)
        covered = np.zeros(self._texts.size)
        if places.size:
            width = int(group.max()).bit_length()
            keys = group[places].astype(np.uint64) << np.uint64(width)
            keys |= group[places + 1].astype(np.uint64)
            groups = Groups.of(keys, 2 * width) if width <= 20 else Groups.of(mix(keys))
            if size in TOP:
                begins = groups.begins
                sizes = np.diff(begins, append=places.size)
                twice = sizes > 1
                top = self._top(size, places[groups.order[begins[twice]]], sizes[twice])
            group[:] = -1
            places = _number(groups, places, group)
            if size in DUPLICATE:
                covered = self._covered(size, places)
        if size in TOP:
            columns[f"rps_doc_frac_chars_top_{size}gram"] = top
        if size in DUPLICATE:
            columns[f"rps_doc_frac_chars_dupe_{size}grams"] = covered
        return places, group

    def _top(self, size: int, first: Places, counts: Places) -> NDArray[np.float64]:
        """Return each text's share of the run that occurs most, given where each is first."""
        best = np.zeros(self._texts.size, np.int64)
        text = self._text[first]
        room = self._text.size + 1
        np.maximum.at(best, text, counts * room + (room - 1 - first))
        count, place = best // room, room - 1 - best % room
        place = np.where(best > 0, place, 0)
        length = self._characters[np.minimum(place + size, room - 1)] - self._characters[place]
        return share(np.where(best > 0, length * count, 0), self._all)

    def _covered(self, size: int, places: Places) -> NDArray[np.float64]:
        """Return each text's share of characters that the runs at `places` cover."""
        end = places + size
        begin = places.copy()
        np.maximum(begin[1:], end[:-1], out=begin[1:])
        characters = self._characters[end] - self._characters[begin]
        bounds = np.searchsorted(places, self._offset)
        return share(totals(characters, bounds), self._all)


def _number(groups: Groups, places: Places | None, group: NDArray[np.int32]) -> Places:
    """Give each piece of a group of two or more the group's number.

    Args:
        groups: of pieces.
        places: where each piece stands, ascending; None: piece by piece.
        group: is given the numbers, at these places.

    Returns:
        The places of such pieces, ascending.
    """
    twice = groups.twice
    pieces = groups.order[twice]
    numbers = np.cumsum(groups.first[twice], dtype=np.int32)
    numbers -= 1
    if places is None:
        group[pieces] = numbers
        return np.flatnonzero(group >= 0)
    kept = np.zeros(places.size, np.bool_)
    kept[pieces] = True
    group[places[pieces]] = numbers
    return places[kept]
