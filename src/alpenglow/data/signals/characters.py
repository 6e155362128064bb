"""What the signals ask of a character, for Python's own Unicode tables.

Text is looked at as one byte a character: ASCII as it is, others as a placeholder whose code point
is kept aside. A code point is looked up in Python's tables once a process, when it is first met.

RedPajama v2 normalises with `str.lower` and NFD. Both map a character by itself, except: a capital
sigma, whose lower case depends on its neighbours; combining marks, which NFD sorts; and characters
that follow another one in some decomposition, with which two texts of different characters may
become equal. A text with one of these (`SPECIAL`) is normalised by Python before it is looked at.
In any other text two words are equal after NFD exactly where their characters are, one by one.
"""

from __future__ import annotations

import functools
import string
import sys
import unicodedata

import numpy as np
from numpy.typing import NDArray

SPACE, WORD, UPPER, LOWER, ASCII_LETTER, LETTER, BREAK, RARE = (1 << bit for bit in range(8))
"""Bits of a class: white space; `\\w` of regular expressions; upper case; lower or title case;
A to Z and a to z; `str.isalpha`; what `str.splitlines` breaks at; ASCII that is counted by itself.
"""
BULLET, QUOTE, ELLIPSIS, NUMBER, SURROGATE, SPECIAL, STOP = (1 << bit for bit in range(8, 15))
"""Further bits, of characters beyond ASCII: a bullet point of RedPajama v2's list; U+201D, which
ends a line of its; U+2026; letters and digits that are no letters; half a pair; see above; what
ends a sentence in some script."""

WIDE, WIDE_SPACE = 0x80, 0x81
"""Placeholders of a character beyond ASCII, and of one that is white space."""
PUNCTUATION = string.punctuation.encode()
"""What RedPajama v2's normalisation removes: ASCII's 32 signs."""

_BULLETS = frozenset("\u2022\u2023\u25b6\u25c0\u25e6\u25a0\u25a1\u25aa\u25ab\u2013")
_STOPS = frozenset("\u201d\u2019\u2026\u3002\uff01\uff1f\u0964\u061f\u06d4\u300d\u300f\u00bb")
_COUNTED = frozenset("\n.!?#{}\0")
_CODES = sys.maxunicode + 1


def normalised(text: str) -> str:
    """Return a text as RedPajama v2 normalises it, white space left as it is."""
    return unicodedata.normalize("NFD", text.translate(_NO_PUNCTUATION).lower())


_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def bits(character: str) -> int:
    """Return the bits of one character, `SPECIAL` left out."""
    found = SPACE * character.isspace()
    found |= WORD * (character.isalnum() or character == "_")
    found |= UPPER * character.isupper()
    found |= LOWER * (character.islower() or (character.istitle() and not character.isupper()))
    found |= ASCII_LETTER * (character.isascii() and character.isalpha())
    found |= LETTER * character.isalpha()
    found |= BREAK * (character != "x" and len(f"x{character}x".splitlines()) == 2)
    found |= RARE * (character in _COUNTED)
    if not character.isascii():
        found |= BULLET * (character in _BULLETS) | QUOTE * (character == "\u201d")
        found |= ELLIPSIS * (character == "\u2026") | STOP * (character in _STOPS)
        found |= NUMBER * (character.isalnum() and not character.isalpha())
        found |= SURROGATE * ("\ud800" <= character <= "\udfff")
    return int(found)


@functools.cache
def ascii_classes() -> bytes:
    """Return the class of each byte of a row; placeholders have none."""
    return bytes(bits(chr(code)) & 0xFF for code in range(128)) + bytes(128)


@functools.cache
def word_bytes(lower: bool) -> bytes:
    """Return what each byte of a row is in a row of words: a space, U+000A, or 0x21 and above.

    Args:
        lower: capitals become small.
    """
    entries = bytearray(range(256))
    for code in range(128):
        character = chr(code)
        if character.isspace():
            entries[code] = ord("\n" if character == "\n" else " ")
        elif code < ord(" "):
            entries[code] = 0xA0 + code
        elif lower:
            entries[code] = ord(character.lower())
    entries[WIDE_SPACE] = ord(" ")
    return bytes(entries)


@functools.cache
def _following() -> frozenset[str]:
    """Return the characters that follow another one in a canonical decomposition."""
    found = {chr(code) for code in (*range(0x1161, 0x1176), *range(0x11A8, 0x11C3))}  # Hangul
    found.add("\u0307")  # of U+0130 in lower case
    for code in range(0x80, 0x20000):  # beyond, all decompositions are to one character
        parts = unicodedata.decomposition(chr(code)).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            found.add(chr(int(parts[1], 16)))
    return frozenset(found)


class Alphabet:
    """Code points beyond ASCII that were met, by what the signals ask of them."""

    def __init__(self) -> None:
        # Pages of these that nothing was met on take no memory.
        self._bits = np.zeros(_CODES, np.uint16)
        self._same = np.zeros(_CODES, np.uint32)
        self._length = np.zeros(_CODES, np.uint8)
        self._numeric = np.zeros(_CODES, np.uint8)
        self._first: dict[str, int] = {}

    def learn(self, codes: NDArray[np.uint32]) -> None:
        """Look up code points that are new."""
        new = codes[self._length[codes] == 0]
        if new.size:
            for code in np.unique(new).tolist():
                self._add(code)

    def _add(self, code: int) -> None:
        character = chr(code)
        found = bits(character)
        whole = unicodedata.normalize("NFD", character.lower())
        following = _following()
        if (
            character == "\u03a3"
            or unicodedata.combining(character)
            or whole[0] in following
            or whole.isascii()
        ):
            found |= SPECIAL * (not character.isspace())
        self._bits[code] = found
        self._same[code] = self._first.setdefault(whole, code)
        self._length[code] = len(whole)
        self._numeric[code] = sum(map(str.isnumeric, whole))

    def bits(self, codes: NDArray[np.uint32]) -> NDArray[np.uint16]:
        """Return the bits of code points that were learnt."""
        return self._bits[codes]

    def same(self, codes: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """Return a number equal for code points that are equal in lower case and NFD."""
        return self._same[codes]

    def lengths(self, codes: NDArray[np.uint32]) -> NDArray[np.uint8]:
        """Return the characters of each after lower case and NFD."""
        return self._length[codes]

    def numerics(self, codes: NDArray[np.uint32]) -> NDArray[np.uint8]:
        """Return how many of those are numeric."""
        return self._numeric[codes]


@functools.cache
def alphabet() -> Alphabet:
    """Return the process's own."""
    return Alphabet()
