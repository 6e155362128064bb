"""The tokenizer: a byte-level BPE trained on a sample of the text, or a file that is given.

A text may hold the characters `<|endoftext|>` (source code of tokenizers does): `encode` takes them
as text. The token of that name is written by the pipeline alone, once after every document.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from alpenglow.data.document import DataError

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

END = "<|endoftext|>"
NAME = "tokenizer.json"


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

    def encoder(self) -> Encoder:
        """Return what turns texts into tokens."""
        return Encoder(self)


class Encoder:
    """A loaded tokenizer.

    Args:
        tokenizer: what to load.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        # One thread a process: the workers are the parallelism, and jsrun binds their cores.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self._backend = tokenizer.backend()
        self.end = int(self._backend.token_to_id(END) or 0)
        self.vocab_size = int(self._backend.get_vocab_size())

    @property
    def dtype(self) -> str:
        """Return the narrowest type that holds every id: uint16 or uint32."""
        return "uint16" if self.vocab_size <= 1 << 16 else "uint32"

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.unsignedinteger[Any]]]:
        """Return the tokens of each text, `<|endoftext|>` last."""
        encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array([*item.ids, self.end], dtype=self.dtype) for item in encodings]

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, `<|endoftext|>` left out."""
        return str(self._backend.decode(list(tokens), skip_special_tokens=True))
