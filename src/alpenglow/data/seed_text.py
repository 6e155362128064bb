"""Seed text: the named files that a model is trained on.

    .txt .md        each file a document
    .jsonl          a document a line, in its key `text`
    .jsonl.gz       the same, compressed
    .h5             a store of documents (alpenglow.data.document_store)
    folder          all such files in it, in the order of their names

A sample is drawn by a keyed hash of each document's text: it depends on the documents and the key,
never on their order or on which file they lie in, and no text is in it twice.
"""

from __future__ import annotations

import gzip
import heapq
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import xxhash

from alpenglow.data.document import DataError
from alpenglow.data.document_store import Store
from alpenglow.data.slices.source import LARGEST, TOO_LARGE, decode, read_up_to

ENDINGS = (".txt", ".md", ".jsonl", ".jsonl.gz", ".h5")
BATCH = 4_000_000


@dataclass
class Seed:
    """Documents of the files and folders named.

    Args:
        paths: what the user named.
    """

    paths: Sequence[Path]
    about: list[dict[str, Any]] = field(default_factory=list)
    """After `texts` has come to its end: name, documents, bytes and xxh3 of each file."""
    skipped: int = 0
    """Documents that could not be used: binary, or larger than 50 MB."""

    def __post_init__(self) -> None:
        self.files = [found for path in self.paths for found in _files(path)]

    def texts(self) -> Iterator[str]:
        """Yield the text of each document that has any.

        Raises:
            DataError: a file that is no text, JSON or store.
        """
        self.about, self.skipped = [], 0
        for name, path in self.files:
            hasher, documents, size = xxhash.xxh3_128(), 0, 0
            for text in _read(path):
                if text is None:
                    self.skipped += 1
                elif text.strip():
                    data = text.encode("utf-8", "surrogatepass")
                    hasher.update(data)
                    documents, size = documents + 1, size + len(data)
                    yield text
            self.about.append(
                {"name": name, "documents": documents, "bytes": size, "xxh3": hasher.hexdigest()}
            )

    def part(self, share: float, key: int = 0) -> Iterator[str]:
        """Yield a random part of the documents, in their order; all of them from a share of 1.

        Args:
            share: of the documents, 0 to 1; memory is that of one document.
            key: another draws another part.
        """
        limit = share * 2.0**128
        for text in self.texts():
            if share >= 1 or text_rank(text, key) < limit:
                yield text

    def sample(self, documents: int, key: int = 0) -> list[str]:
        """Draw documents at random: those whose keyed hash is smallest, in that order.

        Args:
            documents: at most so many; texts that are there twice count once.
            key: another draws another sample.
        """
        return sample(self.texts(), documents, key)


def sample(texts: Iterable[str], documents: int, key: int = 0) -> list[str]:
    """Draw different texts at random; see `Seed.sample`. Memory is that of the sample."""
    heap: list[tuple[int, str]] = []
    inside: set[int] = set()
    for text in texts:
        rank = text_rank(text, key)
        if rank in inside or (len(heap) == documents and rank > -heap[0][0]):
            continue
        inside.add(rank)
        heapq.heappush(heap, (-rank, text))
        if len(heap) > documents:
            inside.remove(-heapq.heappop(heap)[0])
    return [text for _, text in sorted(heap, reverse=True)]


def text_rank(text: str, key: int = 0) -> int:
    """A number that is as good as random (xxh3-128), and equal for equal texts."""
    return xxhash.xxh3_128_intdigest(text.encode("utf-8", "surrogatepass"), seed=key)


def _files(path: Path) -> list[tuple[str, Path]]:
    if path.is_dir():
        found = sorted(
            Path(folder) / name
            for folder, _, names in os.walk(path)
            for name in names
            if name.endswith(ENDINGS) and not name.startswith(".")
        )
        if not found:
            raise DataError(f"{path}: holds no seed text ({', '.join(ENDINGS)})")
        return [(f"{path.name}/{each.relative_to(path).as_posix()}", each) for each in found]
    if not path.is_file():
        raise DataError(f"{path}: the seed text is not there")
    if not path.name.endswith(ENDINGS):
        raise DataError(f"{path}: seed text ends with {', '.join(ENDINGS)}")
    return [(path.name, path)]


def _read(path: Path) -> Iterator[str | None]:
    """Yield texts; None for what cannot be used."""
    try:
        if path.suffix == ".h5":
            with Store(path) as store:
                for batch in store.documents(BATCH):
                    yield from (document.text for document in batch)
        elif path.suffix == ".gz":
            with gzip.open(path, "rb") as packed:
                yield from _json_lines(path, packed)
        elif path.suffix == ".jsonl":
            with path.open("rb") as file:
                yield from _json_lines(path, file)
        else:
            with path.open("rb") as file:
                data = read_up_to(file)
            yield None if data is None else decode(data)
    except (OSError, EOFError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None


def _json_lines(path: Path, file: IO[bytes] | gzip.GzipFile) -> Iterator[str | None]:
    number = 0
    while line := file.readline(LARGEST + 1):
        number += 1
        if len(line) > LARGEST:
            raise DataError(f"{path}: line {number} is {TOO_LARGE}; take it out")
        if not line.strip():
            continue
        try:
            text = json.loads(line)["text"]
        except (ValueError, KeyError, TypeError):
            text = None
        if not isinstance(text, str):
            raise DataError(f"{path}: line {number} is no JSON object with a key text")
        yield text
