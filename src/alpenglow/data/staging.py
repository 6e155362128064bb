"""What the workers do with a unit, step by step, and how they write a shard.

    raw input -> store -> without repeated paragraphs -> columns -> tokens -> choice -> shard

Each step's result is a file named by what it was made from, renamed into place when it is whole:
its presence is the mark that this step is done. A job that was killed, or whose recipe changed,
does again what has no such file, and nothing else.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from alpenglow.data import selection, token_file
from alpenglow.data.annotate import Annotating, annotate
from alpenglow.data.collect import BATCH_BYTES, Collecting, collect
from alpenglow.data.document import DataError, Unit
from alpenglow.data.document_store import Store
from alpenglow.data.filters import Rule
from alpenglow.data.refine import Earlier, refine
from alpenglow.data.selection import Prepared
from alpenglow.data.shards import ShardInfo, ShardWriter
from alpenglow.data.tokenizer import Encoder, Engine, Tokenizer


@dataclass(frozen=True)
class Task:
    """What every task of a slice needs to know."""

    collecting: Collecting
    annotating: Annotating


@dataclass(frozen=True)
class Tokenising:
    """The tokenizer of a job, as its workers load it."""

    path: Path
    hash: str
    engine: Engine = "auto"


@dataclass(frozen=True)
class Piece:
    """Documents of one unit that go into one shard."""

    store: Path
    path: Path
    """Their tokens."""
    rows: NDArray[np.int64]
    """Places in the store, ascending."""


def read_once(unit: Unit, task: Task, earlier: Earlier | None) -> None:
    """Do what comes before the tokenizer, unless it is done; errors as of `prepare`."""
    with _documents(unit, task, earlier) as store:
        annotate(store, task.annotating)


def sample(
    unit: Unit, task: Task, earlier: Earlier | None, rules: Sequence[Rule], size: int
) -> list[str]:
    """Return the first kept texts of a unit that make up `size` bytes."""
    texts, total = list[str](), 0
    with _documents(unit, task, earlier) as store:
        columns = annotate(store, task.annotating)
        for row in selection.first_kept(store, columns, rules).tolist():
            if total >= size:
                break
            texts += store.texts(row, row + 1)
            total += int(store.sizes[row])
    return texts


def prepare(unit: Unit, task: Task, earlier: Earlier | None, tokenising: Tokenising) -> Prepared:
    """Do all that has to do with a unit's text, unless it is done.

    Raises:
        DataError: the raw input is damaged, a model cannot be read, or the file system refuses.
    """
    with _documents(unit, task, earlier) as store:
        return Prepared(
            store.path,
            task.collecting.path(unit),
            annotate(store, task.annotating),
            token_file.tokenise(store, _encoder(tokenising), tokenising.hash),
        )


def _documents(unit: Unit, task: Task, earlier: Earlier | None) -> Store:
    if earlier is None:
        return collect(unit, task.collecting)
    return refine(unit, task.collecting, earlier)


def write_shard(
    path: Path, slice_name: str, pieces: Sequence[Piece], tokenising: Tokenising, recipe_hash: str
) -> ShardInfo:
    """Write one shard from documents of units, in the order given."""
    with ShardWriter(
        path,
        slice=slice_name,
        dtype=_encoder(tokenising).dtype,
        tokenizer_hash=tokenising.hash,
        recipe_hash=recipe_hash,
    ) as writer:
        for piece in pieces:
            _copy(piece, writer)
        return writer.close()


def _copy(piece: Piece, writer: ShardWriter) -> None:
    offset = token_file.offsets(piece.path)
    with Store(piece.store) as store, h5py.File(piece.path, "r") as file:
        for rows in _runs(piece.rows, offset):
            first, last = int(rows[0]), int(rows[-1]) + 1
            tokens = np.asarray(file["tokens"][offset[first] : offset[last]])
            facts = store.facts(first, last)
            for row in rows.tolist():
                fact = facts[row - first]
                writer.add(
                    tokens[offset[row] - offset[first] : offset[row + 1] - offset[first]],
                    bytes(store.ids[row]),
                    fact["source"],
                    url=fact.get("url", ""),
                    licence=fact["licence"],
                    timestamp=fact.get("timestamp", ""),
                )


def _runs(rows: NDArray[np.int64], offset: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Cut rows, ascending, into groups that span at most `BATCH_BYTES` tokens, or are one row."""
    first = 0
    while first < len(rows):
        most = offset[rows[first]] + BATCH_BYTES
        last = max(first + 1, int(np.searchsorted(offset[rows + 1], most, "right")))
        yield rows[first:last]
        first = last


@functools.lru_cache(maxsize=1)
def _encoder(tokenising: Tokenising) -> Encoder:
    tokenizer = Tokenizer.load(tokenising.path)
    if tokenizer.hash != tokenising.hash:
        raise DataError(f"{tokenising.path}: the tokenizer changed while the job ran; start again")
    return tokenizer.encoder(tokenising.engine)
