"""Signals of RedPajama v2's raw words (NLTK's WordPunctTokenizer) and of single characters.

See app/src/core/quality_signals/natural_language.py and content.py of its repository.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alpenglow.data.signals.characters import (
    ASCII_LETTER,
    ELLIPSIS,
    LETTER,
    LOWER,
    SPACE,
    SURROGATE,
    UPPER,
    WORD,
)
from alpenglow.data.signals.hashes import HashSet, Places, add_wide, pieces, small_pieces
from alpenglow.data.signals.rows import Row, counts, share
from alpenglow.data.signals.runs import Runs

Columns = dict[str, NDArray[Any]]

_SHORT = 64
"""Characters of a token that is looked at by itself beyond."""


class StopWords:
    """Stop words as raw words are looked up among them."""

    def __init__(self, words: Sequence[str]) -> None:
        """Take some words; capitals stay."""
        row = Row.of(words)
        lengths = row.ends - row.begins
        hashes = pieces(row.data, row.begins, row.ends)
        add_wide(hashes, row.begins, row.wide, row.codes)
        narrow = np.array([word.isascii() for word in words], np.bool_) & (lengths <= 8)
        self.small = HashSet(small_pieces(row.data, row.begins[narrow], lengths[narrow]))
        self.others = HashSet(hashes[~narrow])
        self.longest = int(lengths.max())
        self.beginnings = np.zeros(256, np.bool_)
        self.beginnings[row.row[row.begins]] = True


class TokenSignals:
    """All that is computed from the raw words of one row."""

    def __init__(self, row: Row, runs: Runs) -> None:
        """Find the tokens of a row."""
        self.row = row
        which = np.flatnonzero(runs.kinds != SPACE)
        self.begins, self.ends = runs.begins[which], runs.begins[which + 1]
        self.words = runs.kinds[which] == WORD
        self.offset = np.append(np.searchsorted(self.begins, row.begins), which.size)
        self.count = np.diff(self.offset)
        # Runs of white space before each token: equal for those that one word holds.
        self._chunk = which - np.arange(which.size)
        self._word_begins = self.begins[self.words]
        self._bits = self._seen()

    def _seen(self) -> NDArray[np.uint8]:
        """Return the bits that characters of each token have.

        Looking at the first and the last one settles most: they are letters, and small.
        """
        classes = self.row.classes
        bits = classes[self.begins] | classes[self.ends - 1]
        settled = LOWER | ASCII_LETTER | LETTER
        size = self.ends - self.begins
        left = np.flatnonzero((bits & np.uint8(settled)) != settled)
        left = left[size[left] > 2]
        if not self.row.wide.size:
            left = left[self.words[left]]  # signs of ASCII have none of these bits
        done = 1
        while left.size and done < _SHORT:
            bits[left] |= classes[self.begins[left] + done]
            done += 1
            left = left[size[left] > done + 1]
        for index in left.tolist():
            whole = classes[int(self.begins[index]) : int(self.ends[index])]
            bits[index] |= np.bitwise_or.reduce(whole)
        return bits

    def sentence_ends(self, places: Places) -> Places:
        r"""Return those of some places (ascending) that end a sentence: a word is before them.

        RedPajama v2 counts what `\b[^.!?]+[.!?]*` finds. Whatever a match takes in, it is one run
        without `.`, `!` and `?` that has a letter, digit or underscore: each such run gives one.
        """
        words = np.searchsorted(self._word_begins, places)
        ends: Places = places[np.diff(words, prepend=0) > 0]
        return ends

    def enders(self) -> Places:
        """Return places of `.`, `!` and `?`, ascending."""
        places, found = self.row.rare
        which = (found == ord(".")) | (found == ord("!")) | (found == ord("?"))
        enders: Places = places[which]
        return enders

    def documents(self, stop_words: StopWords) -> Columns:
        """Return columns of documents; shape (texts,) each.

        Args:
            stop_words: of the language, as raw words.
        """
        row, bits = self.row, self._bits
        sizes = row.ends - row.begins
        small = (bits & np.uint8(LOWER)) != 0
        capitals = ~small & ((bits & np.uint8(UPPER)) != 0)
        no_letter = (bits & np.uint8(ASCII_LETTER)) == 0
        breaks = np.sort(np.concatenate((self.enders(), row.ends)), kind="stable")
        dots = self._dots()
        ellipses = row.count(row.having(ELLIPSIS)) + dots
        hashes = row.count(row.of_rare("#"))
        curly = row.count(row.of_rare("{")) + row.count(row.of_rare("}"))
        return {
            "characters": sizes,
            **self._letters(sizes),
            "binary": (row.count(row.of_rare("\0")) > 0).astype(np.uint8),
            "not_unicode": (row.count(row.having(SURROGATE)) > 0).astype(np.uint8),
            "curly_brackets": curly,
            "rps_doc_curly_bracket": share(curly, sizes),
            "rps_doc_num_sentences": row.count(self.sentence_ends(breaks) - 1),
            "rps_doc_symbol_to_word_ratio": share(ellipses + hashes, self.count, np.nan),
            "rps_doc_frac_all_caps_words": share(self._count(capitals), self.count, np.nan),
            "rps_doc_frac_no_alph_words": share(self._count(no_letter), self.count, np.nan),
            "rps_doc_stop_word_fraction": share(
                self._count(self._stop_words(stop_words)), self.count
            ),
            "alphabetic_word_share": self._alphabetic(),
            "hash_symbols": hashes,
            "ellipses": ellipses,
            "newlines_per_word": share(row.count(row.of_rare("\n")), self.count, np.nan),
        }  # fmt: skip

    def _count(self, which: NDArray[np.bool_]) -> Places:
        """Count tokens in each text."""
        return counts(which, self.offset)

    def _dots(self) -> Places:
        """Count "..." as `str.count` does: every third dot of a run."""
        dots = self.row.of_rare(".")
        if not dots.size:
            return np.zeros(self.row.ends.size, np.int64)
        opens = np.concatenate(([0], np.flatnonzero(np.diff(dots) > 1) + 1))
        threes = np.diff(opens, append=dots.size) // 3
        some = np.flatnonzero(threes)
        begins = dots[opens[some]]
        running = np.concatenate(([0], np.cumsum(threes[some])))
        return (
            running[np.searchsorted(begins, self.row.ends)]
            - running[np.searchsorted(begins, self.row.begins)]
        )

    def _letters(self, sizes: Places) -> Columns:
        """Count letters and digits: what words are made of, without underscores and digits."""
        row = self.row
        underscores = counts(row.row == ord("_"), np.append(row.begins, row.size))
        return {
            "alphanumeric_share": share(row.having_bit(WORD) - underscores, sizes),
            "alphabetic_characters": row.having_bit(LETTER),
        }

    def _stop_words(self, stop_words: StopWords) -> NDArray[np.bool_]:
        row = self.row
        lengths = self.ends - self.begins
        found = np.zeros(self.begins.size, np.bool_)
        chosen = stop_words.beginnings[row.row[self.begins]]
        short = chosen & (lengths <= 8)
        if row.wide.size:
            # A placeholder tells nothing: such tokens are looked at as the long ones are.
            token = np.searchsorted(self.begins, row.wide, side="right") - 1
            token = token[(token >= 0) & (row.wide < self.ends[token])] if short.size else token
            short[token[token >= 0]] = False
        which = np.flatnonzero(short)
        small, _ = stop_words.small.find(small_pieces(row.data, self.begins[which], lengths[which]))
        found[which[small]] = True
        if stop_words.others.members.size:
            chosen &= lengths <= stop_words.longest
            chosen[which] = False
            which = np.flatnonzero(chosen)
            hashes = pieces(row.data, self.begins[which], self.ends[which])
            if row.wide.size and which.size:
                token = np.searchsorted(self.begins[which], row.wide, side="right") - 1
                inside = (token >= 0) & (row.wide < self.ends[which][token])
                add_wide(hashes, self.begins[which], row.wide[inside], row.codes[inside])
            others, _ = stop_words.others.find(hashes)
            found[which[others]] = True
        return found

    def _alphabetic(self) -> NDArray[np.float64]:
        """Return the share of words between white space that have a letter."""
        chunk = self._chunk
        having = np.flatnonzero(self._bits & np.uint8(LETTER))
        inside = chunk[having]
        opens = np.flatnonzero(inside[1:] != inside[:-1]) + 1
        lettered = np.diff(np.searchsorted(having[opens], self.offset))
        if having.size:  # the first one opens too
            lettered[np.searchsorted(self.offset, having[0], side="right") - 1] += 1
        bounds = np.append(chunk, chunk[-1] + 1 if chunk.size else 0)[self.offset]
        return share(lettered, np.diff(bounds), np.nan)
