"""Token budgets: the quality at which a slice has to be cut to give so many tokens.

RedPajama set the thresholds of its filters so that each slice gave about as many tokens as LLaMA's.
Here that is a search over what is stored already: the tokens and signals of every document that the
other rules keep. For each slice it finds the strictest bound of one signal (a classifier's score at
least, a perplexity at most) that still leaves the target. Equal values are never parted, so a slice
may have a little more than its target, never less where the target can be reached. Where it cannot,
nothing is cut, and what is missing is said as epochs.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from alpenglow.data.document import DataError
from alpenglow.data.published_counts import published
from alpenglow.data.recipe import SLICES

Side = Literal["least", "most"]
PUBLISHED = ("llama", "redpajama")
ENOUGH = 0.995
"""A slice that has this much of its target reaches it: published counts have three digits."""

QUALITY = ("wikiref", "wikipedia", "palm")
"""Classifiers of quality, as RedPajama v2 names them; others (toxicity) have to be named."""

_SCORE = re.compile(rf"rps_doc_ml_({'|'.join(QUALITY)})\w*_score")


@dataclass(frozen=True)
class SliceColumns:
    """What is stored of a slice's documents, one row each."""

    tokens: NDArray[np.int64]
    columns: Mapping[str, NDArray[Any]]
    """Signals by name; NaN where a document has no value."""
    kept: NDArray[np.bool_]
    """Whether every other rule keeps it: filters, duplicates, but not the bound that is sought."""


@dataclass(frozen=True)
class Cut:
    """Which signal is bounded, and from which side."""

    signal: str
    side: Side


@dataclass(frozen=True)
class Target:
    """What a slice should give."""

    tokens: float
    epochs: float = 1.0
    """Times that it is read in training, as published."""


@dataclass(frozen=True)
class SliceBudget:
    """The answer for one slice."""

    slice: str
    target: Target
    available: int
    """Tokens that the other rules keep."""
    documents: int
    """Documents that they keep."""
    tokens: int
    """Tokens within the bound; all that are available where there is none."""
    within: int
    """Documents within the bound."""
    cut: Cut | None = None
    """None: no signal is stored, or nothing has to go."""
    value: float | None = None
    """The bound."""
    percentile: float | None = None
    """Of the slice's whole stored column: the share of documents, in per cent, below the bound."""
    worst: float | None = None
    """The worst value that the other rules keep: what the bound is beside."""

    @property
    def reached(self) -> bool:
        """Whether the target is reached without reading anything twice."""
        return self.tokens >= ENOUGH * self.target.tokens

    @property
    def epochs(self) -> float:
        """Times to read the slice for the target's share in training."""
        return self.target.epochs * self.target.tokens / max(1, self.tokens)


def targets(name: str) -> dict[str, Target]:
    """Read targets: `llama`, `redpajama`, or a TOML file with a table [tokens].

    Raises:
        DataError: no such file, not TOML, or no positive numbers of tokens by slice.
    """
    if name in PUBLISHED:
        rows = published()[name].values()
        return {
            row.slice: Target(row.tokens, row.epochs or 1.0)
            for row in rows
            if row.tokens is not None
        }
    path = Path(name)
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(
            f"{name}: neither a published data set ({', '.join(PUBLISHED)}) nor a file"
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(f"{name}: not readable as TOML ({error})") from None
    table = tables.get("tokens")
    if not isinstance(table, dict) or not table:
        raise DataError(f"{name}: has no table [tokens] such as commoncrawl = 878e9")
    found = {}
    for key, value in table.items():
        if key not in SLICES:
            raise DataError(f"{name}: unknown slice {key} in [tokens]; known: {', '.join(SLICES)}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise DataError(f"{name}: tokens.{key} = {value!r} should be a number above 0")
        found[key] = Target(float(value))
    return found


def scaled(
    wanted: Mapping[str, Target],
    slices: Mapping[str, SliceColumns],
    scale: float | None = None,
    total: float | None = None,
) -> tuple[dict[str, Target], float, str]:
    """Multiply targets.

    Args:
        wanted: of each slice, as published.
        slices: what is there.
        scale: factor; or
        total: sum of the targets of the slices that are there; or neither: the largest factor at
            which no slice has to be repeated, so that the scarcest one is used whole.

    Returns:
        Targets of the slices that are there, the factor, and the scarcest slice.

    Raises:
        DataError: no slice of the target has any tokens.
    """
    there = {
        name: int(slices[name].tokens[slices[name].kept].sum()) for name in wanted if name in slices
    }
    there = {name: tokens for name, tokens in there.items() if tokens}
    if not there:
        raise DataError(f"no tokens are kept in any slice of the target ({', '.join(wanted)})")
    scarcest = min(there, key=lambda name: there[name] / wanted[name].tokens)
    if total is not None:
        scale = total / sum(wanted[name].tokens for name in there)
    elif scale is None:
        scale = there[scarcest] / wanted[scarcest].tokens
    found = {name: Target(wanted[name].tokens * scale, wanted[name].epochs) for name in there}
    return found, scale, scarcest


def natural_cut(columns: Mapping[str, NDArray[Any]]) -> Cut | None:
    """The signal to cut by if none is named: a quality classifier's score, else perplexity."""
    scores = sorted(name for name in columns if _SCORE.fullmatch(name))
    if scores:
        return Cut(scores[0], "least")
    if "ccnet_perplexity" in columns:
        return Cut("ccnet_perplexity", "most")
    return None


def fit(name: str, slice_columns: SliceColumns, target: Target, cut: Cut | None) -> SliceBudget:
    """Find the strictest bound that leaves the target.

    Args:
        name: of the slice.
        slice_columns: its documents.
        target: its tokens.
        cut: what to bound; None bounds nothing.

    Raises:
        DataError: the signal is not stored.
    """
    kept = slice_columns.kept
    tokens = np.asarray(slice_columns.tokens, np.int64)
    available, documents = int(tokens[kept].sum()), int(kept.sum())
    whole = SliceBudget(name, target, available, documents, available, documents)
    if cut is None or available <= target.tokens:
        return whole
    if cut.signal not in slice_columns.columns:
        near = ", ".join(sorted(slice_columns.columns)) or "none"
        raise DataError(f"{name}: has no signal {cut.signal}; stored are {near}")
    column = np.asarray(slice_columns.columns[cut.signal])
    scored = ~np.isnan(column)
    rows = np.flatnonzero(kept & scored)
    sign = 1 if cut.side == "most" else -1
    quality = column[rows].astype(np.float64) * sign  # small is good
    order = np.argsort(quality, kind="stable")
    quality, running = quality[order], np.cumsum(tokens[rows][order])
    last = int(np.searchsorted(running, target.tokens))
    if last == len(rows):  # documents without a value, which a bound drops, are needed too
        return whole
    within = int(np.searchsorted(quality, quality[last], "right"))
    inside = sign * float(quality[last])
    outside = sign * float(quality[within]) if within < len(rows) else None
    value = round_bound(inside, outside, cut.side, column.dtype)
    below = float((column[scored] < inside).mean() if cut.side == "least"
                  else (column[scored] <= inside).mean())  # fmt: skip
    return SliceBudget(
        name, target, available, documents, int(running[within - 1]), within, cut, value,
        100 * below, sign * float(quality[-1]),
    )  # fmt: skip


def round_bound(inside: float, outside: float | None, side: Side, dtype: np.dtype[Any]) -> float:
    """Shortest decimal that parts the last value inside from the first outside.

    The parting is checked in the column's own precision, so the recipe's number chooses the same
    documents.
    """
    kind = dtype.type if dtype.kind == "f" else np.float64
    for digits in range(1, 17):
        step = 10.0 ** (digits - 1 - math.floor(math.log10(abs(inside))) if inside else digits)
        toward = math.floor if side == "least" else math.ceil
        bound = toward(inside * step) / step
        as_stored = kind(bound)
        holds = as_stored <= kind(inside) if side == "least" else as_stored >= kind(inside)
        beyond = outside is None or (
            as_stored > kind(outside) if side == "least" else as_stored < kind(outside)
        )
        if holds and beyond:
            return float(bound)
    return inside
