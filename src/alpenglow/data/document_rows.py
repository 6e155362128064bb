"""Documents of a catalogue by where they lie: what their shards say of them.

chosen = choose(catalogue, index, "domain", ["example.org"])
for found in records(catalogue, chosen): ...
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from alpenglow.data.catalogue import Catalogue
from alpenglow.data.checksums import FACTS
from alpenglow.data.document import DataError
from alpenglow.data.document_index import DocumentIndex
from alpenglow.data.index_keys import domains, host, normal
from alpenglow.data.index_table import Numbers
from alpenglow.data.shards import ShardError

FEW = 64
"""So many rows of a column are read one by one; of more, all of it."""

Chosen = Mapping[int, NDArray[np.int64]]
"""Place of a shard in the catalogue -> rows of documents in it, ascending."""


@dataclass(frozen=True)
class Record:
    """One document as its shard knows it."""

    shard: int
    row: int
    id: bytes
    facts: Mapping[str, str]
    """By the names of `FACTS`."""
    tokens: int
    removed: bool


def candidates(index: DocumentIndex, kind: str, values: Sequence[str]) -> Numbers:
    """Numbers of the documents that may have one of some values, ascending."""
    found = [index.find(kind, value) for value in values]
    return found[0] if len(found) == 1 else np.unique(np.concatenate(found))


def choose(
    catalogue: Catalogue, index: DocumentIndex, kind: str, values: Sequence[str]
) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Find the documents that have one of some values, each compared with its shard.

    Returns:
        Places of shards in the catalogue with the rows of documents in them; one after the other,
        so that who wants a few reads a few.

    Raises:
        ShardError: a shard is not readable.
    """
    wanted = {normal(kind, value) for value in values}
    column = "url" if kind == "domain" else kind
    for shard, rows in index.by_shard(candidates(index, kind, values)):
        found = column_of(catalogue.folder / catalogue.shards[shard].file, column, rows)
        same = np.array([bool(wanted.intersection(_values(kind, one))) for one in found], bool)
        if same.any():
            yield shard, rows[same]


def _values(kind: str, value: str) -> Sequence[str]:
    if kind == "domain":
        return domains(host(value))
    return [normal(kind, value)] if value else []


def column_of(path: Path, name: str, rows: NDArray[np.int64]) -> list[str]:
    """Ids (hex) or a fact of some documents of a shard; rows ascend.

    Raises:
        ShardError: not readable.
    """
    try:
        with h5py.File(path, "r") as file:
            documents = file["documents"]
            if name not in documents:
                return [""] * len(rows)
            dataset = documents[name]
            if name == "id":
                return [bytes(one).hex() for one in dataset[:][rows]]
            text = dataset.asstr()
            if len(rows) <= FEW:
                return [str(text[row]) for row in rows.tolist()]
            return [str(one) for one in text[:][rows]]
    except (OSError, KeyError, ValueError, IndexError) as error:
        raise ShardError(f"{path}: its list of documents is not readable ({error})") from None


def records(catalogue: Catalogue, shard: int, rows: NDArray[np.int64]) -> Iterator[Record]:
    """What is known of some documents of a shard."""
    path = catalogue.folder / catalogue.shards[shard].file
    columns = {name: column_of(path, name, rows) for name in ("id", *FACTS)}
    opened = catalogue.open(shard)
    starts, removed = opened.document_starts, opened.removed
    for at, row in enumerate(rows.tolist()):
        yield Record(
            shard,
            row,
            bytes.fromhex(columns["id"][at]),
            {name: columns[name][at] for name in FACTS},
            int(starts[row + 1]) - int(starts[row]),
            removed is not None and bool(removed[row]),
        )


def lawful(kind: str, values: Sequence[str]) -> list[str]:
    """Values as they are looked up, in order and each once.

    Raises:
        DataError: an id that is not 32 hexadecimal digits, or an empty value.
    """
    for value in values:
        if not value.strip():
            raise DataError(f"--{kind}: an empty value would mean every document without one")
        if kind == "id" and (len(value) != 32 or set(value.lower()) - set("0123456789abcdef")):
            raise DataError(f"{value!r} is no id of a document: an id has 32 hexadecimal digits")
        if kind == "domain" and ("." not in value and not normal(kind, value)):
            raise DataError(f"{value!r} is no domain")
    return list(dict.fromkeys(one.lower() if kind == "id" else one for one in values))


def nearest(catalogue: Catalogue, kind: str, value: str) -> str:
    """Words that name what is there instead, for a sentence; of licences alone, which are few."""
    if kind != "licence":
        return ""
    names: set[str] = set()
    for info in catalogue.shards:
        try:
            with h5py.File(catalogue.folder / info.file, "r") as file:
                if "licence" in file["documents"]:
                    names |= {str(one) for one in set(file["documents/licence"].asstr()[:])}
        except OSError:
            continue
    near = difflib.get_close_matches(value, sorted(names - {""}), 3, 0.5)
    return f"; there is {', '.join(near)}" if near else ""
