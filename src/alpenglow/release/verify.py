"""A release folder against the checkpoint that it came from: tensors, logits, a sample.

Every tensor is compared bit for bit and with the hash that the folder names; then `transformers`
loads the folder and its logits on real tokens are compared with those of the training model, which
is built from the checkpoint alone. Both compute in fp32 with the weights of the release's dtype, so
a release in fp16 or bf16 is held to the same figure. Called by `alpenglow.release`.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from safetensors import SafetensorError, safe_open

from alpenglow.data.catalogue import Catalogue
from alpenglow.exchange.source import Source
from alpenglow.model.stages import build_local
from alpenglow.release.error import ReleaseError
from alpenglow.release.huggingface import (
    CONVERSION,
    global_name,
    huggingface_name,
)
from alpenglow.release.tensors import as_bytes, cast

LOGIT_TOLERANCE = 1e-4
"""Largest difference of two logits in fp32.

The two implementations order their sums differently, which moves logits of size 1 to 10 by 1e-6 to
1e-5 (measured: 8e-7 on small models, facts/stack.md section 6); a wrong bias, a permuted head or
another rotary share moves them by 1e-2 and more. 1e-4 lies between with room on both sides.
"""
ROWS = 2
LENGTH = 256
SAMPLE_TOKENS = 48
_SAMPLE_SEED = 0


@dataclass(frozen=True)
class Verification:
    """What was compared, and how it came out."""

    tensors: int
    """Tensors found equal bit for bit."""
    positions: int
    """Token positions whose logits were compared."""
    difference: float
    """Largest absolute difference of two logits."""
    tolerance: float
    sample: str
    """Prompt and continuation, drawn with a fixed seed."""


def real_tokens(catalogue: Catalogue, vocabulary: int, length: int) -> torch.Tensor:
    """Take two windows of training text, from the longest shard: int64 [2, length].

    Args:
        catalogue: the run's shards.
        vocabulary: size of the model's vocabulary.
        length: tokens a window; fewer where the shard is short.

    Raises:
        ReleaseError: no tokens, or tokens outside the vocabulary.
        ShardError: the shard is damaged.
    """
    longest = max(range(len(catalogue.shards)), key=lambda i: catalogue.shards[i].tokens, default=0)
    tokens = catalogue.open(longest).tokens if catalogue.shards else np.empty(0, np.uint16)
    count = min(length, len(tokens) // ROWS)
    if not count:
        raise ReleaseError(f"{catalogue.folder}: no tokens to verify the release with")
    starts = [row * (len(tokens) // ROWS) for row in range(ROWS)]
    rows = np.stack([tokens[start : start + count] for start in starts]).astype(np.int64)
    if rows.max() >= vocabulary:
        raise ReleaseError(
            f"{catalogue.folder}: holds token {rows.max()}, the model's vocabulary ends at "
            f"{vocabulary}; it is not this run's data"
        )
    return torch.from_numpy(rows)


def verify(folder: Path, source: Source, tokens: torch.Tensor, prompt: str) -> Verification:
    """Compare a folder with its checkpoint.

    Args:
        folder: the release.
        source: where it came from.
        tokens: int64 [rows, length].
        prompt: beginning of the sample.

    Raises:
        ReleaseError: anything differs, or transformers does not load the folder.
    """
    tensors = compare_tensors(folder, source)
    released, sample = _released_logits(folder, tokens, prompt)
    gc.collect()  # one model in memory at a time
    ours = training_logits(source, _dtype(folder), tokens)
    difference = float((released - ours).abs().max())
    if not difference < LOGIT_TOLERANCE:  # also when it is NaN
        raise ReleaseError(
            f"{folder.name}: logits of transformers and of the training model differ by "
            f"{difference:.3g}, more than {LOGIT_TOLERANCE:g}; the release is not put in place"
        )
    return Verification(tensors, tokens.numel(), difference, LOGIT_TOLERANCE, sample)


def compare_tensors(folder: Path, source: Source) -> int:
    """Compare every tensor's bits and hash; returns how many there are.

    Raises:
        ReleaseError: one is absent, too many, damaged or different.
    """
    conversion = _conversion(folder)
    if conversion["step"] != source.step:
        raise ReleaseError(
            f"{folder}: made from step {conversion['step']}, compared with step {source.step}"
        )
    dtype = _dtype(folder)
    wanted = {huggingface_name(name) for name in source.config.tensor_shapes()}
    found = set()
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118  (not a mapping)
                    found.add(name)
                    ours = source.tensor(global_name(name)) if name in wanted else None
                    _compare(path, name, file.get_tensor(name), ours, dtype, conversion)
        except SafetensorError as error:
            raise ReleaseError(f"{path}: damaged: {error}") from None
    if missing := sorted(wanted - found):
        raise ReleaseError(f"{folder}: {missing[0]} is missing")
    return len(found)


def _compare(
    path: Path,
    name: str,
    released: torch.Tensor,
    ours: torch.Tensor | None,
    dtype: torch.dtype,
    conversion: Mapping[str, Any],
) -> None:
    if ours is None:
        raise ReleaseError(f"{path}: {name} belongs to no tensor of the model")
    same = released.dtype == dtype and released.shape == ours.shape
    bits = released.reshape(-1).view(torch.uint8)
    if not same or not torch.equal(bits, cast(ours, dtype, name).reshape(-1).view(torch.uint8)):
        raise ReleaseError(f"{path}: {name} differs from the checkpoint's")
    if xxhash.xxh3_64_hexdigest(as_bytes(released)) != conversion["xxh3_64"].get(name):
        raise ReleaseError(f"{path}: {name} does not have the hash that {CONVERSION} names")


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
    return logits.clone()


def _released_logits(folder: Path, tokens: torch.Tensor, prompt: str) -> tuple[torch.Tensor, str]:
    """Logits [rows, length, vocabulary] by transformers in fp32, and a sample."""
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
        logits: torch.Tensor = model(tokens).logits.float().clone()
    return logits, _sample(model, tokenizer, prompt)


def _sample(model: Any, tokenizer: Any, prompt: str) -> str:
    inputs = tokenizer(prompt or tokenizer.bos_token, return_tensors="pt")
    room = model.config.max_position_embeddings - inputs["input_ids"].shape[1]
    if room < 1:
        raise ReleaseError(f"prompt: longer than the model's {room} positions; shorten it")
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


def _conversion(folder: Path) -> dict[str, Any]:
    try:
        conversion: dict[str, Any] = json.loads((folder / CONVERSION).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReleaseError(f"{folder}: not a release: {CONVERSION}: {error}") from None
    return conversion


def _dtype(folder: Path) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, _conversion(folder)["dtype"])
    return dtype
