"""Runs of characters of one kind, and the words and lines that they make."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alpenglow.data.signals.characters import BREAK, SPACE, WORD
from alpenglow.data.signals.hashes import Places
from alpenglow.data.signals.rows import Row


@dataclass(frozen=True)
class Runs:
    r"""White space, `\w+` and `[^\w\s]+`, in turn.

    The latter two are the tokens of NLTK's WordPunctTokenizer, RedPajama v2's "raw words".
    """

    begins: Places
    """Shape (runs + 1,): the last is where the row ends."""
    kinds: NDArray[np.uint8]
    """`SPACE`, `WORD` or 0; shape (runs,)."""

    @classmethod
    def of(cls, row: Row) -> Runs:
        """Find the runs of a row."""
        kind = row.classes & np.uint8(SPACE | WORD)
        inner = np.flatnonzero(kind[1:] != kind[:-1])
        begins = np.empty(inner.size + 2, np.int64)
        begins[0], begins[-1] = 0, row.size
        np.add(inner, 1, out=begins[1:-1])
        return cls(begins, kind[begins[:-1]])


@dataclass(frozen=True)
class Lines:
    """The lines of texts; a break at a text's end begins no line, as in `str.splitlines`."""

    begins: Places
    """Shape (lines,)."""
    ends: Places
    """Where the break is that ends a line, or the text's end."""
    offset: Places
    """Lines before each text; shape (texts + 1,)."""
    broken: NDArray[np.bool_]
    """Whether a break ends it."""
    first: Places
    """Its first character that is no white space."""
    last: Places
    """Its last one; before `begins` where the line is blank."""
    words: Places
    """Words between white space."""
    number: Places
    """Which of the row's breaks ends it."""

    @property
    def blank(self) -> NDArray[np.bool_]:
        """Tell which lines hold white space alone."""
        return self.last < self.begins

    def of_places(self, places: Places) -> Places:
        """Return the line of each place that is inside of one."""
        return np.searchsorted(self.ends, places)

    @classmethod
    def at_newlines(cls, row: Row, runs: Runs) -> Lines:
        """Break at U+000A alone, as RedPajama v2 does."""
        breaks = row.of_rare("\n")
        open_end = row.row[row.ends - 1] != ord("\n")
        return cls._at(row, runs, breaks, np.ones(breaks.size, np.bool_), open_end)

    @classmethod
    def at_all_breaks(cls, row: Row, runs: Runs, newlines: Lines) -> Lines:
        """Break as `str.splitlines` does: form feeds and carriage returns too.

        Args:
            row: the texts.
            runs: of it.
            newlines: lines at U+000A, returned where the row has no other breaks.
        """
        wide = np.any(row.bits & np.uint16(BREAK))
        if not wide and not any(character in row.data for character in b"\r\v\f\x1c\x1d\x1e"):
            return newlines
        breaks = np.flatnonzero(row.classes & np.uint8(BREAK))
        after_return = np.zeros(breaks.size, np.bool_)
        after_return[1:] = (
            (row.row[breaks[1:]] == ord("\n"))
            & (row.row[breaks[:-1]] == ord("\r"))
            & (breaks[1:] == breaks[:-1] + 1)
        )
        open_end = (row.classes[row.ends - 1] & np.uint8(BREAK)) == 0
        return cls._at(row, runs, breaks, ~after_return, open_end)

    @classmethod
    def _at(
        cls,
        row: Row,
        runs: Runs,
        breaks: Places,
        valid: NDArray[np.bool_],
        open_end: NDArray[np.bool_],
    ) -> Lines:
        texts_end = np.searchsorted(breaks, row.ends)
        valid[texts_end] = open_end & (row.ends > row.begins)
        inside = np.ones(breaks.size, np.bool_)
        inside[texts_end] = False
        begins = np.concatenate(([0], breaks[:-1] + 1))
        # Every break is white space: the run that holds it tells what stands before and behind.
        run = np.searchsorted(runs.begins, breaks, side="right") - 1
        spaces = np.cumsum(runs.kinds == SPACE, dtype=np.int32)[run].astype(np.int64)
        inked = runs.kinds[0] != SPACE
        words = np.diff(spaces, prepend=0 if inked else 1)
        first = np.empty_like(breaks)
        first[1:] = runs.begins[run[:-1] + 1]
        first[0] = 0 if inked else runs.begins[1]
        offset = np.concatenate(([0], np.cumsum(valid)[texts_end]))
        return cls(
            begins[valid], breaks[valid], offset, inside[valid], first[valid],
            runs.begins[run[valid]] - 1, words[valid], np.flatnonzero(valid),
        )  # fmt: skip
