"""What a release says beside its weights: configuration and tokenizer, and whether they agree.

transformers 5 reads the rotary settings in one form, releases before it and the GGUF converters in
another; generation, tokenizer and model each name the end of text. Nothing stops two of them from
saying different things, and a model that then loads without a word is wrong only for some of its
users. This module is imported, never started.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from alpenglow.model.config import ModelConfig
from alpenglow.release.error import ReleaseError

PROBE = (
    "The quick brown fox jumps over 13 lazy dogs; it costs $4.50, or 3.99 EUR.\n\n"
    "\tdef f(x):\n        return x ** 2  # two  spaces\n"
    "Größe, naïve, façade, Ελληνικά, русский, 中文字, العربية, हिन्दी, 🙂👍🏽\r\n"
    "<|endoftext|>New text after the end of one."
)
"""Text that tokenizers disagree on when they disagree: runs of blanks, digits, scripts, emoji,
a special token."""
_SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of a release.

    Raises:
        ReleaseError: absent, unreadable, or not an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ReleaseError(f"{path}: no such file; the folder is not a whole release") from None
    except (OSError, ValueError) as error:
        raise ReleaseError(f"{path}: unreadable: {error}") from None
    if not isinstance(value, dict):
        raise ReleaseError(f"{path}: not a JSON object")
    return value


def check_config(folder: Path) -> dict[str, Any]:
    """Check that `config.json` says the same to old and new readers; returns it.

    Raises:
        ReleaseError: a key is absent, two forms of one setting differ, or `generation_config.json`
            names other special tokens.
    """
    path = folder / "config.json"
    config = read_json(path)
    rope = config.get("rope_parameters")
    if not isinstance(rope, dict):
        raise ReleaseError(f"{path}: rope_parameters is missing, which transformers 5 reads")
    pairs = (("rotary_pct", "partial_rotary_factor"), ("rotary_emb_base", "rope_theta"))
    for old, new in pairs:
        if config.get(old) is None:
            raise ReleaseError(f"{path}: {old} is missing, which readers before 5 need")
        if rope.get(new) != config[old]:
            raise ReleaseError(
                f"{path}: {old} is {config[old]} and rope_parameters.{new} is {rope.get(new)}; "
                "old and new readers would build different models"
            )
    if config.get("dtype") != config.get("torch_dtype"):
        said = f"dtype is {config.get('dtype')} and torch_dtype is {config.get('torch_dtype')}"
        raise ReleaseError(f"{path}: {said}")
    generation = read_json(folder / "generation_config.json")
    for name in _SPECIAL:
        if name in generation and generation[name] != config.get(name):
            raise ReleaseError(
                f"{folder / 'generation_config.json'}: {name} is {generation[name]}, and "
                f"config.json says {config.get(name)}"
            )
        token = config.get(name)
        if isinstance(token, int) and not 0 <= token < config.get("vocab_size", 0):
            raise ReleaseError(
                f"{path}: {name} = {token} is not below vocab_size = {config.get('vocab_size')}"
            )
    return config


def differences(config: dict[str, Any], model: ModelConfig, released: int) -> list[str]:
    """Settings in which `config.json` differs from the model that was trained, one clause each.

    Args:
        config: from `check_config`.
        model: of the checkpoint.
        released: rows of the released vocabulary.
    """
    expected = {**model.huggingface_fields(), "vocab_size": released}
    return [
        f"config.json says {name} = {config.get(name)}, the trained model has {value}"
        for name, value in expected.items()
        if config.get(name) != value
    ]


def check_tokenizer(folder: Path, config: dict[str, Any], text: str = "") -> int:
    """Check that every reader gets the same token ids, all below the vocabulary's size.

    Args:
        folder: the release.
        config: its `config.json`.
        text: more text to compare, beside `PROBE`.

    Returns:
        How many ids the tokenizer uses: one more than its largest.

    Raises:
        ReleaseError: it does not load, has too many ids, or `tokenizers` and transformers differ.
    """
    import transformers

    path = folder / "tokenizer.json"
    try:
        raw = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises Exception itself
        raise ReleaseError(f"{path}: not a tokenizer: {error}") from None
    used = 1 + max(raw.get_vocab(with_added_tokens=True).values(), default=-1)
    if used > config.get("vocab_size", 0):
        raise ReleaseError(
            f"{path}: its largest id is {used - 1}, and the model's vocabulary ends at "
            f"{config.get('vocab_size')}"
        )
    try:
        loaded = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise ReleaseError(f"{folder}: transformers does not load the tokenizer: {error}") from None
    for sample in (PROBE, text):
        ours, theirs = raw.encode(sample).ids, loaded(sample, verbose=False).input_ids
        if ours != theirs:
            place = next(
                (i for i, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]),
                min(len(ours), len(theirs)),
            )
            raise ReleaseError(
                f"{path}: transformers and tokenizers give different ids from token {place} on: "
                f"{theirs[place : place + 3]} and {ours[place : place + 3]}"
            )
    for name in _SPECIAL:
        own = getattr(loaded, name)
        if name in config and own is not None and own != config[name]:
            raise ReleaseError(
                f"{folder / 'tokenizer_config.json'}: {name} is {own}, and config.json says "
                f"{config[name]}"
            )
    return used
