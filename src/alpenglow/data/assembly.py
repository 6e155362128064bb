"""From staged units to shards: exact duplicates, the cut into shards, the ledger, the swap.

Everything here depends on the units in the order of their names, never on which worker did what
when: the same input gives the same bytes for any number of workers.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alpenglow.data.catalogue import NAME as CATALOGUE
from alpenglow.data.catalogue import Catalogue
from alpenglow.data.document import DataError
from alpenglow.data.ledger import Ledger
from alpenglow.data.order import tail_tokens
from alpenglow.data.selection import Staged
from alpenglow.data.staging import Piece

DUPLICATE = "exact duplicate"
LEDGER = "ledger.json"
REJECTS = "rejects.jsonl"


@dataclass(frozen=True)
class Plan:
    """One shard to be written."""

    file: str
    slice: str
    pieces: tuple[Piece, ...]


def first_of_each(staged: Sequence[Staged]) -> list[NDArray[np.bool_]]:
    """Mark, for each unit, the documents whose text no earlier document has.

    Texts are compared by xxh3-128. Held in memory: about 40 bytes a document.
    """
    if not staged:
        return []
    hashes = np.concatenate([unit.text_hash for unit in staged])
    # lexsort is stable: among equal hashes the earliest document comes first.
    order = np.lexsort((hashes[:, 1], hashes[:, 0]))
    ordered = hashes[order]
    new = np.ones(len(hashes), bool)
    new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    first = np.empty(len(hashes), bool)
    first[order] = new
    borders = np.cumsum([len(unit.text_hash) for unit in staged])[:-1]
    return [np.asarray(part, bool) for part in np.split(first, borders)]


def plan_shards(
    staged: Sequence[Staged], kept: Sequence[NDArray[np.bool_]], shard_tokens: int
) -> list[Plan]:
    """Cut each slice into shards; the document that reaches `shard_tokens` closes one."""
    plans: list[Plan] = []
    for name in dict.fromkeys(unit.slice for unit in staged):
        open_pieces: list[Piece] = []
        tokens = number = 0
        for unit, keep in zip(staged, kept, strict=True):
            if unit.slice != name:
                continue
            rows = np.flatnonzero(keep)
            while rows.size:
                total = tokens + np.cumsum(unit.tokens[rows])
                count = int(np.searchsorted(total, shard_tokens)) + 1
                taken, rows = rows[:count], rows[count:]
                open_pieces.append(Piece(unit.store, unit.path, unit.rows[taken]))
                tokens = int(total[taken.size - 1])
                if tokens >= shard_tokens:
                    plans.append(Plan(f"{name}-{number:05d}.h5", name, tuple(open_pieces)))
                    open_pieces, tokens, number = [], 0, number + 1
        if open_pieces:
            plans.append(Plan(f"{name}-{number:05d}.h5", name, tuple(open_pieces)))
    return plans


def account(
    staged: Sequence[Staged], kept: Sequence[NDArray[np.bool_]], skipped: Mapping[str, str]
) -> Ledger:
    """Add up what was read, kept and dropped.

    Raises:
        DataError: it does not add up.
    """
    ledger = Ledger(skipped=dict(skipped))
    for unit, keep in zip(staged, kept, strict=True):
        book = ledger.slice(unit.slice)
        for stage in unit.stages:
            book.stage(stage.name).include(stage)
        different = book.stage("duplicates")
        different.read.add(len(keep), int(unit.bytes.sum()), int(unit.tokens.sum()))
        different.rules = (DUPLICATE,)
        twice = ~keep
        if twice.any():
            different.drop(
                DUPLICATE,
                int(twice.sum()),
                int(unit.bytes[twice].sum()),
                int(unit.tokens[twice].sum()),
            )
        for index, licence in enumerate(unit.licences):
            rows = keep & (unit.licence == index)
            if rows.any():
                size, tokens = int(unit.bytes[rows].sum()), int(unit.tokens[rows].sum())
                different.kept.add(int(rows.sum()), size, tokens)
                book.licence(licence).add(int(rows.sum()), size, tokens)
    ledger.check()
    return ledger


def tails(catalogue: Catalogue, sequence_length: int) -> dict[str, Any]:
    """Count, for each slice, the tokens at the ends of shards that no training window reaches."""
    tokens = dict.fromkeys(catalogue.slices, 0)
    for shard in catalogue.shards:
        tokens[shard.slice] += tail_tokens(shard.tokens, sequence_length)
    return {"sequence_length": sequence_length, "tokens": tokens}


def open_building(output: Path) -> Path:
    """Give an empty folder beside `output` to build in; put back what a killed swap left aside.

    Raises:
        DataError: `output` is there and is no folder of shards: it would be replaced.
    """
    aside, building = _aside(output), output.with_name(f".{output.name}.building")
    if aside.exists():
        if output.exists():
            shutil.rmtree(aside)
        else:
            aside.rename(output)
    shards = output.is_dir() and ((output / CATALOGUE).exists() or not any(output.iterdir()))
    if output.exists() and not shards:
        raise DataError(
            f"{output}: there is something here that is no folder of shards, and it would be "
            f"replaced; name another folder as output, or remove it"
        )
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    return building


def swap(building: Path, output: Path) -> None:
    """Put a finished folder in the place of `output`.

    A reader finds the old folder or the new one, whole; between two renames it finds none. A job
    that is killed there leaves the old one aside, and the next start puts it back.
    """
    descriptor = os.open(building, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    aside = _aside(output)
    if output.exists():
        output.rename(aside)
    building.rename(output)
    shutil.rmtree(aside, ignore_errors=True)


def _aside(output: Path) -> Path:
    return output.with_name(f".{output.name}.old")
