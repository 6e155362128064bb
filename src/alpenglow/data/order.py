"""The order of training samples: sample i is computed, no index is built, shared or cached.

    order = Order.of(catalogue, {"github": 0.4, "wikipedia": 0.6}, sequence_length=2048, seed=1)
    order.sample(123_456_789)          # Sample(slice='github', shard=17, start=8192)

It depends on (seed, geometry of the catalogue, mixture, i) and on nothing else: not on the number
of ranks, the batch size, the length of the run or a restart.

Two steps. **Which slice**: samples come in blocks of B; after b blocks slice k has had
floor(b B W_k) - floor(b B W_(k-1)) samples, W being the cumulated exact weights, so every slice is
within one sample of its quota at every block border, for ever; inside a block a keyed permutation
spreads them. B is 256, or the power of two that gives the smallest slice one sample a block: with
less, a difference of floors could be negative. **Which window**: the j-th sample of a slice is
window permutation(j mod n) of epoch j div n, with a new key each epoch, so every window comes once
before any comes twice. A window has S + 1 tokens (inputs and labels overlap by S), starts at a
multiple of S and never crosses a shard.

With a validation fraction some windows are held out (see `alpenglow.data.windows`): `order` is then
over the others, in every epoch, and `order.validation()` over them. Without one the stream is that
of before there was such a choice.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alpenglow.data.catalogue import Catalogue
from alpenglow.data.feistel import permute, round_keys
from alpenglow.data.windows import OrderError, Part, Validation, Windows

__all__ = ["BLOCK", "Order", "OrderError", "Sample", "natural", "tail_tokens"]

BLOCK = 256
"""Least samples in a block; a constant of the format: another value is another stream."""
SMALLEST_SHARE = Fraction(1, 1_000_000)
"""A slice's share of the mixture; a smaller one would need blocks of over a million samples."""


class Sample(NamedTuple):
    """One training sample: S + 1 tokens of a shard."""

    slice: str
    shard: int
    """Place of the shard in the catalogue."""
    start: int
    """First token in the shard."""


class Order:
    """See the module.

    Args:
        shards: (slice, tokens) of each shard, in the catalogue's order.
        mixture: weight of each slice; they need not sum to 1.
        sequence_length: S, tokens a sample trains on.
        seed: any integer.
        fingerprint: of the catalogue's geometry.
        validation_fraction: share of every slice's windows to keep from training, below 1.

    Raises:
        OrderError: a weight that is negative or not finite, no positive weight, a slice of the
            mixture without a single window, or a fraction that leaves none on either side.
    """

    def __init__(
        self,
        shards: Sequence[tuple[str, int]],
        mixture: Mapping[str, float],
        sequence_length: int,
        seed: int,
        fingerprint: str = "",
        *,
        validation_fraction: float = 0.0,
    ) -> None:
        if sequence_length < 1:
            raise OrderError(f"sequence_length = {sequence_length}; it must be at least 1")
        if not 0 <= validation_fraction < 1:
            raise OrderError(
                f"data.validation_fraction = {validation_fraction}; it lies from 0 to below 1"
            )
        self.sequence_length = sequence_length
        self._key: tuple[object, ...] = (seed, fingerprint)
        weights = _weights(mixture)
        every = [Windows.of(name, shards, sequence_length) for name in weights]
        self._slices: list[Part] = list(every)
        self._held_out: list[Validation] = []
        if validation_fraction:
            parts = [windows.split(validation_fraction, *self._key) for windows in every]
            self._slices = [training for training, _ in parts]
            self._held_out = [validation for _, validation in parts]
        self._is_validation = False
        edges, total = [Fraction(0)], sum(weights.values(), Fraction(0))
        for weight in weights.values():
            edges.append(edges[-1] + weight / total)
        self._edges = edges
        self.block = _block(weights, total)
        self._assigned: tuple[int, NDArray[np.int64], NDArray[np.int64]] | None = None

    @classmethod
    def of(
        cls,
        catalogue: Catalogue,
        mixture: Mapping[str, float],
        *,
        sequence_length: int,
        seed: int,
        validation_fraction: float = 0.0,
    ) -> Order:
        """The order over a catalogue."""
        shards = [(shard.slice, shard.tokens) for shard in catalogue.shards]
        return cls(
            shards,
            mixture,
            sequence_length,
            seed,
            catalogue.fingerprint,
            validation_fraction=validation_fraction,
        )

    def validation(self) -> Order:
        """The order over what is held out, in the same mixture.

        Raises:
            OrderError: nothing is held out.
        """
        if not self._held_out:
            raise OrderError("data.validation_fraction = 0: no window is held out to validate on")
        other = copy.copy(self)
        other._slices = list(self._held_out)
        other._key = (*self._key, "validation")
        other._is_validation = True
        other._assigned = None
        return other

    @property
    def slices(self) -> list[str]:
        """Names of the slices in the mixture, sorted."""
        return [part.name for part in self._slices]

    @property
    def windows(self) -> dict[str, int]:
        """Windows of each slice: what one epoch of it holds."""
        return {part.name: part.count for part in self._slices}

    def sample(self, index: int) -> Sample:
        """Sample `index` of the stream, 0-based."""
        which, shard, start = self.samples(np.array([index]))
        return Sample(self._slices[int(which[0])].name, int(shard[0]), int(start[0]))

    def samples(
        self, indices: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Look up many samples at once.

        Args:
            indices: int64 [n], each at least 0.

        Returns:
            slice (place in `slices`), shard (place in the catalogue), start (token): int64 [n].
        """
        indices = np.asarray(indices, np.int64)
        if indices.size and int(indices.min()) < 0:
            raise IndexError(f"sample {int(indices.min())}: samples are numbered from 0")
        which, ordinal = self._which_slice(indices)
        shard, start = np.empty_like(indices), np.empty_like(indices)
        for place, part in enumerate(self._slices):
            mine = np.flatnonzero(which == place)
            if mine.size:
                shard[mine], start[mine] = part.locate(self._shuffled(part, ordinal[mine]))
        return which, shard, start

    def borders(
        self, which: NDArray[np.int64], start: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
        """The stretch of tokens [begin, end) around windows that only this stream reads.

        Args:
            which: slices of the windows, int64 [n], as `samples` gave them.
            start: their first tokens, int64 [n].

        Returns:
            int64 [n] each; None for the training stream, which has all the rest.
        """
        if not self._is_validation:
            return None
        begin, end = np.empty_like(start), np.empty_like(start)
        for place, part in enumerate(self._held_out):
            mine = np.flatnonzero(which == place)
            begin[mine], end[mine] = part.borders(start[mine])
        return begin, end

    def taken(self, samples: int) -> dict[str, int]:
        """How many of the first `samples` come from each slice; exact for whole blocks.

        For a part of a block the count is that of the block's beginning plus what the block's own
        permutation has brought so far.
        """
        block, rest = divmod(samples, self.block)
        counts = np.diff(self._before(block))
        if rest:
            which, _ = self._which_slice(np.arange(samples - rest, samples))
            counts = counts + np.bincount(which, minlength=counts.size)
        return {part.name: int(n) for part, n in zip(self._slices, counts, strict=True)}

    def epochs(self, samples: int) -> dict[str, float]:
        """How often each slice has been gone through after `samples` samples."""
        return {name: n / self.windows[name] for name, n in self.taken(samples).items()}

    def _before(self, block: int) -> NDArray[np.int64]:
        """Cumulated samples of the slices before a block, [slices + 1]; exact integers."""
        return np.array([int(block * self.block * edge) for edge in self._edges], np.int64)

    def _which_slice(
        self, indices: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(slice, how many samples of that slice came before) of each sample."""
        which, ordinal = np.empty_like(indices), np.empty_like(indices)
        blocks = indices // self.block
        for block in np.unique(blocks).tolist():
            here = np.flatnonzero(blocks == block)
            chosen, count = self._assign(block)
            inside = indices[here] - block * self.block
            which[here] = chosen[inside]
            ordinal[here] = count[inside]
        return which, ordinal

    def _assign(self, block: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Slice and count within the slice of every sample of a block; the last block is kept."""
        # Read once: a read-ahead thread may put another block here at any time.
        kept = self._assigned
        if kept is not None and kept[0] == block:
            return kept[1:]
        before = np.diff(self._before(block))
        quota = np.diff(self._before(block + 1)) - before
        first = np.concatenate([[0], np.cumsum(quota)])
        places = np.arange(self.block)
        shuffled = permute(places, self.block, round_keys(*self._key, "block", block))
        chosen = np.searchsorted(first, shuffled, side="right") - 1
        # The n-th sample of a slice in this block, in the order of the stream: a window must not
        # come twice before all have come once, not even across one block.
        nth = np.empty_like(chosen)
        nth[np.argsort(chosen, kind="stable")] = places - np.repeat(first[:-1], quota)
        count = before[chosen] + nth
        self._assigned = (block, chosen, count)
        return chosen, count

    def _shuffled(self, part: Part, ordinal: NDArray[np.int64]) -> NDArray[np.int64]:
        window = np.empty_like(ordinal)
        epochs = ordinal // part.count
        for epoch in np.unique(epochs):
            here = np.flatnonzero(epochs == epoch)
            keys = round_keys(*self._key, part.name, int(epoch))
            window[here] = permute(ordinal[here] - epoch * part.count, part.count, keys)
        return window


def natural(catalogue: Catalogue) -> dict[str, float]:
    """The mixture that takes every slice in proportion to its tokens."""
    return {name: float(tokens) for name, tokens in catalogue.slices.items()}


def tail_tokens(tokens: int, sequence_length: int) -> int:
    """Tokens at a shard's end that no window has as an input."""
    return tokens - max(0, tokens - 1) // sequence_length * sequence_length


def _weights(mixture: Mapping[str, float]) -> dict[str, Fraction]:
    """Exact weights by name, sorted; what a person wrote (0.1) is meant as a decimal."""
    weights = {}
    for name, weight in sorted(mixture.items()):
        if not 0 <= weight < float("inf"):
            raise OrderError(f"mixture: {name} = {weight}; a weight is a number from 0 up")
        if weight > 0:
            weights[name] = Fraction(repr(float(weight)))
    if not weights:
        raise OrderError("mixture: no slice has a weight above 0")
    return weights


def _block(weights: Mapping[str, Fraction], total: Fraction) -> int:
    name, least = min(weights.items(), key=lambda item: item[1])
    if least / total < SMALLEST_SHARE:
        raise OrderError(
            f"mixture: {name} has a share of {float(least / total):.1e}; give it at least one in a "
            f"million, or leave it out"
        )
    return max(BLOCK, 1 << (math.ceil(total / least) - 1).bit_length())
