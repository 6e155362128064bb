"""The tokenizer: a byte-level BPE trained on a sample of the text, or a file that is given.

A text may hold the characters `<|endoftext|>` (source code of tokenizers does): `encode` takes them
as text. The token of that name is written by the pipeline alone, once after every document.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import xxhash

from alpenglow.data.document import DataError
from alpenglow.data.fast_tokenizer import FastTokenizer, Tokens, Unsupported

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

END = "<|endoftext|>"
NAME = "tokenizer.json"
CHECK_EVERY = 1000
"""Documents from one comparison with `tokenizers` to the next, beside the first of each call."""
Engine = Literal["auto", "exact"]


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer of the `tokenizers` library, as JSON text."""

    json: str

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Read a `tokenizers` JSON file.

        Raises:
            DataError: no file, not a tokenizer, or one without `<|endoftext|>`.
        """
        try:
            tokenizer = cls(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise DataError(
                f"{path}: the tokenizer is not there; put it there, name another file as "
                f"tokenizer.file, or set tokenizer.origin = 'train' to train one"
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: the tokenizer cannot be read ({error})") from None
        try:
            end = tokenizer.backend().token_to_id(END)
        except Exception as error:  # the library raises plain Exception
            raise DataError(f"{path}: not a tokenizers JSON file ({error})") from None
        if end is None:
            raise DataError(f"{path}: has no token {END}, which ends every document; name another")
        return tokenizer

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> Tokenizer:
        """Train a byte-level BPE; `<|endoftext|>` is id 0, then come the 256 bytes.

        The same texts in the same order give the same tokenizer.
        """
        from tokenizers import Tokenizer as Backend
        from tokenizers import decoders, models, pre_tokenizers, trainers

        backend = Backend(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[END],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        backend.train_from_iterator(texts, trainer)
        return cls(backend.to_str(pretty=False))

    def backend(self) -> Backend:
        """Return the library's tokenizer, set to take special tokens in a text as text."""
        from tokenizers import Tokenizer as Backend

        backend = Backend.from_str(self.json)
        backend.encode_special_tokens = True
        backend.no_truncation()
        backend.no_padding()
        return backend

    @property
    def hash(self) -> str:
        """Return 32 hex digits over the JSON text (xxh3-128)."""
        return xxhash.xxh3_128_hexdigest(self.json.encode())

    def encoder(self, engine: Engine = "auto") -> Encoder:
        """Return what turns texts into tokens."""
        return Encoder(self, engine)


class Encoder:
    """A loaded tokenizer.

    Args:
        tokenizer: what to load.
        engine: `auto` takes the fast path (`fast_tokenizer.py`) where it knows the tokenizer, and
            compares the first document of each call and every thousandth with `tokenizers`;
            `exact` leaves all to `tokenizers`. The tokens are the same.
    """

    def __init__(self, tokenizer: Tokenizer, engine: Engine = "auto") -> None:
        # One thread a process: the workers are the parallelism, and jsrun binds their cores.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self._backend = tokenizer.backend()
        self.end = int(self._backend.token_to_id(END) or 0)
        self.vocab_size = int(self._backend.get_vocab_size())
        self._fast: FastTokenizer | None = None
        self._seen = 0
        self.reason = "tokenizer.engine = 'exact'"
        """Why the fast path is not taken; empty where it is."""
        if engine == "auto":
            try:
                self._fast = FastTokenizer(self._backend, self.end)
                self.reason = ""
            except Unsupported as error:
                self.reason = str(error)

    @property
    def dtype(self) -> str:
        """Return the narrowest type that holds every id: uint16 or uint32."""
        return "uint16" if self.vocab_size <= 1 << 16 else "uint32"

    @property
    def left_to_library(self) -> int:
        """Return bytes of text so far that the fast path left to `tokenizers`."""
        return 0 if self._fast is None else self._fast.left_to_library

    def encode(self, texts: Sequence[str], names: Sequence[str] = ()) -> list[Tokens]:
        """Return the tokens of each text, `<|endoftext|>` last.

        Args:
            texts: what to encode.
            names: of the texts, for messages; their places where absent.

        Raises:
            DataError: a text has half a surrogate pair, or the fast path is wrong on one.
        """
        try:
            if self._fast is None:
                found = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
                return [np.array([*item.ids, self.end], dtype=self.dtype) for item in found]
            tokens = self._fast.encode(texts, self.dtype)
        except (TypeError, UnicodeEncodeError):
            _refuse_surrogates(texts, names)
            raise
        for place in range(len(texts)):
            if place == 0 or (self._seen + place) % CHECK_EVERY == 0:
                fault = self._fast.check(texts[place], tokens[place])
                if fault is not None:
                    raise DataError(
                        f"{_name(place, names)}: {fault}: the fast path is wrong for this "
                        "tokenizer; set tokenizer.engine = 'exact' and report it"
                    )
        self._seen += len(texts)
        return tokens

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, `<|endoftext|>` left out."""
        return str(self._backend.decode(list(tokens), skip_special_tokens=True))


def _name(place: int, names: Sequence[str]) -> str:
    return names[place] if names else f"text {place}"


def _refuse_surrogates(texts: Sequence[str], names: Sequence[str]) -> None:
    for place, text in enumerate(texts):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"{_name(place, names)}: character {error.start} is half of a surrogate pair, "
                "which is not text; drop the document or replace the character"
            ) from None
