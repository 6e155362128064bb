"""Hashes of pieces of a row, and which of them are equal, without a loop over pieces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xxhash
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
Places = NDArray[np.int64]
PADDING = 8
"""Bytes behind a row, so that 8 bytes can be read from any place in it."""

_LONG = 256
"""Bytes of a piece that is hashed by itself: then a hostile row costs no more than another."""
_MASKS = np.array([(1 << 8 * size) - 1 for size in range(9)], np.uint64)
_ONE, _TWO = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)


def mix(values: Hashes) -> Hashes:
    """Spread every bit over all: a bijection of 64 bits (multiply, xor-shift, twice)."""
    values = values * _ONE
    values ^= values >> np.uint64(32)
    values *= _TWO
    values ^= values >> np.uint64(29)
    return values


def salts(count: int) -> Hashes:
    """Return a number for each of `count` texts that keeps its pieces apart from the others'.

    They are far from what `pieces` mixes: short words are small numbers, as those of texts are.
    """
    return mix(np.arange(count, dtype=np.uint64) + np.uint64(0xE7037ED1A0B428DB))


def pieces(row: bytes, begins: Places, ends: Places) -> Hashes:
    """Hash pieces of a row; equal pieces have equal hashes, others almost surely not.

    Args:
        row: with `PADDING` bytes behind the last piece.
        begins: where pieces begin; shape (pieces,).
        ends: where they end.
    """
    eights = np.ndarray((len(row) - PADDING + 1,), "<u8", row, 0, (1,))
    lengths = ends - begins
    hashes = mix((eights[begins] & _MASKS[np.minimum(lengths, 8)]) + lengths.astype(np.uint64))
    left = np.flatnonzero(lengths > 8)
    done = 8
    while left.size and done < _LONG:
        block = eights[begins[left] + done] & _MASKS[np.minimum(lengths[left] - done, 8)]
        hashes[left] = mix(hashes[left] ^ block)
        done += 8
        left = left[lengths[left] > done]
    view = memoryview(row)
    for index in left.tolist():
        hashes[index] = xxhash.xxh3_64_intdigest(view[int(begins[index]) : int(ends[index])])
    return hashes


def add_wide(hashes: Hashes, begins: Places, places: Places, values: NDArray[np.uint32]) -> None:
    """Put what a placeholder stands for into the hash of the piece that holds it.

    Args:
        hashes: of pieces; changed.
        begins: where the pieces begin, ascending.
        places: of the placeholders, ascending; each is in the last piece that begins before it.
        values: what they stand for.
    """
    if not places.size or not hashes.size:
        return
    piece = np.searchsorted(begins, places, side="right") - 1
    offset = (places - begins[piece]).astype(np.uint64)
    value = mix((offset << np.uint64(21)) + values.astype(np.uint64))
    bounds = np.concatenate(([0], np.flatnonzero(piece[1:] != piece[:-1]) + 1))
    hashes[piece[bounds]] += np.add.reduceat(value, bounds)


@dataclass(frozen=True)
class Groups:
    """Pieces sorted so that equal ones stand together, in the order of their places."""

    order: Places
    """Index of each piece; shape (pieces,)."""
    first: NDArray[np.bool_]
    """Whether a group begins there."""

    @classmethod
    def of(cls, keys: Hashes, width: int = 64) -> Groups:
        """Group equal keys.

        A sort of plain numbers is several times as fast as one that returns their order, so the
        place goes into the low bits of each key. Where there is no room for it, the key's own low
        bits go; that this makes no two different keys equal is checked, and where it does they are
        sorted whole.

        Args:
            keys: shape (pieces,).
            width: bits that they have; all 64 are spread evenly (`mix`).
        """
        count = keys.size
        bits = max(1, count - 1).bit_length()
        low = np.uint64((1 << bits) - 1)
        whole = width + bits <= 64
        packed = keys << np.uint64(bits) if whole else keys & ~low
        packed |= np.arange(count, dtype=np.uint64)
        packed.sort()
        order = (packed & low).view(np.int64)
        packed >>= np.uint64(bits)
        first = np.ones(count, np.bool_)
        np.not_equal(packed[1:], packed[:-1], out=first[1:])
        del packed
        if not whole:
            again = np.flatnonzero(~first)
            if np.any(keys[order[again]] != keys[order[again - 1]]):
                order = np.argsort(keys, kind="stable")
                ordered = keys[order]
                np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
        return cls(order, first)

    @property
    def twice(self) -> NDArray[np.bool_]:
        """Tell for each place in `order` whether its group has two pieces or more."""
        alone = self.first.copy()
        alone[:-1] &= self.first[1:]
        return np.logical_not(alone, out=alone)

    @property
    def begins(self) -> Places:
        """Where each group begins in `order`; shape (groups,)."""
        return np.flatnonzero(self.first)

    @property
    def again(self) -> Places:
        """Pieces that an earlier one is equal to."""
        found: Places = self.order[~self.first]
        return found


class HashSet:
    """A set of hashes that whole arrays are looked up in: a table of one probe.

    Args:
        hashes: the members; up to some thousands stay one probe.
    """

    def __init__(self, hashes: Hashes) -> None:
        self.members = np.unique(hashes)
        size = 1 << max(10, 2 * self.members.size.bit_length())
        self._shift = np.uint64(64 - (size.bit_length() - 1))
        self._table: Hashes | None = None
        if not 0 < self.members.size <= 1 << 11:
            return
        for factor in range(1, 200, 2):
            self._factor = np.uint64(factor) * _TWO
            slots = (self.members * self._factor) >> self._shift
            if np.unique(slots).size == slots.size:
                self._number = np.zeros(size, np.int64)
                self._number[slots] = np.arange(slots.size)
                # An empty slot holds what none that leads to it is: a member of another slot.
                self._table = np.full(size, self.members[0], np.uint64)
                self._table[slots] = self.members
                self._table[slots[0]] = self.members[0]
                break

    def find(self, hashes: Hashes) -> tuple[Places, Places]:
        """Return which of the hashes are members, and the index of each of these."""
        nothing = np.empty(0, np.int64)
        if not self.members.size:
            return nothing, nothing
        if self._table is not None:
            slots = (hashes * self._factor) >> self._shift
            which = np.flatnonzero(self._table[slots] == hashes)
            return which, self._number[slots[which]]
        index = np.minimum(np.searchsorted(self.members, hashes), self.members.size - 1)
        which = np.flatnonzero(self.members[index] == hashes)
        return which, index[which]


def small_pieces(row: bytes, begins: Places, lengths: Places) -> Hashes:
    """Return pieces of at most 8 bytes as numbers: different ones for different pieces."""
    eights = np.ndarray((len(row) - PADDING + 1,), "<u8", row, 0, (1,))
    return np.asarray(eights[begins] & _MASKS[lengths])
