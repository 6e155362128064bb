"""How much text each stage of the 1.2 T-token job goes through, by slice.

Sizes are in `published/raw_sizes.csv`, each with its source, or marked as assumed: `disk` (raw
input, compressed), `text` (what a reader goes through), `stored` (what it keeps: the language, the
licences), `left` (after repeated paragraphs). What is kept at the end is RedPajama's text before
SlimPajama's deduplication, and its tokens are RedPajama's.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Literal

from alpenglow.data.published_counts import source, values
from alpenglow.data.recipe import SLICES

TABLE = "published/raw_sizes.csv"
TOKEN_BYTES = 2
"""uint16: GPT-NeoX-20B's ids fit."""
LZF = 1.7
"""How much smaller lzf makes text in a store: assumed, as it does of tokens (measured, 1.70)."""

What = Literal["disk", "text", "stored", "left", "kept"]


@dataclass(frozen=True)
class Size:
    """One number of the table."""

    bytes: float
    source: str
    assumed: bool


@dataclass(frozen=True)
class Step:
    """What a stage goes through."""

    stage: str
    """Its name in `stage_functions.STAGES`."""
    of: What
    slices: tuple[str, ...] = SLICES
    times: int = 1
    why: str = ""


WEB = ("commoncrawl",)
STEPS = (
    Step("read", "text", why="raw input to text; CommonCrawl's language too"),
    Step("store", "stored", why="texts to the document store"),
    Step("load", "stored", WEB, why="read back to hash paragraphs"),
    Step("paragraphs", "stored", WEB, why="hashes of lines, and texts without repeated ones"),
    Step("store", "left", WEB, why="texts without repeated lines"),
    Step("load", "left", times=2, why="read back for signals, and for tokens"),
    Step("signals", "left", why="annotations"),
    Step("models", "left", WEB, why="perplexity and the quality classifier"),
    Step("filters", "left", why="rules over signals"),
    Step("tokenise", "left", why="every document, so that each rule's tokens are known"),
    Step("shards", "kept", why="tokens to shards"),
)
"""In the order of the pipeline."""


@lru_cache(maxsize=1)
def sizes() -> dict[tuple[str, str], Size]:
    """Read all sizes: (slice, what) -> bytes with source."""
    text = (resources.files("alpenglow.data") / TABLE).read_text(encoding="utf-8")
    found = {
        (row["slice"], row["what"]): Size(
            float(row["bytes"]), row["source"], row["assumed"] == "yes"
        )
        for row in csv.DictReader(text.splitlines())
    }
    for name, value in values("slimpajama_before", "bytes").items():
        found[name, "kept"] = Size(value, source("slimpajama_before"), False)
    return found


def size(name: str, what: What) -> Size:
    """One size of a slice."""
    return sizes()[name, what]


def moved(step: Step, name: str) -> float:
    """Bytes that a stage of a slice reads from and writes to the file system."""
    text = step.times * size(name, step.of).bytes
    tokens = values("redpajama", "tokens")[name] / size(name, "kept").bytes * text * TOKEN_BYTES
    return {
        "read": size(name, "disk").bytes,
        "store": text / LZF,
        "load": text / LZF,
        "tokenise": tokens,
        "shards": 2 * tokens,
    }.get(step.stage, 0.0)
