"""Tokens of byte-level BPE tokenizers, several times faster than `tokenizers`, with the same ids.

What is fast is the split into pieces (`pieces.py`) and remembering the tokens of pieces
(`piece_table.py`); what a piece becomes is always asked of the library. So nothing is assumed about
merges, ranks or byte fallback. What is assumed of a tokenizer.json is read from it by `plan`, and
whatever it does not know is left to the library: the tokenizer, or the documents concerned.
"""

from __future__ import annotations

import itertools
import json
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from alpenglow.data.alphabet import UNKNOWN
from alpenglow.data.piece_table import PieceTable
from alpenglow.data.pieces import MARK, Block, cut

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

Tokens = NDArray[np.unsignedinteger[Any]]

BLOCK = 1 << 17
"""Bytes of text that are split at once: what numpy works on stays in the cache."""


@dataclass(frozen=True)
class Plan:
    """What a tokenizer does beside BPE, as far as the fast path does it too."""

    nfc: bool
    """Texts are normalised to NFC."""
    spaces: dict[int, int]
    """Length -> id of tokens made of spaces: 2 to K without a gap, or none."""
    others: tuple[str, ...]
    """A text that has one of these is left to the library."""


class Unsupported(ValueError):
    """A tokenizer that the fast path does not know; the message says what of it."""


def plan(backend: Backend) -> Plan:
    """Read what a tokenizer does.

    Args:
        backend: set to take special tokens in a text as text.

    Raises:
        Unsupported: it is not a byte-level BPE, or does something that is not known here.
    """
    tables = json.loads(backend.to_str())
    model, splitter = tables["model"], tables["pre_tokenizer"] or {}
    if model.get("type") != "BPE":
        raise Unsupported(f"its model is {model.get('type')}, not BPE")
    if model.get("dropout"):
        raise Unsupported("its model has dropout")
    if splitter.get("type") != "ByteLevel" or not splitter.get("use_regex", True):
        raise Unsupported("its pre-tokenizer is not ByteLevel with GPT-2's expression")
    if splitter.get("add_prefix_space"):
        raise Unsupported("its pre-tokenizer adds a space in front")
    normalizer = tables["normalizer"]
    if normalizer not in (None, {"type": "NFC"}):
        raise Unsupported(f"its normalizer is {normalizer.get('type')}, not NFC")
    spaces: dict[int, Any] = {}
    others: list[str] = []
    for number, token in backend.get_added_tokens_decoder().items():
        plain = not (token.lstrip or token.rstrip or token.single_word or token.special)
        if plain and len(token.content) > 1 and not token.content.strip(" "):
            spaces[len(token.content)] = (number, token.normalized)
        elif not token.special or " " in token.content:
            # A special token is taken as text, unless it hides a run of spaces from the others.
            others.append(token.content)
    # Texts are searched once for raw and once for normalised tokens: all must be of one sort.
    whole = sorted(spaces) == list(range(2, len(spaces) + 2))
    if not whole or len({normalized for _, normalized in spaces.values()}) > 1:
        others += [" " * length for length in spaces]
        spaces = {}
    if "" in others:
        raise Unsupported("it has an added token without characters")
    return Plan(
        normalizer is not None,
        {length: number for length, (number, _) in spaces.items()},
        tuple(dict.fromkeys(itertools.chain(others, (_composed(other) for other in others)))),
    )


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


class FastTokenizer:
    """Texts to tokens, exactly as the library gives them.

    Args:
        backend: the library's tokenizer, set to take special tokens in a text as text.
        end: token behind each text.
        limit: pieces to remember at most.

    Raises:
        Unsupported: see `plan`.
    """

    def __init__(self, backend: Backend, end: int, limit: int = 1 << 19) -> None:
        self.plan = plan(backend)
        self._backend = backend
        self._longest = max(self.plan.spaces, default=0)
        self._tokenize = backend.model.tokenize
        self._byte = _byte_characters()
        given = {b" " * length: number for length, number in self.plan.spaces.items()}
        self._table = PieceTable(self._ask, {bytes([MARK]): end, **given}, limit)
        self._end = end
        self.left_to_library = 0
        """Bytes of text so far that the library encoded."""

    def encode(self, texts: Sequence[str], dtype: str) -> list[Tokens]:
        """Return the tokens of each text, the end last.

        Raises:
            UnicodeEncodeError: a text has half a surrogate pair.
        """
        found: list[list[Tokens]] = [[] for _ in texts]
        for block in _blocks(self._parts(texts)):
            for part, tokens in zip(block, self._block(block), strict=True):
                # The end behind a part is no end of the text.
                kept = tokens if part.last else tokens[:-1]
                found[part.text].append(kept.astype(dtype))
        return [parts[0] if len(parts) == 1 else np.concatenate(parts) for parts in found]

    def check(self, text: str, tokens: Tokens, size: int = 1 << 13) -> str | None:
        """Compare tokens of a text with the library's, as far as about `size` bytes of it.

        Returns:
            What differs first, and where; None if nothing does.
        """
        if self._is_other(text):
            return None  # the library's already
        head = text[: 2 * size].encode()
        part = next(cut(head, size)) if len(text) > size else head
        if len(part) == len(head) and len(text) > 2 * size:
            return None  # no place to cut this text: its first part alone may have other tokens
        start = part.decode()
        whole = len(start) == len(text)
        wanted = self._by_library(start)
        wanted, given = (wanted, tokens) if whole else (wanted[:-1], tokens[: wanted.size - 1])
        if np.array_equal(wanted, given):
            return None
        shared = min(wanted.size, given.size)
        place = int(np.argmax(np.append(wanted[:shared] != given[:shared], True)))
        offsets = self._backend.encode(start, add_special_tokens=False).offsets
        character = offsets[place][0] if place < len(offsets) else len(start)
        ids = ["none" if place >= row.size else str(row[place]) for row in (given, wanted)]
        return f"token {place} (character {character}) is {ids[0]}, and {ids[1]} by tokenizers"

    def _parts(self, texts: Sequence[str]) -> Iterator[_Part]:
        for number, text in enumerate(texts):
            if self._is_other(text):
                self.left_to_library += len(text.encode())
                yield _Part(number, b"", True, True, self._by_library(text))
                continue
            data, plain = text.encode(), text.isascii()
            if len(data) <= 2 * BLOCK:
                yield _Part(number, data, plain, True)
                continue
            left = len(data)
            for part in cut(data, BLOCK):
                left -= len(part)
                yield _Part(number, part, plain, left == 0)

    def _is_other(self, text: str) -> bool:
        if not self.plan.others:
            return False
        if any(other in text for other in self.plan.others):
            return True
        # One may come into being when the text is normalised, or hide behind an unknown character.
        if not self.plan.nfc or text.isascii():
            return False
        return any(Block.of([part], False).marked for part in cut(text.encode(), BLOCK))

    def _block(self, parts: list[_Part]) -> list[Tokens]:
        texts, plain = [part.data for part in parts], all(part.plain for part in parts)
        by_library = {n: part.tokens for n, part in enumerate(parts) if part.tokens is not None}
        block = Block.of(texts, plain)
        changed = False
        for number, marks in block.marked.items():
            text = texts[number].decode()
            if marks & UNKNOWN:
                self.left_to_library += len(texts[number])
                by_library[number] = self._by_library(text)
                texts[number], changed = b"", True
            elif self.plan.nfc and not unicodedata.is_normalized("NFC", text):
                # Python's version of Unicode agrees on a text without unknown characters; which
                # characters come out is the library's to say.
                composed = self._backend.normalizer.normalize_str(text)
                if composed != text:
                    texts[number], changed = composed.encode(), True
        if changed:
            block = Block.of(texts, plain)
        starts = block.starts(self._longest)
        tokens, first = self._table.tokens(block.row, starts)
        ends = first[np.frombuffer(block.row, np.uint8)[starts] == MARK] + 1
        begins = np.concatenate([[0], ends[:-1]])
        return [
            by_library.get(number, tokens[begin:end])
            for number, (begin, end) in enumerate(zip(begins.tolist(), ends.tolist(), strict=True))
        ]

    def _by_library(self, text: str) -> Tokens:
        (encoding,) = self._backend.encode_batch_fast([text], add_special_tokens=False)
        return np.array([*encoding.ids, self._end], np.uint32)

    def _ask(self, piece: bytes) -> list[int]:
        return [token.id for token in self._tokenize(piece.decode("latin-1").translate(self._byte))]


@dataclass(frozen=True)
class _Part:
    """A text, or a part of a long one."""

    text: int
    """Place of the text."""
    data: bytes
    plain: bool
    """ASCII alone."""
    last: bool
    tokens: Tokens | None = None
    """Where the library encoded it."""


def _blocks(parts: Iterator[_Part]) -> Iterator[list[_Part]]:
    """Put parts of about `BLOCK` bytes together."""
    block: list[_Part] = []
    size = 0
    for part in parts:
        block.append(part)
        size += len(part.data)
        if size >= BLOCK:
            yield block
            block, size = [], 0
    if block:
        yield block


def _byte_characters() -> dict[int, str]:
    """Return the character that the library writes for each byte of UTF-8."""
    from tokenizers import pre_tokenizers

    # These characters have every byte that UTF-8 can have.
    codes = [*range(0x800), *range(0x800, 0xD800, 0x800), *range(0xE000, 0x110000, 0x1000)]
    text = "".join(map(chr, codes))
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    ((written, _),) = splitter.pre_tokenize_str(text)
    return dict(zip(text.encode(), written, strict=True))
