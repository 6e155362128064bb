r"""The split of byte-level BPE tokenizers, over a whole block of texts at once with numpy.

GPT-2's expression, which the `ByteLevel` pre-tokenizer of `tokenizers` uses, is

    's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+

Where a piece begins follows from the classes of a character and of its two neighbours:

- a letter, number or other character: where the class changes, unless one space comes before it,
  which is the beginning then;
- white space: the first of its run, and the last of it if no white space and no end follows;
- behind a contraction whose apostrophe begins a piece, and not between its two parts.

Tokens made of 2, 3, ... K spaces, as GPT-NeoX has, are taken out of a text before that: each run of
spaces gives up pieces of K from its left, then the rest, if that is more than one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alpenglow.data.alphabet import (
    CLASS,
    COMPOSES,
    END,
    RUN,
    SPACE,
    UNKNOWN,
    WHITE,
    table,
)

Places = NDArray[np.int64]
MARK = 0xFF
"""The byte between texts; UTF-8 has no such byte."""
PADDING = 16
"""Marks behind a block, so that 16 bytes can be read from any place in it."""

_CUT = re.compile(
    rb"(?:[A-Za-z0-9]|[\xe5-\xe8][\x80-\xbf]{2})"
    rb"(?=[\x00-\x2f:-@\[-`{-\x7f]|\xe3\x80[\x81\x82]|\xef\xbc\x8c)"
)


def cut(data: bytes, size: int) -> Iterator[bytes]:
    """Cut a text into parts of about `size` bytes whose tokens, in order, are the text's tokens.

    A cut goes between a letter or digit and an ASCII character that is neither (or a CJK ideograph
    and a comma or full stop). A piece begins there whatever comes before or after: no class of
    characters goes across, no contraction, and NFC composes nothing with such a character. A text
    without such a place stays whole.
    """
    begin = 0
    while len(data) - begin > size:
        found = _CUT.search(data, begin + size)
        if found is None:
            break
        yield data[begin : found.end()]
        begin = found.end()
    yield data[begin:]


@dataclass(frozen=True)
class Block:
    """Texts as one row of bytes, with a class for each byte.

    Bytes behind a character's first have its class. The row begins and ends with `MARK`, and has
    one behind each text.
    """

    row: bytes
    classes: NDArray[np.uint8]
    """Shape (bytes of the row,)."""
    wide: Places
    """First bytes of white space of more than one byte."""
    marked: dict[int, int]
    """Place of a text -> the marks of the alphabet that its characters have."""

    @classmethod
    def of(cls, texts: list[bytes], ascii_only: bool) -> Block:
        """Join UTF-8 texts and find the class of each character."""
        row = b"\xff%b\xff%b" % (b"\xff".join(texts), b"\xff" * PADDING)
        classes = np.frombuffer(bytearray(row).translate(_ascii_classes()), np.uint8)
        if ascii_only:
            return cls(row, classes, np.empty(0, np.int64), {})
        return cls(row, classes, *_classify(np.frombuffer(row, np.uint8), classes, texts))

    def starts(self, longest_run: int) -> Places:
        """Return where pieces begin, behind the first mark; every mark is a piece of its own.

        Args:
            longest_run: K of the tokens made of 2 to K spaces; 0 where there are none.
        """
        row, classes = np.frombuffer(self.row, np.uint8), self.classes
        within = self._runs(longest_run) if longest_run else []
        end = len(row) - PADDING
        before, here = classes[: end - 1], classes[1:end]
        white = (classes & 6) == SPACE  # SPACE and WHITE
        inked = classes < SPACE  # LETTER, NUMBER and OTHER
        start = here != before
        start &= ~(inked[1:end] & (before == SPACE))
        start[white[1:end]] = False
        start |= white[1:end] & (~white[: end - 1] | inked[2 : end + 1])
        start |= here == END
        if self.wide.size:
            self._wide(start, white, inked)
        start[within] = True
        self._contractions(row, start)
        return np.flatnonzero(start) + 1

    def _runs(self, longest: int) -> list[int]:
        """Class the spaces of runs; returns where, less one, further pieces of long runs begin."""
        classes = self.classes
        space = classes == SPACE
        run = space[1:-1] & (space[:-2] | space[2:])
        classes[1:-1] += run.view(np.uint8) * np.uint8(RUN - SPACE)
        within: list[int] = []
        if b" " * (longest + 1) in self.row:
            edges = np.flatnonzero((classes[1:] == RUN) != (classes[:-1] == RUN)) + 1
            begins, ends = edges[::2], edges[1::2]
            far = np.flatnonzero(ends - begins > longest)
            for begin, end in zip(begins[far].tolist(), ends[far].tolist(), strict=True):
                if (end - begin) % longest == 1:
                    classes[end - 1] = SPACE
                within += range(begin + longest - 1, end - 1, longest)
        return within

    def _wide(
        self, start: NDArray[np.bool_], white: NDArray[np.bool_], inked: NDArray[np.bool_]
    ) -> None:
        row = np.frombuffer(self.row, np.uint8)
        length = np.where(row[self.wide] < 0xE0, 2, 3)  # no white space has four bytes
        for more in (1, 2):
            places = self.wide[length > more] + more
            start[places - 1] = False
        start[self.wide - 1] = ~white[self.wide - 1] | inked[self.wide + length]

    @staticmethod
    def _contractions(row: NDArray[np.uint8], start: NDArray[np.bool_]) -> None:
        places = np.flatnonzero(start & (row[1 : start.size + 1] == ord("'"))) + 1
        if not places.size:
            return
        first, second = row[places + 1], row[places + 2]
        short = _ONE[first]
        long = _TWO[first] == second
        # Indices of `start` are one less than places in the row.
        for which, length in ((short, 2), (long, 3)):
            chosen = places[which]
            start[chosen] = False
            start[chosen + length - 1] = True


_ONE = np.zeros(256, np.bool_)
_ONE[list(b"stmd")] = True
_TWO = np.full(256, 0xFE, np.uint8)  # a byte that UTF-8 has not, where no pair begins
_TWO[list(b"rvl")] = list(b"eel")


def _ascii_classes() -> bytes:
    entries = bytearray(256)
    entries[:128] = (table()[:128] & CLASS).tobytes()
    entries[MARK] = END
    return bytes(entries)


def _classify(
    row: NDArray[np.uint8], classes: NDArray[np.uint8], texts: list[bytes]
) -> tuple[Places, dict[int, int]]:
    """Fill in the classes of characters beyond ASCII; returns wide white space and marks."""
    entries = table()
    firsts = np.flatnonzero((row >= 0xC0) & (row != MARK))
    lead = row[firsts]
    wide, marks = [], []
    for length, low, high, bits in ((2, 0xC0, 0xE0, 0x1F), (3, 0xE0, 0xF0, 15), (4, 0xF0, 0xFF, 7)):
        places = firsts[(lead >= low) & (lead < high)]
        if not places.size:
            continue
        code = (row[places] & np.uint8(bits)).astype(np.int32)
        for more in range(1, length):
            code = (code << 6) | (row[places + more] & np.uint8(0x3F))
        entry = entries[code]
        kind = entry & np.uint8(CLASS)
        for more in range(length):
            classes[places + more] = kind
        wide.append(places[kind == WHITE])
        chosen = entry >= COMPOSES
        marks.append((places[chosen], entry[chosen] & np.uint8(COMPOSES | UNKNOWN)))
    marked: dict[int, int] = {}
    if any(places.size for places, _ in marks):
        ends = np.cumsum([len(text) + 1 for text in texts])
        for places, bits_of in marks:
            number = np.searchsorted(ends, places - 1, side="right")
            for mark in (COMPOSES, UNKNOWN):
                for text in np.unique(number[(bits_of & mark) != 0]).tolist():
                    marked[text] = marked.get(text, 0) | mark
    return (np.concatenate(wide) if wide else np.empty(0, np.int64)), marked
