"""Two small shards with a catalogue, for tests that start the trainer."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from alpenglow.data.catalogue import Catalogue
from alpenglow.data.shards import ShardWriter

VOCABULARY = 120


def write_small_shards(
    folder: Path, *, longest: int | None = None, size: int = 4000, tokenizer: str = "t"
) -> Catalogue:
    """Write drawn tokens of the slices github and wikipedia.

    Args:
        folder: to make.
        size: tokens of each slice.
        tokenizer: hash of the tokenizer that is said to have made them.
        longest: documents have drawn lengths up to this; None makes one of each slice.
    """
    folder.mkdir()
    infos = []
    for number, name in enumerate(("github", "wikipedia")):
        writer = ShardWriter(
            folder / f"{name}-00000.h5",
            slice=name,
            dtype="uint16",
            tokenizer_hash=tokenizer,
            recipe_hash="r",
        )
        rng = np.random.default_rng(number)
        tokens = rng.integers(0, VOCABULARY, size)
        borders = np.cumsum(rng.integers(1, (longest or 0) + 1, size)) if longest else np.array([])
        for part in np.split(tokens, borders[borders < size].astype(np.int64)):
            writer.add(part, bytes([number] * 16), "drawn")
        infos.append(writer.close())
    catalogue = Catalogue.build(
        folder,
        infos,
        tokenizer="tokenizer.json",
        tokenizer_hash=tokenizer,
        vocab_size=VOCABULARY,
        recipe_hash="r",
    )
    catalogue.write()
    return catalogue
