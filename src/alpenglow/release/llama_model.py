"""A GGUF file as llama.cpp computes it: token ids, logits, perplexity.

Through llama-cpp-python, on the CPU, with keys and values kept in fp32 and no flash attention, so
that what differs from the model is llama.cpp's arithmetic on the weights and nothing that a user
could have set. Used by `alpenglow.release.llama_check`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alpenglow.release.error import ReleaseError
from alpenglow.release.llama_quantiser import HOW, library, said

_F32 = 0
"""GGML_TYPE_F32 of ggml.h."""


class LlamaModel:
    """A loaded file; a context manager that frees it.

    Args:
        path: a GGUF file.
        length: positions of the longest sequence.

    Raises:
        ReleaseError: llama-cpp-python is absent, or llama.cpp does not load the file.
    """

    def __init__(self, path: Path, length: int) -> None:
        module = library()
        if module is None:
            raise ReleaseError(f"llama_cpp: not installed; {HOW}")
        self.path = path
        try:
            self._model: Any = module.Llama(
                str(path),
                n_ctx=length,
                n_batch=length,
                n_ubatch=length,
                logits_all=True,
                type_k=_F32,
                type_v=_F32,
                flash_attn=False,
                n_threads=os.cpu_count() or 1,
                n_threads_batch=os.cpu_count() or 1,
                verbose=False,
            )
        except (ValueError, RuntimeError, AssertionError) as error:
            raise ReleaseError(f"{path}: llama.cpp does not load it: {error} ({said()})") from None
        library()  # the constructor turned the log to itself

    def __enter__(self) -> LlamaModel:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._model.close()

    def tokens(self, text: str, *, special: bool = False) -> list[int]:
        """Token ids of a text; `special` reads control tokens in it, else they are plain text."""
        found: list[int] = self._model.tokenize(text.encode(), add_bos=False, special=special)
        return found

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Logits [len(tokens), vocabulary] of one sequence."""
        self._model.reset()
        self._model.eval(list(tokens))
        return np.array(self._model.scores[: len(tokens)], np.float32)


def version() -> str | None:
    """Version of llama-cpp-python, None where it is not installed."""
    module = library()
    return None if module is None else str(module.__version__)
