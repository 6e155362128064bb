"""A byte-level BPE `tokenizer.json` as GGUF carries it: tokens, types, merges, the split.

llama.cpp splits text by rules that it has compiled in and looks up by `tokenizer.ggml.pre`; a
tokenizer whose own split is another one would give other tokens without a word, so it is refused.
Rules: llama.cpp src/llama-vocab.cpp (llm_tokenizer_bpe; "gpt-2", "olmo" and "mpt" share GPT-2's
expression), src/unicode.cpp. With the tables of llama-cpp-python 0.3.36 the two split alike beside
every code point of Unicode but the 4,382 that `tokenizers` 0.23 knows and those tables, which end
before Unicode 16, do not: there they are no letters and no digits. Used by
`alpenglow.release.gguf.file`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf

from alpenglow.release.error import ReleaseError

GPT2_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""The expression of ByteLevel(use_regex=True) in Hugging Face's tokenizers."""

_NORMAL, _CONTROL, _USER, _UNUSED = (
    gguf.TokenType.NORMAL,
    gguf.TokenType.CONTROL,
    gguf.TokenType.USER_DEFINED,
    gguf.TokenType.UNUSED,
)


@dataclass(frozen=True)
class Vocabulary:
    """What GGUF says of a tokenizer."""

    pre: str
    """`tokenizer.ggml.pre`."""
    tokens: list[str]
    """One for each row of the embedding; `[PAD7]` where the tokenizer has none."""
    types: list[int]
    merges: list[str]
    """"left right", in order of rank."""
    used: int
    """Tokens that the tokenizer has."""
    notes: list[str] = field(default_factory=list)
    """What llama.cpp does otherwise, a sentence each."""

    @classmethod
    def load(cls, path: Path, size: int) -> Vocabulary:
        """Read a tokenizer.json for a model with `size` rows of embedding.

        Raises:
            ReleaseError: absent, damaged, not byte-level BPE, a split that llama.cpp does not have,
                or more tokens than rows.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            model = data["model"]
            vocabulary: dict[str, int] = dict(model["vocab"])
            merges = [_merge(pair) for pair in model["merges"]]
            added = list(data.get("added_tokens") or [])
            for token in added:
                vocabulary[token["content"]] = token["id"]
        except FileNotFoundError:
            raise ReleaseError(f"{path}: missing; GGUF carries the tokenizer") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ReleaseError(f"{path}: not a BPE tokenizer.json: {error!r}") from None
        if model.get("type", "BPE") != "BPE":
            raise ReleaseError(f"{path}: a {model['type']} tokenizer; only byte-level BPE is")
        _check_model(path, model)
        notes = [*_normalizer_notes(path, data.get("normalizer")), *_added_notes(added)]
        pre = _pre(path, data.get("pre_tokenizer"))
        _check_post(path, data.get("post_processor"))
        return cls._fill(path, size, pre, vocabulary, added, merges, notes)

    @classmethod
    def _fill(
        cls,
        path: Path,
        size: int,
        pre: str,
        vocabulary: dict[str, int],
        added: list[dict[str, Any]],
        merges: list[str],
        notes: list[str],
    ) -> Vocabulary:
        needed = 1 + max(vocabulary.values(), default=-1)
        if needed > size:
            raise ReleaseError(
                f"{path}: token ids up to {needed - 1} do not fit a model of {size} tokens"
            )
        tokens = [f"[PAD{number}]" for number in range(size)]
        types = [int(_UNUSED)] * size
        for text, number in vocabulary.items():
            tokens[number] = text
            types[number] = int(_NORMAL)
        for token in added:
            types[token["id"]] = int(_CONTROL if token.get("special") else _USER)
        used = sum(kind != _UNUSED for kind in types)
        if used != len(vocabulary):
            raise ReleaseError(f"{path}: two tokens have the same id")
        return cls(pre, tokens, types, merges, used, notes)


def _merge(pair: str | list[str]) -> str:
    # tokenizers wrote "a b" until 0.20 and writes ["a", "b"] since; no byte-level token has a space
    left, right = pair.split(" ") if isinstance(pair, str) else pair
    if " " in left + right:
        raise ValueError(f"merge {pair!r} has a space, which byte-level BPE writes otherwise")
    return f"{left} {right}"


def _check_model(path: Path, model: dict[str, Any]) -> None:
    for key in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if model.get(key):
            raise ReleaseError(f"{path}: {key} = {model[key]!r}, which llama.cpp does not have")
    if model.get("byte_fallback"):
        raise ReleaseError(f"{path}: byte_fallback, which is not byte-level BPE")
    if model.get("ignore_merges"):
        raise ReleaseError(f"{path}: ignore_merges, which llama.cpp has for other splits only")


def _normalizer_notes(path: Path, normalizer: dict[str, Any] | None) -> list[str]:
    if normalizer is None:
        return []
    parts = normalizer.get("normalizers") if normalizer.get("type") == "Sequence" else [normalizer]
    kinds = [str(part.get("type")) for part in parts or []]
    if any(kind != "NFC" for kind in kinds):
        raise ReleaseError(
            f"{path}: normaliser {', '.join(kinds)}; llama.cpp normalises nothing, so only none "
            "and NFC (which most text is in already) can be converted"
        )
    if not kinds:
        return []
    return [
        "The tokenizer normalises text to NFC and llama.cpp does not: text that is not in NFC "
        "gets other tokens there unless it is normalised before."
    ]


def _added_notes(added: list[dict[str, Any]]) -> list[str]:
    notes = []
    for key in ("lstrip", "rstrip", "single_word"):
        found = [token["content"] for token in added if token.get(key)]
        if found:
            notes.append(
                f"{key} of {', '.join(map(repr, found))} has no counterpart in llama.cpp: spaces "
                "and letters beside such a token in text are treated otherwise there."
            )
    return notes


def _pre(path: Path, found: dict[str, Any] | None) -> str:
    parts = [found or {}]
    if found and found.get("type") == "Sequence":
        parts = list(found.get("pretokenizers") or [])
    said = ", ".join(_describe(part) for part in parts)
    if parts and parts[-1].get("type") == "ByteLevel":
        *before, last = parts
        if last.get("add_prefix_space", True):  # the library's own default is True
            raise ReleaseError(
                f"{path}: add_prefix_space puts a space before each text; llama.cpp does not"
            )
        own = last.get("use_regex", True)
        if own and not before:
            return "gpt-2"
        if not own and len(before) == 1 and _is_gpt2_split(before[0]):
            return "gpt-2"
    raise ReleaseError(
        f"{path}: pre-tokenizer {said}; llama.cpp has this conversion's split only for ByteLevel "
        "with GPT-2's expression"
    )


def _is_gpt2_split(part: dict[str, Any]) -> bool:
    pattern = (part.get("pattern") or {}).get("Regex")
    isolated = part.get("behavior") == "Isolated" and not part.get("invert")
    return part.get("type") == "Split" and isolated and pattern == GPT2_SPLIT


def _describe(part: dict[str, Any]) -> str:
    pattern = (part.get("pattern") or {}).get("Regex")
    return f"{part.get('type', 'none')}" + (f" by {pattern}" if pattern else "")


def _check_post(path: Path, found: dict[str, Any] | None) -> None:
    # ByteLevel only moves offsets; a template adds tokens around the text.
    if found is not None and found.get("type") != "ByteLevel":
        raise ReleaseError(
            f"{path}: post-processor {found.get('type')} may add tokens around a text; only "
            "ByteLevel, which adds none, is converted"
        )
