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
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from alpenglow.data.alphabet import COMPOSES, UNKNOWN
from alpenglow.data.piece_table import PieceTable
from alpenglow.data.pieces import MARK, Block, cut

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

Tokens = NDArray[np.unsignedinteger[Any]]

BLOCK = 1 << 18
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
        whole: dict[int, Tokens] = {}
        parts: list[tuple[int, bytes, bool]] = []
        for number, text in enumerate(texts):
            if self._is_other(text):
                whole[number] = self._by_library(text)
                continue
            data, ascii_only = text.encode(), text.isascii()
            if len(data) <= 2 * BLOCK:
                parts.append((number, data, ascii_only))
            else:
                parts += [(number, part, ascii_only) for part in cut(data, BLOCK)]
        found: dict[int, list[Tokens]] = {}
        for block in _blocks(parts):
            encoded = self._block([data for _, data, _ in block], all(plain for *_, plain in block))
            for (number, _, _), tokens in zip(block, encoded, strict=True):
                found.setdefault(number, []).append(tokens.astype(dtype))
        results = []
        for number in range(len(texts)):
            if number in whole:
                results.append(whole[number].astype(dtype))
                continue
            pieces = found[number]
            # Every part has an end behind it, but only the last one's is the text's.
            pieces[:-1] = [tokens[:-1] for tokens in pieces[:-1]]
            results.append(pieces[0] if len(pieces) == 1 else np.concatenate(pieces))
        return results

    def _is_other(self, text: str) -> bool:
        if not self.plan.others:
            return False
        if any(other in text for other in self.plan.others):
            return True
        # One may come into being when the text is normalised, or hide behind an unknown character.
        return self.plan.nfc and not text.isascii() and self._block_marks(text) != 0

    @staticmethod
    def _block_marks(text: str) -> int:
        return Block.of([text.encode()], False).marked.get(0, 0)

    def _block(self, texts: list[bytes], ascii_only: bool) -> list[NDArray[np.uint32]]:
        block = Block.of(texts, ascii_only)
        by_library: dict[int, Tokens] = {}
        if block.marked:
            changed = False
            for number, marks in block.marked.items():
                text = texts[number].decode()
                if marks & UNKNOWN:
                    by_library[number] = self._by_library(text)
                    texts[number], changed = b"", True
                elif self.plan.nfc and marks & COMPOSES:
                    composed = self._backend.normalizer.normalize_str(text)
                    if composed != text:
                        texts[number], changed = composed.encode(), True
            if changed:
                block = Block.of(texts, ascii_only)
        starts = block.starts(self._longest)
        tokens, first = self._table.tokens(block.row, starts)
        ends = first[np.frombuffer(block.row, np.uint8)[starts] == MARK] + 1
        begins = np.concatenate([[0], ends[:-1]])
        return [
            by_library.get(number, tokens[begin:end])
            for number, (begin, end) in enumerate(zip(begins.tolist(), ends.tolist(), strict=True))
        ]

    def _by_library(self, text: str) -> Tokens:
        self.left_to_library += len(text.encode())
        (encoding,) = self._backend.encode_batch_fast([text], add_special_tokens=False)
        return np.array([*encoding.ids, self._end], np.uint32)

    def _ask(self, piece: bytes) -> list[int]:
        return [token.id for token in self._tokenize(piece.decode("latin-1").translate(self._byte))]


def _blocks(parts: list[tuple[int, bytes, bool]]) -> list[list[tuple[int, bytes, bool]]]:
    """Put parts of about `BLOCK` bytes together."""
    blocks: list[list[tuple[int, bytes, bool]]] = []
    size = BLOCK
    for part in parts:
        if size >= BLOCK:
            blocks.append([])
            size = 0
        blocks[-1].append(part)
        size += len(part[1])
    return blocks


def _byte_characters() -> dict[int, str]:
    """Return the character that the library writes for each byte of UTF-8."""
    from tokenizers import pre_tokenizers

    # These characters have every byte that UTF-8 can have.
    codes = [*range(0x800), *range(0x800, 0xD800, 0x800), *range(0xE000, 0x110000, 0x1000)]
    text = "".join(map(chr, codes))
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    ((written, _),) = splitter.pre_tokenize_str(text)
    return dict(zip(text.encode(), written, strict=True))
