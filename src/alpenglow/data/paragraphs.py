"""Paragraphs that a crawl repeats: menus, notices, licence texts; cc_net's lines and hashes.

A line is normalised, hashed, and dropped where its hash was met before. Normalisation and hash are
those of cc_net (arXiv 1911.00359; `cc_net/text_normalizer.py`, normalize_for_dedup, and
`cc_net/dedup.py`): white space at both ends goes, lower case, every digit is 0, Unicode punctuation
of its list and control characters go; accents and ASCII punctuation stay. The hash is the first 8
bytes of SHA-1, as a little-endian number.

Two ways to say what is repeated:

- `without_repeated` keeps the first occurrence of a line and drops all later ones.
- cc_net, and so RedPajama v1, drops every occurrence, the first one too, of a line that more than
  one document of the group has: `repeated_hashes` of the group as `earlier`, with a new `seen` for
  each document, is that.

A line that normalises to nothing is a line as any other: its hash is that of the empty string, so
the first blank line of a group stays and the others go (in cc_net: all of them, and its reader has
dropped most of them already). Paragraphs then stand on lines of their own without blank ones.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

PUNCTUATION = "，。、„”“«»１」「《》´∶：？！（）；–—．～’…━〈〉【】％►"
"""What cc_net takes for Unicode punctuation; a full-width 1 is among it, but as a digit it is
already 0 by then."""
CONTROL = "".join(map(chr, [*range(32), *range(127, 160)]))
_KEPT_BREAK = CONTROL.replace("\n", "")
_GONE = re.compile(f"[{PUNCTUATION}{re.escape(_KEPT_BREAK)}]")
_DIGIT = re.compile(r"\d")
_ASCII = bytes.maketrans(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", b"abcdefghijklmnopqrstuvwxyz0000000000"
)
_ASCII_GONE = _KEPT_BREAK.encode("ascii", "ignore")
HASH = np.dtype("<u8")


def normalised_lines(text: str) -> list[bytes]:
    """Return UTF-8 of each line of `text`, normalised."""
    # Each line is stripped before control characters go: what stood behind one stays as it is.
    lines = [line.strip() for line in text.split("\n")]
    other = [] if text.isascii() else [at for at, line in enumerate(lines) if not line.isascii()]
    foreign = [lines[at] for at in other]
    for at in other:
        lines[at] = ""
    # In one go over all lines of a kind; most lines of most pages are ASCII, where it is cheap.
    found = "\n".join(lines).encode().translate(_ASCII, _ASCII_GONE).split(b"\n")
    if foreign:
        lowered = _GONE.sub("", _DIGIT.sub("0", "\n".join(foreign).lower()))
        encoded = lowered.encode("utf-8", "surrogatepass").split(b"\n")
        for at, line in zip(other, encoded, strict=True):
            found[at] = line
    return found


def line_hashes(text: str) -> NDArray[np.uint64]:
    r"""Hash every line.

    Returns:
        Shape (lines,), lines as `text.split("\n")` has them: an empty text has one.
    """
    sha1 = hashlib.sha1
    heads = [sha1(line, usedforsecurity=False).digest()[:8] for line in normalised_lines(text)]
    return np.frombuffer(b"".join(heads), HASH).astype(np.uint64, copy=False)


def unique_hashes(texts: Iterable[str]) -> NDArray[np.uint64]:
    """Return the hashes of all lines of all texts, each once, ascending."""
    found = [np.unique(line_hashes(text)) for text in texts]
    return np.unique(np.concatenate(found)) if found else np.empty(0, np.uint64)


def repeated_hashes(texts: Iterable[str]) -> NDArray[np.uint64]:
    """Return the hashes of lines that two or more of the texts have, each once, ascending."""
    found = [np.unique(line_hashes(text)) for text in texts]
    if not found:
        return np.empty(0, np.uint64)
    values, counts = np.unique(np.concatenate(found), return_counts=True)
    return np.asarray(values[counts > 1])


def without_repeated(
    texts: Sequence[str], earlier: Sequence[NDArray[np.uint64]], seen: set[int]
) -> list[str]:
    """Drop lines that were met before; the first occurrence stays.

    Args:
        texts: in order.
        earlier: ascending hashes of what came before, of other units; may be memory-mapped.
        seen: hashes of lines kept so far in this unit; is extended.

    Returns:
        The texts, lines joined by line breaks; "" where no line is left.
    """
    hashes = [line_hashes(text) for text in texts]
    if not hashes:
        return []
    together = np.concatenate(hashes)
    known = np.zeros(len(together), bool)
    for array in earlier:
        known |= _found(together, array)
    flags, values, at = known.tolist(), together.tolist(), 0
    kept_texts = []
    for text, own in zip(texts, hashes, strict=True):
        kept = []
        for line, value, repeated in zip(
            text.split("\n"), values[at : at + len(own)], flags[at : at + len(own)], strict=True
        ):
            if not repeated and value not in seen:
                seen.add(value)
                kept.append(line)
        at += len(own)
        kept_texts.append("\n".join(kept))
    return kept_texts


def _found(values: NDArray[np.uint64], ascending: NDArray[np.uint64]) -> NDArray[np.bool_]:
    if not len(ascending):
        return np.zeros(len(values), bool)
    # In ascending order the search walks through a memory-mapped array once.
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    places = np.searchsorted(ascending, ordered)
    places[places == len(ascending)] = 0
    found = np.empty(len(values), bool)
    found[order] = ascending[places] == ordered
    return found
