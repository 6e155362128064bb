"""A keyed permutation of 0..n-1 that is computed, never stored.

An alternating Feistel network over the smallest power of two that holds n, with cycle walking
(Black and Rogaway 2002, "Ciphers with arbitrary finite domains"): a value that falls outside is
sent through again until it comes out inside. Each round is a bijection whatever its function, so
the whole is one for any n.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xxhash
from numpy.typing import NDArray

ROUNDS = 6
_MULTIPLY_1 = np.uint64(0xFF51AFD7ED558CCD)  # the finaliser of MurmurHash3 (public domain)
_MULTIPLY_2 = np.uint64(0xC4CEB9FE1A85EC53)
_HALF = np.uint64(33)


def round_keys(*words: object) -> NDArray[np.uint64]:
    """Keys for the six rounds from anything that can be written down: seed, slice, epoch."""
    text = "/".join(str(word) for word in words).encode()
    keys = [xxhash.xxh3_64_intdigest(text, seed=number) for number in range(ROUNDS)]
    return np.array(keys, np.uint64)


def permute(
    values: NDArray[np.int64], size: int, keys: NDArray[np.uint64] | Sequence[int]
) -> NDArray[np.int64]:
    """Send each value of 0..size-1 to its place in the permutation.

    Args:
        values: int64 of any shape, each in [0, size).
        size: n, at least 1.
        keys: six round keys (`round_keys`).

    Returns:
        int64 of the same shape; a bijection of [0, size) for each choice of keys.
    """
    if size == 1:
        return np.zeros_like(values)
    bits = max(2, (size - 1).bit_length())
    low = np.uint64(bits // 2)
    low_mask = np.uint64((1 << (bits // 2)) - 1)
    high_mask = np.uint64((1 << (bits - bits // 2)) - 1)
    result = values.astype(np.uint64).reshape(-1)
    outside = np.ones(result.size, bool)
    while outside.any():
        # At most half of a power of two lies outside, so two walks are expected.
        walk = result[outside]
        right, left = walk & low_mask, walk >> low
        for number, key in enumerate(np.asarray(keys, np.uint64)):
            if number % 2:
                right ^= _mix(left, key) & low_mask
            else:
                left ^= _mix(right, key) & high_mask
        result[outside] = (left << low) | right
        outside = result >= np.uint64(size)
    return result.astype(np.int64).reshape(values.shape)


def _mix(half: NDArray[np.uint64], key: np.uint64) -> NDArray[np.uint64]:
    mixed = half + key
    mixed ^= mixed >> _HALF
    mixed *= _MULTIPLY_1
    mixed ^= mixed >> _HALF
    mixed *= _MULTIPLY_2
    mixed ^= mixed >> _HALF
    return mixed
