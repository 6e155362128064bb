"""A release folder against the checkpoint that it came from: tensors, logits, a sample.

Every tensor is compared bit for bit and with the hash that the folder names; then `transformers`
computes logits on real tokens with the folder's files, and they are compared with those of the
training model, which is built from the checkpoint alone. Both compute in fp32 with the weights of
the release's dtype, so a release in fp16 or bf16 is held to the same figure. Whole models are
loaded where they fit, else one layer at a time (`layered_logits`).
"""

from __future__ import annotations

import dataclasses
import gc
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import xxhash

from alpenglow.exchange.source import Source
from alpenglow.release.conversion import CONVERSION, Compared, Conversion
from alpenglow.release.error import ReleaseError
from alpenglow.release.huggingface import global_name, huggingface_name
from alpenglow.release.tensors import as_bytes, cast
from alpenglow.release.verification import layered_logits, whole_logits
from alpenglow.release.verification.memory import Memory, choose
from alpenglow.release.verification.model_files import (
    check_config,
    check_tokenizer,
    differences,
    read_json,
)
from alpenglow.release.verification.row_blocks import row_blocks
from alpenglow.release.verification.trial_tokens import Trial
from alpenglow.release.verification.weight_files import WeightFiles

LOGIT_TOLERANCE = 1e-4
"""Largest difference of two logits in fp32.

The two implementations order their sums differently, which moves logits of size 1 to 10 by 1e-6 to
1e-5 (measured: 8e-7 on small models, facts/stack.md section 6); a wrong bias, a permuted head or
another rotary share moves them by 1e-2 and more. 1e-4 lies between with room on both sides. On a
model whose logits are all tiny (an untrained one) it says little, so the largest is reported too.
"""
_VOCABULARY_TENSORS = ("gpt_neox.embed_in.", "embed_out.")


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
    """Prompt and continuation, drawn with a fixed seed; empty where layers came one at a time."""
    largest: float = math.nan
    """Largest absolute logit."""
    memory: Literal["whole", "layers"] = "whole"
    """Whether whole models were loaded."""
    text: str = ""
    """What the logits were computed on."""

    def table(self) -> Compared:
        """What `conversion.json` keeps of it."""
        return {
            "tensors": self.tensors,
            "positions": self.positions,
            "difference": self.difference,
            "largest": None if math.isnan(self.largest) else self.largest,
            "tolerance": self.tolerance,
            "dtype": "float32",
            "text": self.text,
        }


def verify(
    folder: Path, source: Source, trial: Trial, prompt: str, *, memory: Memory = "auto"
) -> Verification:
    """Compare a folder with its checkpoint.

    Args:
        folder: the release.
        source: where it came from.
        trial: what logits are computed on.
        prompt: beginning of the sample.
        memory: load whole models, or one layer at a time; "auto" looks at the memory there is.

    Raises:
        ReleaseError: anything differs, or transformers does not load the folder.
    """
    tokens = trial.tokens
    config = check_config(folder)
    check_tokenizer(folder, config, prompt)
    tensors = compare_tensors(folder, source)
    weights = WeightFiles.open(folder)
    vocabulary = _rows(weights, source)
    if int(tokens.max()) >= vocabulary:
        raise ReleaseError(
            f"{folder}: token {int(tokens.max())} of the text to compare on is not below the "
            f"released vocabulary of {vocabulary}; it is not this model's data"
        )
    dtype, way = release_dtype(folder), choose(memory, source.config, tokens.numel())
    sample = ""
    if way == "whole":
        released, sample = whole_logits.released_logits(folder, tokens, prompt)
        gc.collect()  # one model in memory at a time
        ours = whole_logits.training_logits(source, dtype, tokens)
    else:
        released = layered_logits.released_logits(folder, weights, tokens)
        ours = layered_logits.training_logits(source, dtype, tokens)
    ours = ours[..., :vocabulary]  # a trimmed release has no rows for padding
    difference, largest = float((released - ours).abs().max()), float(ours.abs().max())
    told = differences(config, source.config, vocabulary)
    if not difference < LOGIT_TOLERANCE:  # also when it is NaN
        why = f" ({told[0]})" if told else ""
        raise ReleaseError(
            f"{folder.name}: logits of transformers and of the training model differ by "
            f"{difference:.3g}, more than {LOGIT_TOLERANCE:g}{why}"
        )
    if told:
        raise ReleaseError(f"{folder}: {told[0]}")
    return Verification(
        tensors, tokens.numel(), difference, LOGIT_TOLERANCE, sample, largest, way, trial.text
    )


def compare_tensors(folder: Path, source: Source) -> int:
    """Compare every tensor's bits and hash, one at a time; returns how many there are.

    Of a vocabulary that was trimmed the released rows are compared, which are the first ones.

    Raises:
        ReleaseError: one is absent, too many, damaged or different.
    """
    conversion = Conversion.load(folder)
    if conversion.step != source.step:
        raise ReleaseError(
            f"{folder}: made from step {conversion.step}, compared with step {source.step}"
        )
    weights = WeightFiles.open(folder)
    dtype = release_dtype(folder)
    shapes = {
        huggingface_name(name): shape for name, shape in source.config.tensor_shapes().items()
    }
    for name in weights.names():
        if name not in shapes:
            raise ReleaseError(f"{weights.file(name)}: {name} belongs to no tensor of the model")
    if missing := sorted(shapes.keys() - set(weights.names())):
        raise ReleaseError(f"{folder}: {missing[0]} is missing")
    vocabulary = _rows(weights, source)
    for name in weights.names():
        shape = shapes[name]
        if name.startswith(_VOCABULARY_TENSORS):
            shape = (vocabulary, *shape[1:])
        digest = xxhash.xxh3_64()
        same = weights.shape(name) == shape
        for block in row_blocks(shape) if same else ():
            released = weights.rows(name, *block[0])
            ours = cast(source.tensor(global_name(name), block), dtype, name)
            same = same and released.dtype == dtype and torch.equal(_bits(released), _bits(ours))
            digest.update(as_bytes(released))
        if not same:
            raise ReleaseError(f"{weights.file(name)}: {name} differs from the checkpoint's")
        _check_hash(weights, name, digest, conversion.xxh3_64)
    return len(shapes)


def compare_hashes(folder: Path) -> int:
    """Compare every tensor with its hash in `conversion.json` alone; returns how many there are.

    Raises:
        ReleaseError: one is absent, too many, damaged or has another hash.
    """
    hashes = Conversion.load(folder).xxh3_64
    weights = WeightFiles.open(folder)
    for name in weights.names():
        if name not in hashes:
            raise ReleaseError(f"{weights.file(name)}: {CONVERSION} does not name {name}")
        digest = xxhash.xxh3_64()
        for (start, stop), *_ in row_blocks(weights.shape(name)):
            digest.update(as_bytes(weights.rows(name, start, stop)))
        _check_hash(weights, name, digest, hashes)
    if missing := sorted(hashes.keys() - set(weights.names())):
        raise ReleaseError(f"{folder}: {missing[0]} is missing")
    return len(hashes)


def record(folder: Path, verification: Verification) -> None:
    """Write the outcome into the folder's `conversion.json`."""
    table = verification.table()
    dataclasses.replace(Conversion.load(folder), verification=table).write(folder)


def release_dtype(folder: Path) -> torch.dtype:
    """Dtype of a release's weights, as its `conversion.json` says."""
    dtype: torch.dtype = getattr(torch, Conversion.load(folder).dtype)
    return dtype


def _rows(weights: WeightFiles, source: Source) -> int:
    """Rows of the released vocabulary: at most the checkpoint's."""
    name, most = huggingface_name("embed_in.weight"), source.config.vocab_size
    rows = weights.shape(name)[0]
    if rows > most:
        raise ReleaseError(f"{weights.file(name)}: {name} has {rows} rows, the checkpoint {most}")
    said = read_json(weights.folder / "config.json").get("vocab_size")
    if said != rows:
        raise ReleaseError(
            f"{weights.folder / 'config.json'}: vocab_size is {said}, and {name} has {rows} rows"
        )
    return rows


def _check_hash(
    weights: WeightFiles, name: str, digest: xxhash.xxh3_64, hashes: Mapping[str, str]
) -> None:
    if digest.hexdigest() != hashes.get(name):
        raise ReleaseError(
            f"{weights.file(name)}: {name} does not have the hash that {CONVERSION} names"
        )


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1).view(torch.uint8)
