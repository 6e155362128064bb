"""Published sizes of the seven slices: RedPajama v1, LLaMA, SlimPajama before and after.

Read from `published/token_counts.csv`, where each row names its source.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from types import MappingProxyType

LLAMA_TOKENS = 1.4e12
"""What LLaMA was trained on (arXiv 2302.13971, table 1)."""

Rows = MappingProxyType[str, "PublishedCount"]


@dataclass(frozen=True)
class PublishedCount:
    """One slice of one published data set; None where it is not published."""

    dataset: str
    slice: str
    tokens: float | None
    """Different tokens."""
    mixture: float | None
    """Share of the tokens of a training, 0 to 1."""
    epochs: float | None
    """Times that the slice was read in that training."""
    bytes: float | None
    documents: float | None
    source: str
    derived: bool = False
    """Whether `tokens` is not published but follows from mixture and epochs."""


@lru_cache(maxsize=1)
def published() -> MappingProxyType[str, Rows]:
    """All rows: data set -> slice -> counts."""
    text = (resources.files("alpenglow.data") / "published/token_counts.csv").read_text("utf-8")
    found: dict[str, dict[str, PublishedCount]] = {}
    for row in csv.DictReader(text.splitlines()):
        count = _count(row)
        found.setdefault(count.dataset, {})[count.slice] = count
    return MappingProxyType({name: MappingProxyType(rows) for name, rows in found.items()})


def _count(row: dict[str, str]) -> PublishedCount:
    def number(name: str, unit: float) -> float | None:
        return float(row[name]) * unit if row[name] else None

    tokens = number("tokens_billion", 1e9)
    mixture, epochs = number("mixture_percent", 0.01), number("epochs", 1)
    derived = tokens is None and mixture is not None and epochs is not None
    if tokens is None and mixture is not None and epochs is not None:
        tokens = LLAMA_TOKENS * mixture / epochs
    return PublishedCount(
        row["dataset"], row["slice"], tokens, mixture, epochs, number("size_gb", 1e9),
        number("documents_million", 1e6), row["source"], derived,
    )  # fmt: skip


def values(dataset: str, what: str) -> MappingProxyType[str, float]:
    """Return slice -> number of a data set, in the order of RedPajama's table.

    Args:
        dataset: one of `published()`.
        what: tokens, mixture, epochs, bytes or documents.

    Raises:
        KeyError: the table has no such number of every slice.
    """
    rows = published()[dataset].items()
    found = {name: value for name, row in rows if (value := getattr(row, what, None)) is not None}
    if len(found) != len(rows):
        raise KeyError(f"{what} of {dataset} are not in the table for every slice")
    return MappingProxyType(found)


def source(dataset: str) -> str:
    """Return where the numbers of a data set are from."""
    return "; ".join(dict.fromkeys(row.source for row in published()[dataset].values()))
