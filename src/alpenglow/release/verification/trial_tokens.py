"""The tokens on which the logits of a release are compared with its checkpoint's."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer

from alpenglow.data.catalogue import Catalogue
from alpenglow.release.error import ReleaseError
from alpenglow.release.record import RunRecord
from alpenglow.release.verification.model_files import PROBE

ROWS = 2
LENGTH = 256


class Trial(NamedTuple):
    """Tokens, and what text they are."""

    tokens: torch.Tensor
    """int64 [rows, length]."""
    text: str


def trial_of(record: RunRecord, tokenizer: Path, rows: int, positions: int) -> Trial:
    """Two windows of the run's own text, or of a text of many scripts where it has none.

    Args:
        record: the run.
        tokenizer: the release's tokenizer.json.
        rows: rows of the released vocabulary.
        positions: the model's longest sequence.

    Raises:
        ReleaseError: the shards are not those that the run read, or their tokens not the model's.
        CatalogueError, ShardError: the shards are not whole.
    """
    length = min(LENGTH, positions)
    if not record.catalogue.is_file():
        ids = Tokenizer.from_file(str(tokenizer)).encode(PROBE).ids
        if not ids:
            raise ReleaseError(f"{tokenizer}: it turns no text into tokens")
        repeated = torch.tensor(ids).repeat(-(-ROWS * length // len(ids)))
        return Trial(repeated[: ROWS * length].view(ROWS, length), "a text of many scripts")
    catalogue = Catalogue.load(record.catalogue)
    fingerprint = record.fact("data", "fingerprint")
    if fingerprint is not None and catalogue.fingerprint != fingerprint:
        raise ReleaseError(
            f"{record.catalogue}: fingerprint {catalogue.fingerprint} is not {fingerprint}, which "
            f"{record.path / 'run.toml'} names; restore the run's shards, or set verify=false"
        )
    return Trial(real_tokens(catalogue, rows, length), "training text")


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
