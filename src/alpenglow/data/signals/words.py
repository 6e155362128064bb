"""Signals of the words that RedPajama v2's normalisation leaves.

See app/src/core/quality_signals/natural_language.py and content.py of its repository.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alpenglow.data.signals.characters import alphabet, normalised
from alpenglow.data.signals.hashes import Hashes, HashSet, Places, add_wide, mix, pieces
from alpenglow.data.signals.rows import Row, WordRow, share, totals

Columns = dict[str, NDArray[Any]]

LOREM_IPSUM = re.compile("lorem ipsum")
_STEP = np.uint64(0x2545F4914F6CDD1D)


class Words:
    """The normalised words of one row, and their hashes."""

    def __init__(self, row: Row, rewritten: bool = False) -> None:
        """Find the words.

        Args:
            row: of texts.
            rewritten: Python has normalised them already.
        """
        self.rewritten = rewritten
        self.row = WordRow.of(row, rewritten)
        self.texts = row.ends.size
        # The U+000A behind each text, among all of the row.
        ends = np.searchsorted(row.of_rare("\n"), row.ends)
        self.offset = np.concatenate(([0], self.row.newlines[ends]))
        self.count = np.diff(self.offset)
        lengths = self.row.ends - self.row.begins
        self.hashes = pieces(self.row.data, self.row.begins, self.row.ends)
        if self.row.wide.size:
            same = alphabet().same(self.row.codes)
            add_wide(self.hashes, self.row.begins, self.row.wide, same)
            more = alphabet().lengths(self.row.codes).astype(np.int64) - 1
            which = np.flatnonzero(more)
            word = np.searchsorted(self.row.begins, self.row.wide[which], side="right") - 1
            lengths = lengths + np.bincount(word, more[which], lengths.size).astype(np.int64)
        self.characters = np.concatenate(([0], np.cumsum(lengths)))

    def line(self, words: Places) -> Places:
        """Return the number of the U+000A that ends the line of each word."""
        return np.searchsorted(self.row.newlines, words, side="right")

    def documents(self, texts: Sequence[str], gopher: HashSet) -> Columns:
        """Return columns of documents; shape (texts,) each.

        Args:
            texts: that the row was made of.
            gopher: hashes of Gopher's stop words.
        """
        letters = np.diff(self.characters[self.offset])
        size = letters + np.maximum(self.count - 1, 0)
        return {
            "rps_doc_word_count": self.count,
            "rps_doc_mean_word_length": share(letters, self.count, np.nan),
            "rps_doc_lorem_ipsum": share(self._lorem_ipsum(texts), size),
            "stop_words": self._distinct(gopher),
        }

    def _lorem_ipsum(self, texts: Sequence[str]) -> Places:
        counts = np.zeros(self.texts, np.int64)
        place = self.row.data.find(b"lorem")
        while place >= 0:
            word = int(np.searchsorted(self.row.begins, place, side="right")) - 1
            text = int(np.searchsorted(self.offset, word, side="right")) - 1
            # Rare: Python decides, for an accent on the last letter is no letter of its own.
            whole = " ".join(normalised(texts[text]).split())
            counts[text] = len(LOREM_IPSUM.findall(whole))
            last = int(self.offset[text + 1]) - 1
            place = self.row.data.find(b"lorem", int(self.row.ends[last]))
        return counts

    def _distinct(self, members: HashSet) -> Places:
        """Count the different members that each text holds."""
        which, index = members.find(self.hashes)
        text = np.searchsorted(self.offset, which, side="right") - 1
        width = max(1, members.members.size)
        seen = np.zeros((self.texts, width), np.bool_)
        seen[text, index] = True
        counts: Places = seen.sum(axis=1)
        return counts

    def blocked(self, phrases: Mapping[int, HashSet]) -> Places:
        """Count runs of words that are on a list in each text.

        Args:
            phrases: number of words -> `phrase_hashes` of entries with so many.
        """
        found = np.zeros(self.texts, np.int64)
        for size, members in phrases.items():
            if size > self.hashes.size:
                continue
            place, _ = members.find(phrase_hashes(self.hashes, size))
            text = np.searchsorted(self.offset, place, side="right") - 1
            place_ends = self.offset[text + 1]
            found += np.bincount(text[place + size <= place_ends], minlength=self.texts)
        return found

    def these(self, word: Hashes) -> Places:
        """Return which words have this hash."""
        return np.flatnonzero(self.hashes == word)

    def sums(self, values: NDArray[Any]) -> NDArray[Any]:
        """Add up a value of each word over each text."""
        return totals(values, self.offset)


def phrase_hashes(words: Hashes, size: int) -> Hashes:
    """Return a hash of every run of `size` words; shape (words - size + 1,)."""
    result = words[: words.size - size + 1].copy()
    for index in range(1, size):
        result = mix(result * _STEP + words[index : words.size - size + 1 + index])
    return result


def word_hashes(words: Sequence[str], rewritten: bool) -> Hashes:
    """Return the hash of each of some words as `Words` has it; they hold no white space.

    Args:
        words: with or without punctuation and capitals.
        rewritten: as in texts that Python had to normalise, rather than in the others, which hold
            no combining marks.
    """
    row = Row.of([normalised("\n".join(words))])
    if not rewritten:
        row = Row.of([unicodedata.normalize("NFC", "\n".join(words).lower())])
    return Words(row, rewritten).hashes
