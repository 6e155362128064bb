"""The tokenizer of a release: read, checked against the model, described to transformers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from alpenglow.model.config import ModelConfig
from alpenglow.release.error import ReleaseError

FILE = "tokenizer.json"
END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True)
class ReleasedTokenizer:
    """A tokenizer.json that fits a model."""

    path: Path
    ids: int
    """Ids in use: the largest, and one."""
    end_of_text: int
    """Id of `<|endoftext|>`."""

    @classmethod
    def read(cls, path: Path, config: ModelConfig) -> ReleasedTokenizer:
        """Read and check; writes nothing.

        Raises:
            ReleaseError: absent, unreadable, without `<|endoftext|>`, or larger than the model's
                vocabulary.
        """
        if not path.is_file():
            raise ReleaseError(
                f"{path}: no such tokenizer; it belongs beside the catalogue that the run names "
                "(jobs/prepare_data.lsf writes it), or name one with tokenizer=FILE"
            )
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises Exception itself
            raise ReleaseError(f"{path}: not a tokenizer: {error}") from None
        ids = 1 + max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        if ids > config.vocab_size:
            raise ReleaseError(
                f"{path}: {ids} tokens do not fit the model's vocabulary of {config.vocab_size}; "
                "it is not the tokenizer of this run"
            )
        end_of_text = tokenizer.token_to_id(END_OF_TEXT)
        if end_of_text is None:
            raise ReleaseError(f"{path}: it has no {END_OF_TEXT} token")
        return cls(path, ids, int(end_of_text))

    def write(self, folder: Path, config: ModelConfig) -> None:
        """Write it into a release and describe it to transformers."""
        (folder / FILE).write_text(_readable_by_all(self.path), encoding="utf-8")
        special = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "unk_token": END_OF_TEXT}
        # The generic class takes everything from tokenizer.json; GPTNeoXTokenizer would bring rules
        # of its own for normalisation and byte-level splitting.
        table = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **special,
            "model_max_length": config.max_position_embeddings,
            "clean_up_tokenization_spaces": False,
        }
        _write(folder / "tokenizer_config.json", table)
        _write(folder / "special_tokens_map.json", special)


def _readable_by_all(path: Path) -> str:
    """The tokenizer with merges as text, "a b", where that says the same.

    tokenizers before 0.20 (transformers before 4.45) read no other form; later ones write pairs,
    and read both.
    """
    text = path.read_text(encoding="utf-8")
    table = json.loads(text)
    merges = table["model"].get("merges", [])
    if merges and all(
        isinstance(pair, list) and not any(" " in part for part in pair) for pair in merges
    ):
        table["model"]["merges"] = [" ".join(pair) for pair in merges]
        older = json.dumps(table, indent=2, ensure_ascii=False)
        if Tokenizer.from_str(older).to_str() == Tokenizer.from_str(text).to_str():
            return older
    return text


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
