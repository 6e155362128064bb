"""What tokens a piece of text becomes: a hash table in numpy arrays, filled by `tokenizers` itself.

A byte-level BPE gives each piece its tokens whatever stands around it, so they are asked of the
library once and kept. Keys are exact: a piece of up to 15 bytes and its length are 16 bytes, longer
ones are keys of a dictionary. No two pieces share a key.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Places = NDArray[np.int64]

SHORT = 15
"""Bytes of a piece that, with its length, fit into 16."""
KEPT = 256
"""Bytes of the longest piece that is remembered from block to block."""

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio (Knuth, volume 3, 6.4)
_LOW = np.array([(1 << 8 * min(n, 8)) - 1 for n in range(SHORT + 1)], np.uint64)
_HIGH = np.array([(1 << 8 * max(n - 8, 0)) - 1 for n in range(SHORT + 1)], np.uint64)
_LENGTH = np.array([n << 56 for n in range(SHORT + 1)], np.uint64)


class PieceTable:
    """Pieces and their tokens.

    Args:
        ask: tells a piece's tokens.
        given: pieces whose tokens are known and that are never asked.
        limit: forget all pieces but those when there are more, before the next block.
    """

    def __init__(
        self, ask: Callable[[bytes], list[int]], given: Mapping[bytes, int], limit: int = 1 << 19
    ) -> None:
        self._ask = ask
        self._given = given
        self._limit = limit
        self.clear()

    def clear(self) -> None:
        """Forget all pieces but the given ones."""
        room = 1 << 12
        self._used = 1  # entry 0 stands for "none": its key has length 0
        self._tokens_used = 0
        self._tokens = np.zeros(room, np.uint32)
        self._low = np.zeros(room, np.uint64)
        self._high = np.zeros(room, np.uint64)
        self._first = np.zeros(room, np.uint32)
        self._count = np.zeros(room, np.int64)
        self._offset = np.zeros(room, np.int64)
        self._slots = np.zeros(room * 4, np.int32)
        self._long: dict[bytes, int] = {}
        if self._given:
            pieces, tokens = list(self._given), list(self._given.values())
            self._add(pieces, np.array(tokens, np.uint32), np.ones(len(tokens), np.int64))

    def tokens(self, row: bytes, starts: Places) -> tuple[NDArray[np.uint32], Places]:
        """Return the tokens of the pieces of a row, and the index of each piece's first.

        Args:
            row: bytes, of which at least 16 lie behind the last start.
            starts: where pieces begin; the last piece has one byte.
        """
        if max(self._used, self._tokens_used >> 2) > self._limit:
            self.clear()
        entries = self._entries(row, starts)
        counts = self._count[entries]
        first = np.cumsum(counts)
        total = int(first[-1])
        first -= counts
        out = np.empty(total, np.uint32)
        single = counts == 1
        if single.all():
            return self._first[entries], first
        chosen = np.flatnonzero(single)
        out[first[chosen]] = self._first[entries[chosen]]
        chosen = np.flatnonzero(~single)
        count = counts[chosen]
        behind = np.cumsum(count)
        step = np.arange(int(behind[-1])) - np.repeat(behind - count, count)
        out[np.repeat(first[chosen], count) + step] = self._tokens[
            np.repeat(self._offset[entries[chosen]], count) + step
        ]
        return out, first

    def _entries(self, row: bytes, starts: Places) -> Places:
        lengths = np.empty_like(starts)
        np.subtract(starts[1:], starts[:-1], out=lengths[:-1])
        lengths[-1] = 1
        capped = np.minimum(lengths, SHORT)
        # Element i is the 8 bytes from i on.
        overlapping: NDArray[np.uint64] = np.ndarray((len(row) - 7,), "<u8", row, strides=(1,))
        eight = np.ascontiguousarray(overlapping)
        low = eight.take(starts) & _LOW.take(capped)
        high = (eight.take(starts + 8) & _HIGH.take(capped)) | _LENGTH.take(capped)
        entries = self._find(low, high)
        long = np.flatnonzero(lengths > SHORT)
        if long.size:
            begins = starts[long]
            get = self._long.get
            entries[long] = [
                get(row[begin:end], 0)
                for begin, end in zip(
                    begins.tolist(), (begins + lengths[long]).tolist(), strict=True
                )
            ]
        missing = np.flatnonzero(entries == 0)
        if missing.size:
            begins = starts[missing]
            pieces = [
                row[begin:end]
                for begin, end in zip(
                    begins.tolist(), (begins + lengths[missing]).tolist(), strict=True
                )
            ]
            asked = {piece: self._ask(piece) for piece in dict.fromkeys(pieces)}
            number = {piece: entry for entry, piece in enumerate(asked, self._used)}
            counts = np.fromiter(map(len, asked.values()), np.int64, len(asked))
            tokens = np.fromiter(itertools.chain.from_iterable(asked.values()), np.uint32)
            self._add(list(asked), tokens, counts)
            entries[missing] = [number[piece] for piece in pieces]
        return entries

    def _find(self, low: NDArray[np.uint64], high: NDArray[np.uint64]) -> Places:
        """Return the entry of each key, 0 where there is none."""
        slot = self._slot(low, high)
        found: Places = self._slots[slot].astype(np.int64)
        wrong = (self._low[found] != low) | (self._high[found] != high)
        left = np.flatnonzero(wrong & (found != 0))
        found[wrong] = 0
        mask = self._slots.size - 1
        slot = slot[left]
        while left.size:
            slot = (slot + 1) & mask
            entry = self._slots[slot].astype(np.int64)
            right = (self._low[entry] == low[left]) & (self._high[entry] == high[left])
            found[left[right]] = entry[right]
            more = ~right & (entry != 0)
            left, slot = left[more], slot[more]
        return found

    def _slot(self, low: NDArray[np.uint64], high: NDArray[np.uint64]) -> Places:
        mixed: Any = ((low * _MULTIPLIER) ^ high) * _MULTIPLIER
        mixed ^= mixed >> np.uint64(32)
        mixed *= _MULTIPLIER
        mixed >>= np.uint64(65 - self._slots.size.bit_length())
        slots: Places = mixed.astype(np.int64)
        return slots

    def _add(self, pieces: list[bytes], tokens: NDArray[np.uint32], counts: Places) -> None:
        base, number = self._used, len(pieces)
        self._reserve(base + number, self._tokens_used + tokens.size)
        new = slice(base, base + number)
        self._offset[new] = self._tokens_used + np.cumsum(counts) - counts
        self._count[new] = counts
        self._tokens[self._tokens_used : self._tokens_used + tokens.size] = tokens
        self._tokens_used += tokens.size
        some = np.flatnonzero(counts) + base
        self._first[some] = self._tokens[self._offset[some]]
        self._used += number
        keys = b"".join(
            piece + bytes(SHORT - len(piece)) + bytes([len(piece)])
            if len(piece) <= SHORT
            else bytes(16)
            for piece in pieces
        )
        pairs = np.frombuffer(keys, "<u8").reshape(-1, 2)
        self._low[new], self._high[new] = pairs[:, 0], pairs[:, 1]
        for entry, piece in enumerate(pieces, base):
            if SHORT < len(piece) <= KEPT:
                self._long[piece] = entry
        self._place(np.flatnonzero(pairs[:, 1] >> np.uint64(56)) + base)

    def _place(self, entries: Places) -> None:
        """Give entries slots: the next free one behind the hash (linear probing)."""
        slot, mask = self._slot(self._low[entries], self._high[entries]), self._slots.size - 1
        while entries.size:
            free = self._slots[slot] == 0
            self._slots[slot[free]] = entries[free]
            # Where several wanted one slot, one has it now.
            without = self._slots[slot] != entries
            entries, slot = entries[without], (slot[without] + 1) & mask

    def _reserve(self, entries: int, tokens: int) -> None:
        if tokens > self._tokens.size:
            self._tokens = np.resize(self._tokens, 1 << tokens.bit_length())
        if entries <= self._low.size:
            return
        room = 1 << entries.bit_length()
        for name in ("_low", "_high", "_first", "_count", "_offset"):
            grown = np.zeros(room, getattr(self, name).dtype)
            grown[: self._used] = getattr(self, name)[: self._used]
            setattr(self, name, grown)
        self._slots = np.zeros(room * 4, np.int32)
        self._place(np.flatnonzero(self._high[: self._used] >> np.uint64(56)))
