"""A released folder as the harness's model: loaded once, from files alone.

It tells how far it is with what it is asked.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from lm_eval.models.huggingface import HFLM

from alpenglow.evaluate.error import EvaluateError

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class ReleasedModel(HFLM):
    """A causal language model in a Hugging Face folder.

    Args:
        folder: with config.json, weights and tokenizer.
        dtype: "auto" (the folder's own on a GPU, fp32 on a CPU), "fp32", "fp16" or "bf16".
        device: "auto" or what torch calls it.
        batch_size: prompts at a time.

    Raises:
        EvaluateError: no such folder, no tokenizer in it, transformers does not load it, or there
            is no such device.
    """

    def __init__(self, folder: Path, *, dtype: str, device: str, batch_size: int) -> None:
        _check(folder)
        where = _device(device)
        transformers.utils.logging.disable_progress_bar()
        by_device = "auto" if where.type == "cuda" else torch.float32
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model = transformers.AutoModelForCausalLM.from_pretrained(
                folder, dtype=DTYPES.get(dtype, by_device), local_files_only=True
            )
            model = model.to(where).eval()
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
            raise EvaluateError(f"{folder}: transformers does not load it: {reason}") from None
        # Padding is masked and never scored; a model without a token for it pads with its end.
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.bos_token
        super().__init__(
            pretrained=model, tokenizer=tokenizer, batch_size=batch_size, backend="causal"
        )
        self.folder = folder
        self.told: Callable[[int, int], None] = lambda _done, _total: None
        """Called with (rows computed, rows in all) of what is being asked."""
        self._done = self._total = 0

    @property
    def computed_in(self) -> str:
        """As a person would say it: `float16 on cuda`."""
        return f"{str(self.model.dtype).removeprefix('torch.')} on {self.device.type}"

    def length(self, text: str) -> int:
        """Tokens of a text."""
        return len(self.tok_encode(text))

    def loglikelihood(
        self, requests: list[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation, and whether it is the likeliest; see the harness."""
        found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return found

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts; see the harness."""
        found: list[float] = super().loglikelihood_rolling(requests, disable_tqdm=True)
        return found

    def _loglikelihood_tokens(
        self, requests: list[Any], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        # Continuations of one token behind the same text share a row.
        rows = {tuple(context + continuation[:-1]) for _, context, continuation in requests}
        self._done, self._total = 0, len(rows)
        found: list[tuple[float, bool]] = super()._loglikelihood_tokens(
            requests, disable_tqdm=True, override_bs=override_bs
        )
        return found

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Generate a text behind each prompt; see the harness."""
        self._done, self._total = 0, len(requests)
        found: list[str] = super().generate_until(requests, disable_tqdm=True)
        return found

    def _model_call(self, inps: torch.Tensor, *rest: Any, **named: Any) -> torch.Tensor:
        logits: torch.Tensor = super()._model_call(inps, *rest, **named)
        self._tell(inps.shape[0])
        return logits

    def _model_generate(self, context: torch.Tensor, *rest: Any, **named: Any) -> torch.Tensor:
        tokens: torch.Tensor = super()._model_generate(context, *rest, **named)
        self._tell(context.shape[0])
        return tokens

    def _tell(self, rows: int) -> None:
        self._done = min(self._total, self._done + rows)
        self.told(self._done, self._total)


def _check(folder: Path) -> None:
    if not folder.is_dir():
        raise EvaluateError(
            f"{folder}: no such model; release one first (jobs/convert.lsf), or name another with "
            "model=FOLDER"
        )
    for name, what in (("config.json", "model"), ("tokenizer_config.json", "tokenizer")):
        if not (folder / name).is_file():
            raise EvaluateError(f"{folder}: has no {name}, so there is no {what} to evaluate")
    if not any(folder.glob("tokenizer.*")) and not (folder / "vocab.json").is_file():
        raise EvaluateError(f"{folder}: has no tokenizer.json, so there is no tokenizer to use")


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise EvaluateError(f"device = {name!r}: not a device of torch; try auto") from None
    if device.type == "cuda" and not (device.index or 0) < torch.cuda.device_count():
        raise EvaluateError(
            f"device = {name!r}: torch sees {torch.cuda.device_count()} GPUs here; try auto"
        )
    return device
