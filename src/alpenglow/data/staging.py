"""What the workers do: read, filter and tokenise a unit; write a shard.

A unit's result is one file in the staging folder, `UNIT.npz`, renamed into place when it is whole:
its presence, with the unit's key in it, is the mark that the unit is done. A job that was killed
goes on with the units that have no mark.
"""

from __future__ import annotations

import functools
import io
import json
import os
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alpenglow.data.document import DataError, Document, Unit
from alpenglow.data.filters import Filter
from alpenglow.data.recipe import FilterRecipe
from alpenglow.data.shards import ShardInfo, ShardWriter
from alpenglow.data.slices import of_name
from alpenglow.data.tokenizer import Encoder, Engine, Tokenizer

BATCH_CHARACTERS = 1_000_000
"""Text that is tokenised at once: bounds memory, and long enough to be quick."""


@dataclass(frozen=True)
class Task:
    """What every task of a job needs to know."""

    staging: Path
    tokenizer: Path
    tokenizer_hash: str
    recipe_hash: str
    filters: FilterRecipe
    engine: Engine = "auto"


@dataclass(frozen=True)
class Staged:
    """One unit's result, as the client needs it: a few numbers a document, no text, no tokens."""

    unit: str
    slice: str
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


@dataclass(frozen=True)
class Piece:
    """Documents of one staged unit that go into one shard."""

    path: Path
    rows: NDArray[np.int64]


def sample(unit: Unit, filters: FilterRecipe, size: int) -> list[str]:
    """Return the first kept texts of a unit that make up `size` bytes."""
    keep, texts, total = Filter(filters), [], 0
    for document in of_name(unit.slice).read(unit):
        if total >= size:
            break
        if keep(document) is None:
            texts.append(document.text)
            total += document.bytes
    return texts


def prepare(unit: Unit, task: Task) -> Staged:
    """Read, filter and tokenise a unit, unless that is done already.

    Raises:
        DataError: the raw input is damaged.
    """
    path = task.staging / f"{unit.name}.npz"
    key = f"{unit.key} {task.recipe_hash} {task.tokenizer_hash}"
    staged = _staged(path, key)
    if staged is None:
        _write(path, _read(unit, key, task))
        staged = _staged(path, key)
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
            with np.load(piece.path, allow_pickle=False) as arrays:
                tokens, offset = arrays["tokens"], arrays["offset"]
                identity = arrays["id"].tobytes()
                sources = json.loads(arrays["facts"].tobytes())["sources"]
            for row in piece.rows.tolist():
                writer.add(
                    tokens[offset[row] : offset[row + 1]],
                    identity[16 * row : 16 * row + 16],
                    sources[row],
                )
        return writer.close()


def _read(unit: Unit, key: str, task: Task) -> dict[str, NDArray[Any]]:
    encoder = _encoder(task)
    keep = Filter(task.filters)
    read, dropped = [0, 0], dict[str, list[int]]()
    documents: list[Document] = []
    tokens: list[NDArray[Any]] = []
    facts: list[tuple[bytes, bytes, int, str, str]] = []
    for batch in _batches(of_name(unit.slice).read(unit)):
        documents.clear()
        for document in batch:
            size = document.bytes
            read[0] += 1
            read[1] += size
            reason = keep(document)
            if reason is None:
                documents.append(document)
                facts.append(
                    (document.id, document.text_hash, size, document.licence, document.source)
                )
            else:
                count = dropped.setdefault(reason, [0, 0])
                count[0] += 1
                count[1] += size
        tokens += encoder.encode(
            [document.text for document in documents],
            [f"{document.slice}, {document.source}" for document in documents],
        )
    licences = sorted({fact[3] for fact in facts})
    about = {
        "key": key,
        "unit": unit.name,
        "slice": unit.slice,
        "licences": licences,
        "sources": [fact[4] for fact in facts],
        "read": read,
        "dropped": dropped,
    }
    lengths = np.array([item.size for item in tokens], np.int64)
    return {
        "tokens": np.concatenate(tokens) if tokens else np.empty(0, encoder.dtype),
        "offset": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        "id": np.frombuffer(b"".join(fact[0] for fact in facts), np.uint8),
        "text_hash": np.frombuffer(b"".join(fact[1] for fact in facts), "<u8").reshape(-1, 2),
        "bytes": np.array([fact[2] for fact in facts], np.int64),
        "licence": np.array([licences.index(fact[3]) for fact in facts], np.int32),
        "facts": np.frombuffer(json.dumps(about).encode(), np.uint8),
    }


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    yield batch


def _write(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise DataError(f"{path}: cannot be written ({error.strerror})") from None


def _staged(path: Path, key: str) -> Staged | None:
    """Read back a unit's mark; None where there is none, or one of other input."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            about = json.loads(arrays["facts"].tobytes())
            if about["key"] != key:
                return None
            return Staged(
                unit=about["unit"],
                slice=about["slice"],
                path=path,
                text_hash=arrays["text_hash"],
                bytes=arrays["bytes"],
                tokens=np.diff(arrays["offset"]),
                licence=arrays["licence"],
                licences=tuple(about["licences"]),
                read=tuple(about["read"]),
                dropped={reason: tuple(count) for reason, count in about["dropped"].items()},
            )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None  # a mark that cannot be read is no mark: the unit is done again


def _encoder(task: Task) -> Encoder:
    return _loaded(task.tokenizer, task.tokenizer_hash, task.engine)


@functools.lru_cache(maxsize=1)
def _loaded(path: Path, tokenizer_hash: str, engine: Engine) -> Encoder:
    tokenizer = Tokenizer.load(path)
    if tokenizer.hash != tokenizer_hash:
        raise DataError(f"{path}: the tokenizer changed while the job ran; start again")
    return tokenizer.encoder(engine)
