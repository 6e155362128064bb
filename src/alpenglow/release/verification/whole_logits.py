"""Logits of whole models in memory, and a sample: where the computer has room for them.

transformers loads the folder as any user would, so what it reports of missing, unexpected or
mismatched tensors is seen. This module is imported, never started.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from alpenglow.exchange.source import Source
from alpenglow.model.stages import build_local
from alpenglow.release.error import ReleaseError

SAMPLE_TOKENS = 48
_SAMPLE_SEED = 0


def training_logits(source: Source, dtype: torch.dtype, tokens: torch.Tensor) -> torch.Tensor:
    """Logits [rows, length, vocabulary] of the training model, in fp32.

    Args:
        source: of any form.
        dtype: weights are rounded to it first, as the release's are.
        tokens: int64 [rows, length].
    """
    model = build_local(source.config).float()
    model.load_global(lambda name, part: source.tensor(name, part).to(dtype).float())
    with torch.inference_mode():
        logits: torch.Tensor = model(tokens)
    return logits


def released_logits(folder: Path, tokens: torch.Tensor, prompt: str) -> tuple[torch.Tensor, str]:
    """Logits [rows, length, vocabulary] by transformers in fp32, and a sample.

    Args:
        folder: the release.
        tokens: int64 [rows, length].
        prompt: beginning of the sample; empty: the end-of-text token.

    Raises:
        ReleaseError: transformers does not load the folder, or not every tensor of it, or the
            prompt leaves no room.
    """
    import transformers

    transformers.utils.logging.disable_progress_bar()
    try:
        model, report = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise ReleaseError(f"{folder}: transformers does not load it: {error}") from None
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report[what]:
            raise ReleaseError(f"{folder}: transformers reports {what}: {sorted(report[what])}")
    with torch.inference_mode():
        logits: torch.Tensor = model(tokens, use_cache=False).logits
    return logits, _sample(model, tokenizer, prompt)


def _sample(model: Any, tokenizer: Any, prompt: str) -> str:
    inputs = tokenizer(prompt or tokenizer.bos_token, return_tensors="pt")
    most = model.config.max_position_embeddings
    room = most - inputs["input_ids"].shape[1]
    if room < 1:
        raise ReleaseError(f"prompt: longer than the model's {most} positions; shorten it")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SAMPLE_SEED)
        output = model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=min(SAMPLE_TOKENS, room),
            do_sample=True,
            temperature=0.8,
            top_k=50,
            pad_token_id=tokenizer.eos_token_id,
        )
    text: str = tokenizer.decode(output[0], skip_special_tokens=True)
    return text
