"""What was published of RedPajama v1, LLaMA and SlimPajama: tokens, bytes, documents by slice.

Read from `published/token_counts.csv`, whose every line names its source. LLaMA's own tokens were
never published: those here are RedPajama's estimate from LLaMA's table 1.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from types import MappingProxyType

TABLE = "published/token_counts.csv"
CORPORA = {"redpajama": "RedPajama v1", "llama": "LLaMA", "slimpajama": "SlimPajama"}


@dataclass(frozen=True)
class Published:
    """One number."""

    slice: str
    corpus: str
    """One of `CORPORA`."""
    what: str
    """tokens, bytes, documents, weight (share of the training mixture) or epochs."""
    value: float
    unit: str
    source: str


@lru_cache(maxsize=1)
def published() -> tuple[Published, ...]:
    """Read all of them."""
    text = (resources.files("alpenglow.data") / TABLE).read_text(encoding="utf-8")
    return tuple(
        Published(**{**row, "value": float(row["value"])})  # type: ignore[arg-type]
        for row in csv.DictReader(text.splitlines())
    )


def values(corpus: str, what: str) -> Mapping[str, float]:
    """Return slice -> value, in the order of RedPajama's table.

    Raises:
        KeyError: nothing of this was published, or it is not in the table.
    """
    found = {
        row.slice: row.value for row in published() if (row.corpus, row.what) == (corpus, what)
    }
    if not found:
        raise KeyError(f"{TABLE} holds no {what} of {corpus}")
    return MappingProxyType(found)


def source(corpus: str, what: str) -> str:
    """Return where these values come from."""
    found = {row.source: None for row in published() if (row.corpus, row.what) == (corpus, what)}
    return "; ".join(found)
