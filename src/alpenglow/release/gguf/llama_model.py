"""A GGUF file as llama.cpp computes it: token ids and logits.

Through llama-cpp-python's binding of llama.h, on the CPU, with keys and values kept in fp32, no
flash attention and no repacked weights (`use_extra_bufts`: other kernels by processor, of which the
AMX ones crash in some virtual machines), so that what differs from the model is llama.cpp's plain
arithmetic on the weights. Used by `alpenglow.release.gguf.llama_check`.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from alpenglow.release.error import ReleaseError
from alpenglow.release.gguf.llama_quantiser import HOW, library, said

_F32 = 0
"""GGML_TYPE_F32 of ggml.h."""
_NO_FLASH = 0
"""LLAMA_FLASH_ATTN_TYPE_DISABLED of llama.h."""


class LlamaModel:
    """A loaded file; a context manager that frees it.

    Args:
        path: a GGUF file.
        length: positions of the longest sequence; 0: only the tokenizer is loaded.

    Raises:
        ReleaseError: llama-cpp-python is absent, or llama.cpp does not load the file.
    """

    def __init__(self, path: Path, length: int) -> None:
        found = library()
        if found is None:
            raise ReleaseError(f"llama_cpp: not installed; {HOW}")
        self.path = path
        self._library: Any = found
        self._context: Any = None
        self._length = length
        found.llama_backend_init()
        settings = found.llama_model_default_params()
        settings.n_gpu_layers = 0
        settings.use_extra_bufts = False
        settings.vocab_only = length == 0
        self._model: Any = found.llama_model_load_from_file(os.fsencode(path), settings)
        if not self._model:
            raise ReleaseError(f"{path}: llama.cpp does not load it: {said()}")
        self._vocabulary = found.llama_model_get_vocab(self._model)
        self._size = int(found.llama_vocab_n_tokens(self._vocabulary))
        if length:
            self._open(length)

    def _open(self, length: int) -> None:
        settings = self._library.llama_context_default_params()
        settings.n_ctx = settings.n_batch = settings.n_ubatch = length
        settings.type_k = settings.type_v = _F32
        settings.flash_attn_type = _NO_FLASH
        settings.n_threads = settings.n_threads_batch = torch.get_num_threads()
        self._context = self._library.llama_init_from_model(self._model, settings)
        if not self._context:
            self._free()
            raise ReleaseError(f"{self.path}: llama.cpp makes no context for it: {said()}")

    def _free(self) -> None:
        if self._context:
            self._library.llama_free(self._context)
        self._library.llama_model_free(self._model)
        self._context = self._model = None

    def __enter__(self) -> LlamaModel:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._free()

    def tokens(self, text: str, *, special: bool = False) -> list[int]:
        """Token ids of a text; `special` reads control tokens in it, else they are plain text."""
        data = text.encode()
        room = len(data) + 1  # a token holds a byte at least
        out = (ctypes.c_int32 * room)()
        count = self._library.llama_tokenize(
            self._vocabulary, data, len(data), out, room, False, special
        )
        if count < 0:
            raise ReleaseError(f"{self.path}: llama.cpp makes {-count} tokens of {room - 1} bytes")
        return list(out[:count])

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Logits [len(tokens), vocabulary] of one sequence of at most `length` tokens.

        Raises:
            ReleaseError: llama.cpp does not compute it.
        """
        lib, count = self._library, len(tokens)
        lib.llama_memory_clear(lib.llama_get_memory(self._context), True)
        batch = lib.llama_batch_init(count, 0, 1)
        try:
            batch.n_tokens = count
            for position, token in enumerate(tokens):
                batch.token[position] = token
                batch.pos[position] = position
                batch.n_seq_id[position] = 1
                batch.seq_id[position][0] = 0
                batch.logits[position] = 1
            code = lib.llama_decode(self._context, batch)
            if code:
                raise ReleaseError(f"{self.path}: llama.cpp computes nothing ({code}): {said()}")
            found = lib.llama_get_logits(self._context)
            return np.ctypeslib.as_array(found, shape=(count, self._size)).copy()
        finally:
            lib.llama_batch_free(batch)


def version() -> str | None:
    """Version of llama-cpp-python, None where it is not installed."""
    module = library()
    return None if module is None else str(module.__version__)
