"""Texts one behind another in one row of bytes: what every signal is computed from."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alpenglow.data.signals.characters import (
    PUNCTUATION,
    RARE,
    SPACE,
    SPECIAL,
    WIDE,
    WIDE_SPACE,
    alphabet,
    ascii_classes,
    word_bytes,
)
from alpenglow.data.signals.hashes import PADDING, Places


def totals(values: NDArray[Any], offset: Places) -> NDArray[Any]:
    """Add up values of lines or words: those from offset[i] to offset[i + 1], for each i."""
    if values.dtype == np.bool_:
        return counts(values, offset)
    running = np.concatenate(([0], np.cumsum(values, dtype=np.result_type(values, np.int64))))
    return running[offset[1:]] - running[offset[:-1]]


def counts(which: NDArray[np.bool_], offset: Places) -> Places:
    """Count those that are true from offset[i] to offset[i + 1], for each i."""
    if which.size < 256 * offset.size:
        return np.diff(np.searchsorted(np.flatnonzero(which), offset))
    bounds = offset.tolist()
    return np.array(
        [np.count_nonzero(which[begin:end]) for begin, end in itertools.pairwise(bounds)], np.int64
    )


def share(part: NDArray[Any], whole: NDArray[Any], empty: float = 0.0) -> NDArray[np.float64]:
    """Divide; where the whole is 0 the share is `empty`."""
    result = np.full(np.shape(whole), empty, np.float64)
    np.divide(part, whole, out=result, where=whole > 0)
    return result


@dataclass(frozen=True)
class Row:
    """Texts, each with U+000A behind it, one byte a character.

    A character beyond ASCII is a placeholder (`WIDE`, `WIDE_SPACE`); `codes` holds what it is.
    """

    data: bytes
    """`size` bytes and `PADDING`."""
    begins: Places
    """Where each text begins; shape (texts,)."""
    ends: Places
    """Where it ends: the place of the U+000A behind it."""
    wide: Places
    """Places of the placeholders."""
    codes: NDArray[np.uint32]
    """Their code points."""
    bits: NDArray[np.uint16]
    """Their bits, see alpenglow.data.signals.characters."""

    @classmethod
    def of(cls, texts: Sequence[str]) -> Row:
        """Join texts."""
        joined = "\n".join(texts) + "\n"
        sizes = np.array([len(text) for text in texts], np.int64)
        ends = np.cumsum(sizes + 1) - 1
        wide = np.empty(0, np.int64)
        codes = np.empty(0, np.uint32)
        bits = np.empty(0, np.uint16)
        if joined.isascii():
            data = joined.encode("ascii") + bytes(PADDING)
        else:
            points = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32)
            wide = np.flatnonzero(points > 0x7F)
            codes = points[wide]
            alphabet().learn(codes)
            bits = alphabet().bits(codes)
            row = points.astype(np.uint8)
            row[wide] = np.where(bits & SPACE, WIDE_SPACE, WIDE)
            data = row.tobytes() + bytes(PADDING)
        return cls(data, ends - sizes, ends, wide, codes, bits)

    @property
    def size(self) -> int:
        """Return characters, the U+000A behind each text counted."""
        return len(self.data) - PADDING

    @functools.cached_property
    def row(self) -> NDArray[np.uint8]:
        """Return the bytes; shape (size,)."""
        return np.frombuffer(self.data, np.uint8, self.size)

    @functools.cached_property
    def classes(self) -> NDArray[np.uint8]:
        """Return the low eight bits of every character; shape (size,)."""
        entries = bytearray(self.data[: self.size].translate(ascii_classes()))
        classes = np.frombuffer(entries, np.uint8)
        classes[self.wide] = self.bits.astype(np.uint8)
        return classes

    @functools.cached_property
    def rare(self) -> tuple[Places, NDArray[np.uint8]]:
        """Return places of ASCII that is counted by itself, and what is there."""
        places = np.flatnonzero(self.classes >= np.uint8(RARE))
        return places, self.row[places]

    def of_rare(self, character: str) -> Places:
        """Return the places of one such character."""
        places, found = self.rare
        result: Places = places[found == ord(character)]
        return result

    def having(self, bit: int) -> Places:
        """Return places of characters beyond ASCII that have a bit."""
        places: Places = self.wide[(self.bits & np.uint16(bit)) != 0]
        return places

    def count(self, places: Places) -> Places:
        """Count ascending places in each text; shape (texts,)."""
        return np.searchsorted(places, self.ends) - np.searchsorted(places, self.begins)

    def having_bit(self, bit: int) -> Places:
        """Count characters of each text whose class has a bit; the U+000A behind it has none.

        Args:
            bit: of the low eight, and none that U+000A has.
        """
        offset = np.append(self.begins, self.size)
        return counts((self.classes & np.uint8(bit)) != 0, offset)

    def special(self) -> NDArray[np.bool_]:
        """Tell which texts Python has to normalise; shape (texts,)."""
        return self.count(self.having(SPECIAL)) > 0


@dataclass(frozen=True)
class WordRow:
    """The words of texts after RedPajama v2's normalisation, one behind another.

    Words are runs of bytes above U+0020; U+000A stands between lines, and behind each text.
    """

    data: bytes
    begins: Places
    """Where each word begins; shape (words,)."""
    ends: Places
    newlines: Places
    """Words before each U+000A of the row; shape (U+000A,)."""
    wide: Places
    codes: NDArray[np.uint32]

    @classmethod
    def of(cls, row: Row, normalised: bool = False) -> WordRow:
        """Take the words of a row.

        Args:
            row: of texts.
            normalised: they are already; nothing is removed from them.
        """
        delete = b"" if normalised else PUNCTUATION
        data = row.data[: row.size].translate(word_bytes(not normalised), delete)
        stream = np.frombuffer(data, np.uint8)
        ink = stream > ord(" ")
        edges = np.flatnonzero(ink[1:] != ink[:-1]) + 1
        if ink[0]:
            edges = np.concatenate(([0], edges))
        del ink
        begins, ends = edges[::2].copy(), edges[1::2].copy()
        newlines = np.searchsorted(begins, np.flatnonzero(stream == ord("\n")))
        wide = np.empty(0, np.int64)
        codes = np.empty(0, np.uint32)
        if row.wide.size:
            wide = np.flatnonzero(stream == WIDE)
            codes = row.codes[(row.bits & np.uint16(SPACE)) == 0]
        return cls(data + bytes(PADDING), begins, ends, newlines, wide, codes)
