"""Two small shards with a catalogue, for tests that start the trainer."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from alpenglow.data.catalogue import Catalogue
from alpenglow.data.shards import ShardWriter

VOCABULARY = 120


def write_small_shards(folder: Path) -> None:
    """Write 4,000 drawn tokens each of the slices github and wikipedia."""
    folder.mkdir()
    infos = []
    for number, name in enumerate(("github", "wikipedia")):
        writer = ShardWriter(
            folder / f"{name}-00000.h5",
            slice=name,
            dtype="uint16",
            tokenizer_hash="t",
            recipe_hash="r",
        )
        tokens = np.random.default_rng(number).integers(0, VOCABULARY, 4000)
        writer.add(tokens, bytes([number] * 16), "drawn")
        infos.append(writer.close())
    Catalogue.build(
        folder,
        infos,
        tokenizer="tokenizer.json",
        tokenizer_hash="t",
        vocab_size=VOCABULARY,
        recipe_hash="r",
    ).write()
