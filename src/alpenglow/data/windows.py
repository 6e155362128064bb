"""The windows of a slice, and which of them are kept from training for validation.

A window has S + 1 tokens of one shard (S inputs, and S labels that are the inputs moved by one) and
starts at a multiple of S, so neighbours share one token. Windows are numbered shard by shard.

**Held out.** The whole blocks of B neighbouring windows of a slice are numbered too; a keyed
permutation puts them in an order of which validation takes the first k, k being the fraction of
all blocks, rounded up. Training takes the other blocks and what a shard has beyond its whole ones.
So either part is computed from a number, in O(log shards), without a table. A held-out block spans
the tokens [aS, bS]; its first is a label of the window before it and its last an input of the one
after it, so validation's windows start one later, at aS + 1, and are one fewer than B: no token of
a shard is read by both. B follows from the slice's size, between 4 and 256.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from alpenglow.data.feistel import permute, round_keys

LEAST_BLOCK, LARGEST_BLOCK, BLOCKS = 4, 256, 64
"""A block has windows / BLOCKS windows, as a power of two within these bounds; part of what
`held_out` means: other values hold out other windows."""

Places = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Shard (place in the catalogue) and first token of some windows, int64 [n] each."""


class OrderError(ValueError):
    """A mixture that the catalogue cannot serve; the message is one sentence for the user."""


class Part(Protocol):
    """The windows of a slice that one stream is made of."""

    @property
    def name(self) -> str:
        """Name of the slice."""

    @property
    def count(self) -> int:
        """How many windows: one epoch."""

    def locate(self, numbers: NDArray[np.int64]) -> Places:
        """Where windows 0..count-1 lie."""


@dataclass(frozen=True)
class Windows:
    """All windows of a slice."""

    name: str
    shards: NDArray[np.int64]
    """Places in the catalogue, of the shards that hold a window."""
    first: NDArray[np.int64]
    """[shards + 1] number of windows before each shard; the last is all of them."""
    sequence_length: int

    @classmethod
    def of(cls, name: str, shards: Sequence[tuple[str, int]], sequence_length: int) -> Windows:
        """Number the windows of a slice.

        Args:
            name: the slice.
            shards: (slice, tokens) of each shard of the catalogue.
            sequence_length: S.

        Raises:
            OrderError: it has none.
        """
        counts = [
            (place, (tokens - 1) // sequence_length)
            for place, (of, tokens) in enumerate(shards)
            if of == name and tokens > sequence_length
        ]
        if not counts:
            known = ", ".join(sorted({of for of, _ in shards})) or "none"
            raise OrderError(
                f"mixture: slice {name} has no window of {sequence_length} + 1 tokens in the "
                f"catalogue; slices there: {known}"
            )
        places = np.array([place for place, _ in counts], np.int64)
        return cls(name, places, _cumulated([n for _, n in counts]), sequence_length)

    @property
    def count(self) -> int:
        """How many windows: one epoch."""
        return int(self.first[-1])

    def locate(self, numbers: NDArray[np.int64]) -> Places:
        """Where windows lie; see `Part`."""
        file = np.searchsorted(self.first, numbers, side="right") - 1
        return self.shards[file], (numbers - self.first[file]) * self.sequence_length

    def split(self, fraction: float, *key: object) -> tuple[Training, Validation]:
        """Hold a fraction of the blocks out.

        Args:
            fraction: above 0 and below 1.
            key: what the choice depends on.

        Raises:
            OrderError: too few windows to hold a block out, or none left to train on.
        """
        said = f"data.validation_fraction = {fraction:g}: slice {self.name}"
        if self.sequence_length < 2:
            raise OrderError(f"{said} cannot be split at batch.sequence_length = 1; use 2 or more")
        wanted = self.count // BLOCKS
        block = min(LARGEST_BLOCK, max(LEAST_BLOCK, 1 << max(0, wanted.bit_length() - 1)))
        windows = np.diff(self.first)
        blocks, rests = _cumulated(windows // block), _cumulated(windows % block)
        whole = int(blocks[-1])
        held = math.ceil(Fraction(repr(float(fraction))) * whole)
        if not held:
            raise OrderError(
                f"{said} has no shard of {block} windows, so none can be held out; prepare longer "
                "shards, shorten batch.sequence_length or set the fraction to 0"
            )
        if held == whole and not int(rests[-1]):
            raise OrderError(
                f"{said} has {self.count} windows in {whole} blocks, and all would be held out: "
                "none is left to train on; lower the fraction or prepare more"
            )
        choice = _Choice(self, block, blocks, rests, held, round_keys(*key, self.name, "held out"))
        return Training(choice), Validation(choice)


@dataclass(frozen=True)
class _Choice:
    """Which blocks of a slice are held out."""

    windows: Windows
    block: int
    """Windows a block."""
    blocks: NDArray[np.int64]
    """[shards + 1] whole blocks before each shard."""
    rests: NDArray[np.int64]
    """[shards + 1] windows beyond whole blocks, before each shard."""
    held: int
    """Blocks held out."""
    keys: NDArray[np.uint64]

    def first_window(self, drawn: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(index of the shard, first window in it) of the blocks drawn, in the order of drawing."""
        block = permute(drawn, int(self.blocks[-1]), self.keys)
        file = np.searchsorted(self.blocks, block, side="right") - 1
        return file, (block - self.blocks[file]) * self.block


@dataclass(frozen=True)
class Training:
    """What is left to train on."""

    choice: _Choice

    @property
    def name(self) -> str:
        """Name of the slice."""
        return self.choice.windows.name

    @property
    def count(self) -> int:
        """How many windows: one epoch."""
        choice = self.choice
        return (int(choice.blocks[-1]) - choice.held) * choice.block + int(choice.rests[-1])

    def locate(self, numbers: NDArray[np.int64]) -> Places:
        """Where windows lie; see `Part`."""
        choice, windows = self.choice, self.choice.windows
        in_blocks = (int(choice.blocks[-1]) - choice.held) * choice.block
        file, window = np.empty_like(numbers), np.empty_like(numbers)
        inner = numbers < in_blocks
        drawn, offset = np.divmod(numbers[inner], choice.block)
        file[inner], begin = choice.first_window(choice.held + drawn)
        window[inner] = begin + offset
        beyond = numbers[~inner] - in_blocks
        last = np.searchsorted(choice.rests, beyond, side="right") - 1
        file[~inner] = last
        whole = np.diff(choice.blocks)[last] * choice.block
        window[~inner] = whole + beyond - choice.rests[last]
        return windows.shards[file], window * windows.sequence_length


@dataclass(frozen=True)
class Validation:
    """What training never reads."""

    choice: _Choice

    @property
    def name(self) -> str:
        """Name of the slice."""
        return self.choice.windows.name

    @property
    def count(self) -> int:
        """How many windows: one epoch."""
        return self.choice.held * (self.choice.block - 1)

    def locate(self, numbers: NDArray[np.int64]) -> Places:
        """Where windows lie; see `Part`."""
        windows = self.choice.windows
        drawn, offset = np.divmod(numbers, self.choice.block - 1)
        file, begin = self.choice.first_window(drawn)
        return windows.shards[file], (begin + offset) * windows.sequence_length + 1

    def borders(self, starts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The tokens [begin, end) that validation alone may read around windows that begin here."""
        span = self.choice.block * self.choice.windows.sequence_length
        begin = (starts - 1) // span * span
        return begin + 1, begin + span


def _cumulated(counts: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
