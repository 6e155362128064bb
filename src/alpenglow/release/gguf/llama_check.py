"""GGUF files against the folder that they came from, by llama.cpp itself.

Token ids must be the same, on texts of several scripts, code, runs of spaces, and special tokens
that stand in text. Logits must agree with transformers within a tolerance, where the weights are
the same numbers (f32, f16, bf16); of quantised files the difference is reported. Perplexity of the
original and of each file is measured on the same windows of a text. Used by
`alpenglow.release.gguf.command`.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from alpenglow.release.error import ReleaseError
from alpenglow.release.gguf.llama_model import LlamaModel
from alpenglow.release.gguf.source import ReleasedFolder

TOLERANCE = {"f32": 5e-3, "f16": 5e-3, "bf16": 5e-2}
"""Largest difference of two logits, as a share of the logits' standard deviation.

llama.cpp's CPU kernels compute another GELU, the tanh form from a table of fp16 inputs (ggml,
GGML_GELU_FP16; up to 5e-4 from the exact one), and round activations to the weights' type before
each product. Measured on a trained demonstration model with llama-cpp-python 0.3.36: 1.1e-3 for
f32, of which 3e-4 remain when transformers computes the tanh form too, 1.6e-3 for f16, and 8e-3 for
bf16, whose activations keep 8 bits. A wrong residual form, head order or rotary share moves logits
by their own size.
"""
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
LENGTH = 256
"""Positions whose logits are compared."""
WINDOW = 512
"""Longest window of perplexity; shorter where the model's context is."""
EXCERPT = 200_000
"""Characters of a text whose tokens are compared."""

PROBES = (
    "The quick brown fox, 3 times; it's what we're (you'd) told: don't!",
    "def f(x):\n\tif x  >  0:\n        return [i**2 for i in range(10)]\n\n\n# end   \n",
    "   leading, trailing   \n \n  \t\t mixed \r\n\u00a0no-break\u2003em\u3000ideographic  ",
    "12345 3.14159 1,000,000 \u0661\u0662\u0663 \u00bd \u2167 x2 2x v1.2.3",
    "Caf\u00e9 \u017b\u00f3\u0142\u0107 na\u00efve \u00dcber stra\u00dfe \u1e9e",
    "\u0395\u03bb\u03bb\u03b7\u03bd\u03b9\u03ba\u03ac \u0420\u0443\u0441\u0441\u043a\u0438\u0439 "
    "\u05e2\u05d1\u05e8\u05d9\u05ea \u0627\u0644\u0639\u0631\u0628\u064a\u0629",
    "\u6c49\u5b57\u3068\u304b\u306a \ud55c\uad6d\uc5b4 \u0939\u093f\u0928\u094d\u0926\u0940 "
    "\u0e44\u0e17\u0e22",
    "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 \u2211\u222b\u2260 e\u0301 \u0000\u0007",
    "<|endoftext|> in text, <|endoftext|><|endoftext|> and <|padding|>",
    "''s 'S 'll' 've 're 'tis \u2019s",
)
"""Texts whose tokens are compared in any case; perplexity is never measured on them."""


@dataclass(frozen=True)
class Logits:
    """How the logits of a file compare with transformers'."""

    positions: int
    difference: float
    """Largest absolute difference."""
    spread: float
    """Standard deviation of the original's logits."""
    tolerance: float | None
    """Largest difference allowed; None for quantised weights, which are other numbers."""


@dataclass(frozen=True)
class Checked:
    """What was measured of one model, the original or a file."""

    logits: Logits | None
    perplexity: float | None


@dataclass(frozen=True)
class Text:
    """Windows of a text."""

    windows: list[list[int]]

    @property
    def scored(self) -> int:
        """Tokens that are predicted: all but the first of each window."""
        return sum(len(window) - 1 for window in self.windows)


class Original:
    """The folder in transformers, in fp32; weights rounded on request.

    Args:
        folder: what was converted.

    Raises:
        ReleaseError: transformers does not load it.
    """

    def __init__(self, folder: ReleasedFolder) -> None:
        self.folder = folder
        self.tokenizer = Tokenizer.from_file(str(folder.tokenizer))
        self._model: Any = None
        self._type = ""

    def logits(self, tokens: Sequence[int], type_name: str = "f32") -> NDArray[np.float32]:
        """Logits [len(tokens), vocabulary] with matrices rounded to a type of `DTYPES`."""
        self._load(type_name)
        with torch.inference_mode():
            found: NDArray[np.float32] = self._model(torch.tensor([list(tokens)])).logits[0].numpy()
        return found

    def _load(self, type_name: str) -> None:
        if self._type == type_name:
            return
        import transformers

        transformers.utils.logging.disable_progress_bar()
        self._model = None  # one model in memory at a time
        try:
            model = transformers.AutoModelForCausalLM.from_pretrained(
                self.folder.path, dtype=torch.float32, local_files_only=True
            )
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            raise ReleaseError(f"{self.folder.path}: transformers: {error}") from None
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.copy_(parameter.to(DTYPES[type_name]))
        self._model, self._type = model.eval(), type_name


def compare_tokens(folder: ReleasedFolder, model: LlamaModel, texts: Sequence[str]) -> int:
    """Compare the ids of texts, as plain text and with special tokens read; returns how many ids.

    Where the tokenizer normalises to NFC, llama.cpp is given NFC.

    Raises:
        ReleaseError: names the first place where they differ.
    """
    compared = 0
    reads = Tokenizer.from_file(str(folder.tokenizer))
    plain = Tokenizer.from_file(str(folder.tokenizer))
    plain.encode_special_tokens = True
    for text in texts:
        given = unicodedata.normalize("NFC", text) if reads.normalizer is not None else text
        for tokenizer, special in ((plain, False), (reads, True)):
            ours: list[int] = tokenizer.encode(given, add_special_tokens=False).ids
            theirs = model.tokens(given, special=special)
            compared += len(ours)
            if ours != theirs:
                _refuse_tokens(model.path, given, tokenizer, ours, theirs)
    return compared


def _refuse_tokens(
    path: Path, text: str, tokenizer: Any, ours: list[int], theirs: list[int]
) -> None:
    pairs = zip(ours, theirs, strict=False)
    first = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(ours), len(theirs)))
    offsets = tokenizer.encode(text, add_special_tokens=False).offsets
    start = offsets[first][0] if first < len(offsets) else len(text)
    raise ReleaseError(
        f"{path}: llama.cpp and the tokenizer differ at token {first}, near "
        f"{text[max(0, start - 10) : start + 20]!r}: {theirs[first : first + 4]} instead of "
        f"{ours[first : first + 4]}"
    )


def compare_logits(
    original: Original, model: LlamaModel, type_name: str, tokens: Sequence[int]
) -> Logits:
    """Compare the logits of one sequence.

    Raises:
        ReleaseError: they differ by more than the tolerance.
    """
    known = type_name in TOLERANCE
    wanted = original.logits(tokens, type_name if known else "f32")
    found = model.logits(tokens)
    spread = float(wanted.std())
    difference = float(np.abs(found - wanted).max())
    tolerance = TOLERANCE[type_name] * spread if known else None
    if tolerance is not None and not difference <= tolerance:  # also when it is NaN
        raise ReleaseError(
            f"{model.path}: logits of llama.cpp and transformers differ by {difference:.3g}, more "
            f"than {tolerance:.3g}; the file is not put in place"
        )
    return Logits(len(tokens), difference, spread, tolerance)


def windows(tokens: Sequence[int], length: int, most: int) -> Text:
    """Cut tokens into at most `most` windows of `length`; one shorter where there are fewer."""
    cut = [list(tokens[i : i + length]) for i in range(0, len(tokens), length)]
    whole = [window for window in cut if len(window) == length] or cut[:1]
    return Text([window for window in whole[:most] if len(window) > 1])


def perplexity(text: Text, logits: Any) -> float:
    """Exponential of the mean loss a token, each window by itself.

    Args:
        text: the windows.
        logits: gives [length, vocabulary] for a window.
    """
    total = 0.0
    for window in text.windows:
        rows = torch.from_numpy(logits(window)[:-1]).double()
        targets = torch.tensor(window[1:])
        total += float(torch.nn.functional.cross_entropy(rows, targets, reduction="sum"))
    return math.exp(total / text.scored)
