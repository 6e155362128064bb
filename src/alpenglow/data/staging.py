"""What the workers do: read, filter and tokenise a unit; write a shard.

A unit's result is two files: its store of documents (alpenglow.data.collect), and here the tokens
of those that the filters keep, `SLICE-KEY.tokens.h5`. Each is renamed into place when it is whole:
its presence, with its key in it, is the mark that this part is done. A job that was killed goes on
with the parts that have no mark.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from alpenglow.data.collect import BATCH_BYTES, Collecting, collect
from alpenglow.data.document import DataError, Unit
from alpenglow.data.document_store import Store
from alpenglow.data.filters import Filter
from alpenglow.data.recipe import FilterRecipe
from alpenglow.data.shards import ShardInfo, ShardWriter
from alpenglow.data.tokenizer import Encoder, Engine, Tokenizer


@dataclass(frozen=True)
class Task:
    """What every task of a job needs to know."""

    collecting: Collecting
    staging: Path
    tokenizer: Path
    tokenizer_hash: str
    recipe_hash: str
    filters: FilterRecipe
    filtering: str
    """`PrepareRecipe.filtering`: what decides the tokens of a store."""
    engine: Engine = "auto"


@dataclass(frozen=True)
class Staged:
    """One unit's result, as the client needs it: a few numbers a document, no text, no tokens."""

    unit: str
    slice: str
    store: Path
    path: Path
    text_hash: NDArray[np.uint64]
    """Shape (documents, 2)."""
    bytes: NDArray[np.int64]
    tokens: NDArray[np.int64]
    licence: NDArray[np.int32]
    """Index into `licences`."""
    licences: tuple[str, ...]
    read: tuple[int, int]
    """Documents and bytes read."""
    dropped: dict[str, tuple[int, int]]
    """Reason -> documents and bytes."""
    trimmed: dict[str, tuple[int, int]]
    """Rule -> documents it shortened, and bytes it took out of those that are kept."""


@dataclass(frozen=True)
class Piece:
    """Documents of one staged unit that go into one shard."""

    store: Path
    path: Path
    rows: NDArray[np.int64]


def read_once(unit: Unit, collecting: Collecting) -> None:
    """Make a unit's store, unless it is there; errors as of `collect`."""
    collect(unit, collecting).close()


def sample(unit: Unit, collecting: Collecting, filters: FilterRecipe, size: int) -> list[str]:
    """Return the first kept texts of a unit that make up `size` bytes."""
    keep, texts, total = Filter(filters), list[str](), 0
    with collect(unit, collecting) as store:
        for batch in store.documents(min(size, BATCH_BYTES)):
            for document in batch:
                if total >= size:
                    return texts
                if keep(document) is None:
                    texts.append(document.text)
                    total += document.bytes
    return texts


def prepare(unit: Unit, task: Task) -> Staged:
    """Read, filter and tokenise a unit, unless that is done already.

    Raises:
        DataError: the raw input is damaged, or the file system refuses.
    """
    with collect(unit, task.collecting) as store:
        path = task.staging / f"{store.path.stem}.tokens.h5"
        key = f"{store.key} {task.filtering}"
        staged = _staged(unit, store, path, key)
        if staged is None:
            _tokenise(store, path, key, task)
            staged = _staged(unit, store, path, key)
    if staged is None:
        raise DataError(f"{path}: was written and cannot be read back: is the disk in order?")
    return staged


def write_shard(path: Path, slice_name: str, pieces: Sequence[Piece], task: Task) -> ShardInfo:
    """Write one shard from staged documents, in the order given."""
    dtype = _encoder(task).dtype
    with ShardWriter(
        path,
        slice=slice_name,
        dtype=dtype,
        tokenizer_hash=task.tokenizer_hash,
        recipe_hash=task.recipe_hash,
    ) as writer:
        for piece in pieces:
            _copy(piece, writer)
        return writer.close()


def _copy(piece: Piece, writer: ShardWriter) -> None:
    with Store(piece.store) as store, h5py.File(piece.path, "r") as file:
        offset, row_of = np.asarray(file["offset"]), np.asarray(file["row"])
        for rows in _runs(piece.rows, offset):
            first, last = int(rows[0]), int(rows[-1]) + 1
            tokens = np.asarray(file["tokens"][offset[first] : offset[last]])
            start = int(row_of[first])
            facts = store.facts(start, int(row_of[last - 1]) + 1)
            for row in rows.tolist():
                at, fact = int(row_of[row]), facts[int(row_of[row]) - start]
                writer.add(
                    tokens[offset[row] - offset[first] : offset[row + 1] - offset[first]],
                    bytes(store.ids[at]),
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


def _tokenise(store: Store, path: Path, key: str, task: Task) -> None:
    encoder = _encoder(task)
    keep = Filter(task.filters)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    dropped: dict[str, list[int]] = {}
    licences: dict[str, int] = {}
    rows: list[int] = []
    lengths: list[int] = []
    licence: list[int] = []
    try:
        with h5py.File(temporary, "w", libver="latest") as file:
            tokens = file.create_dataset(
                "tokens", (0,), encoder.dtype, maxshape=(None,), chunks=(1 << 18,)
            )
            sizes = store.sizes
            at = 0
            for batch in store.documents(BATCH_BYTES):
                texts: list[str] = []
                named: list[str] = []
                for document in batch:
                    reason = keep(document)
                    if reason is None:
                        texts.append(document.text)
                        named.append(f"{document.slice}, {document.source}")
                        rows.append(at)
                        licence.append(licences.setdefault(document.licence, len(licences)))
                    else:
                        count = dropped.setdefault(reason, [0, 0])
                        count[0] += 1
                        count[1] += int(sizes[at])
                    at += 1
                encoded = encoder.encode(texts, named)
                lengths += [item.size for item in encoded]
                if encoded:
                    before = tokens.shape[0]
                    tokens.resize(before + sum(item.size for item in encoded), axis=0)
                    tokens[before:] = np.concatenate(encoded)
            file["offset"] = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
            file["row"] = np.array(rows, np.int64)
            file["licence"] = np.array(licence, np.int32)
            about = {"key": key, "dropped": dropped, "licences": list(licences)}
            file["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error})") from None
    finally:
        temporary.unlink(missing_ok=True)


def _staged(unit: Unit, store: Store, path: Path, key: str) -> Staged | None:
    """Read back a unit's mark; None where there is none, or one of other input."""
    if not path.exists():
        return None
    try:
        with h5py.File(path, "r") as file:
            about = json.loads(np.asarray(file["about"]).tobytes())
            if about["key"] != key:
                return None
            rows = np.asarray(file["row"])
            dropped = {reason: tuple(count) for reason, count in about["dropped"].items()}
            for reason, count in store.dropped.items():
                there = dropped.get(reason, (0, 0))
                dropped[reason] = (there[0] + count[0], there[1] + count[1])
            return Staged(
                unit=unit.name,
                slice=unit.slice,
                store=store.path,
                path=path,
                text_hash=store.text_hash[rows],
                bytes=store.sizes[rows],
                tokens=np.diff(np.asarray(file["offset"])),
                licence=np.asarray(file["licence"]),
                licences=tuple(about["licences"]),
                read=store.read,
                dropped=dropped,
                trimmed=store.trimmed,
            )
    except (OSError, ValueError, KeyError):
        return None  # a mark that cannot be read is no mark: the unit is done again


def _encoder(task: Task) -> Encoder:
    return _loaded(task.tokenizer, task.tokenizer_hash, task.engine)


@functools.lru_cache(maxsize=1)
def _loaded(path: Path, tokenizer_hash: str, engine: Engine) -> Encoder:
    tokenizer = Tokenizer.load(path)
    if tokenizer.hash != tokenizer_hash:
        raise DataError(f"{path}: the tokenizer changed while the job ran; start again")
    return tokenizer.encoder(engine)
