"""How long a slice's documents are: read from the indexes of some of its shards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alpenglow.data.catalogue import Catalogue
from alpenglow.data.shards import ShardError

SHARDS = 8
"""Of each slice, evenly spread: an index is 8 bytes a document."""
PERCENTILES = (5, 25, 50, 75, 95)


@dataclass(frozen=True)
class Lengths:
    """Tokens a document in some shards of a slice."""

    shards: int
    documents: int
    percentiles: NDArray[np.float64]
    """At `PERCENTILES`, tokens."""


def lengths(catalogue: Catalogue) -> tuple[dict[str, Lengths], list[str]]:
    """Measure each slice; returns sentences about shards that could not be read, too."""
    found: dict[str, Lengths] = {}
    missing: list[str] = []
    for name in catalogue.slices:
        of_slice = [i for i, info in enumerate(catalogue.shards) if info.slice == name]
        step = -(-len(of_slice) // SHARDS)
        sizes: list[NDArray[np.int64]] = []
        for index in of_slice[::step]:
            try:
                offsets = catalogue.open(index).offsets()
            except (ShardError, OSError) as error:
                missing.append(f"lengths of documents: {error}")
                continue
            sizes.append(np.asarray(np.diff(offsets.astype(np.int64)), np.int64))
        tokens = np.concatenate(sizes) if sizes else np.empty(0, np.int64)
        if tokens.size:
            spread = np.asarray(np.percentile(tokens, PERCENTILES), np.float64)
            found[name] = Lengths(len(sizes), int(tokens.size), spread)
    return found, missing
