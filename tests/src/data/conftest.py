"""A small catalogue of real shards, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from alpenglow.data.catalogue import Catalogue
from alpenglow.data.shards import ShardInfo, ShardWriter


def write_shard(folder: Path, name: str, slice: str, tokens: int, seed: int = 0) -> ShardInfo:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 4096, tokens)
    with ShardWriter(
        folder / name, slice=slice, dtype="uint16", tokenizer_hash="t", recipe_hash="r"
    ) as writer:
        for number, part in enumerate(np.array_split(values, 7)):
            writer.add(part, number.to_bytes(16, "little"), f"{slice}/{number}")
        return writer.close()


@pytest.fixture
def make_catalogue(tmp_path: Path) -> Callable[[dict[str, list[int]]], Catalogue]:
    def make(sizes: dict[str, list[int]]) -> Catalogue:
        infos = [
            write_shard(tmp_path, f"{slice}-{number:05d}.h5", slice, tokens, number)
            for slice, counts in sizes.items()
            for number, tokens in enumerate(counts)
        ]
        catalogue = Catalogue.build(
            tmp_path,
            infos,
            tokenizer="tokenizer.json",
            tokenizer_hash="t",
            vocab_size=4096,
            recipe_hash="r",
        )
        catalogue.write()
        return catalogue

    return make
