"""Decimal numbers in a buffer of JSON text, many at a time, without floats.

Eight characters are read as one 64-bit word and turned into a number by three multiplications
(Lemire, "Quickly parsing eight digits", 2018), here on numpy columns. Times in traces are
microseconds with a fraction; kept as integers of nanoseconds they lose nothing.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

PADDING = 32  # bytes behind the text that may be read, never used
_ZEROS = np.uint64(0x3030303030303030)
_ABOVE_NINE = np.uint64(0x7676767676767676)
_HIGH_BITS = np.uint64(0x8080808080808080)
_ONES = np.uint64(0x0101010101010101)
_POWERS = 10 ** np.arange(9, dtype=np.uint64)
_MILLI = np.array([0, 100, 10, 1, 1, 1, 1, 1, 1], dtype=np.uint64)
_MILLI_DIVISOR = 10 ** np.array([0, 0, 0, 0, 1, 2, 3, 4, 5], dtype=np.uint64)
_NUMBER = re.compile(rb'"?(-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)"?')
_ENDS = np.zeros(256, dtype=bool)
_ENDS[list(b",}] \n\r\t")] = True
_LARGEST = 2**63 - 1

Words = NDArray[np.uint64]


def words(buffer: bytes) -> Words:
    """Little-endian 64-bit words that start at every byte of `buffer`, without a copy."""
    return np.ndarray((len(buffer) - 7,), "<u8", buffer, 0, (1,))


def _digits(word: Words) -> tuple[Words, NDArray[np.intp]]:
    """The number that the leading digits of each word spell, and how many they are (0..8)."""
    digit = word ^ _ZEROS
    other = (
        (digit + _ABOVE_NINE) | digit
    ) & _HIGH_BITS  # the lowest set bit is exact, carries go up
    lowest = other & (~other + np.uint64(1))
    count = ((((lowest >> np.uint64(7)) - np.uint64(1)) & _ONES) * _ONES) >> np.uint64(56)
    # The digits move to the end of the word; numpy defines a shift by all 64 bits as 0.
    digit = digit << (np.uint64(64) - (count << np.uint64(3)))
    digit = digit * np.uint64(10) + (digit >> np.uint64(8))
    digit &= np.uint64(0x00FF00FF00FF00FF)
    digit = digit * np.uint64(100) + (digit >> np.uint64(16))
    digit &= np.uint64(0x0000FFFF0000FFFF)
    digit = digit * np.uint64(10000) + (digit >> np.uint64(32))
    digit &= np.uint64(0xFFFFFFFF)
    return digit, count.astype(np.intp)


def _one(buffer: bytes, start: int, scale: int, missing: int) -> int:
    """A number in any JSON spelling, or in quotes; `missing` for anything else."""
    from decimal import Decimal, InvalidOperation  # seldom needed, and slow to import

    match = _NUMBER.match(buffer, start)
    if match is None:
        return missing
    try:
        value = int(Decimal(match[1].decode()) * scale)
    except (InvalidOperation, OverflowError):
        return missing
    return value if abs(value) <= _LARGEST else missing


def decimals(
    buffer: bytes, word: Words, start: NDArray[np.intp], *, milli: bool, missing: int = -1
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Numbers whose first character stands at `start`, and which of them have a fraction.

    With `milli` a number is scaled by 1,000 (microseconds to nanoseconds), digits beyond the third
    behind the point are cut off; without it the integer part is given. `buffer` has at least
    `PADDING` bytes behind the last number; `word` is `words(buffer)`. What is no number (a string,
    null) becomes `missing`, except that a string that spells a number counts as one.
    """
    text = np.frombuffer(buffer, np.uint8)
    position = start.copy()
    value, count = _digits(word[position])
    position += count
    more = np.flatnonzero(count == 8)
    for _ in range(2):  # 24 digits at most; longer ones end on a digit and are read one by one
        if not len(more):
            break
        part, width = _digits(word[position[more]])
        value[more] = value[more] * _POWERS[width] + part
        position[more] += width
        more = more[width == 8]
    odd = (count == 0) | (position - start > 18)
    point = text[position] == ord(".")
    if milli:
        odd |= value > np.uint64(_LARGEST // 1000)
        value *= np.uint64(1000)
    at = np.flatnonzero(point)
    if len(at):
        part, width = _digits(word[position[at] + 1])
        position[at] += 1 + width
        if milli:
            value[at] += part * _MILLI[width] // _MILLI_DIVISOR[width]
    odd |= ~_ENDS[text[position]]
    numbers = value.astype(np.int64)
    for i in np.flatnonzero(odd).tolist():
        numbers[i] = _one(buffer, int(start[i]), 1000 if milli else 1, missing)
    return numbers, point
