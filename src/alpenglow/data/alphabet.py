"""Classes of characters as the `tokenizers` library's own regular expressions see them.

The split of a byte-level tokenizer asks of a character whether it is a letter, a number or white
space. Which characters are depends on the Unicode version that the library was built with, so the
library is asked, once a process, about every character that Python's own tables know. Characters
that they do not know are marked: a text that holds one is left to the library.
"""

from __future__ import annotations

import functools
import sys
import unicodedata
from typing import Any

import numpy as np
from numpy.typing import NDArray

LETTER, NUMBER, OTHER, SPACE, WHITE, END, RUN = 1, 2, 3, 4, 5, 6, 7
"""Classes. `OTHER` is what is neither letter, number nor white space; `SPACE` is U+0020 alone,
`WHITE` all other white space; `END` ends a text; `RUN` is a space of a token made of spaces."""
CLASS = 7
"""The bits of a table's entry that hold the class."""
COMPOSES = 8
"""NFC may change a text that has this character."""
UNKNOWN = 16
"""Not assigned in Python's Unicode tables, or a surrogate or of the private planes."""

_PATTERNS = ((r"\p{L}+", LETTER), (r"\p{N}+", NUMBER), (r"\s+", WHITE))


@functools.cache
def table() -> NDArray[np.uint8]:
    """Return class and marks of each code point; shape (0x110000,), read-only.

    Characters without a mark never change under NFC whatever surrounds them: they are starters
    that have no other composed form and are never the second of a composed pair (Unicode Standard
    Annex 15, section 9). Unicode's stability policy keeps that so for assigned characters, so it
    holds in the library's version as in Python's.
    """
    from tokenizers import Regex, pre_tokenizers

    entries = np.full(sys.maxunicode + 1, UNKNOWN | OTHER, np.uint8)
    known = [code for code in range(0xF0000) if unicodedata.category(chr(code)) not in ("Cn", "Cs")]
    entries[known] = OTHER
    text = "".join(map(chr, known))
    places = np.array(known)
    for pattern, kind in _PATTERNS:
        split = pre_tokenizers.Split(Regex(pattern), "removed", invert=True)
        for _, (begin, end) in split.pre_tokenize_str(text):
            entries[places[begin:end]] = kind
    entries[ord(" ")] = SPACE
    entries[_composing(known)] |= COMPOSES
    entries.setflags(write=False)
    return entries


def _composing(known: list[int]) -> list[int]:
    seconds = {*range(0x1161, 0x1176), *range(0x11A8, 0x11C3)}  # Hangul vowels and finals
    found = set()
    for code in known:
        character = chr(code)
        parts: Any = unicodedata.decomposition(character).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            seconds.add(int(parts[1], 16))
        if unicodedata.combining(character) or not unicodedata.is_normalized("NFC", character):
            found.add(code)
    return sorted(found | seconds)
