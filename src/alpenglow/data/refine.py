"""Paragraphs that came before: a store of documents to a store without its repeated lines.

Menus, notices and mastheads stand on every page of a site. After cc_net (Wenzek et al. 2020, 3.2) a
line goes whose normalised form was seen before: in an earlier document of the unit, or in an
earlier unit of its group. First every unit that others are compared with writes the sorted hashes
of its lines, `SLICE-KEY.lines.npy`; then each looks its own up in those, memory-mapped. What goes
depends on the order of the units alone, never on who was done first.

cc_net's own code takes out every occurrence of a repeated line, the first one too: mode `faithful`
does so, and looks into all other units of the group.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from alpenglow.data import paragraphs
from alpenglow.data.collect import BATCH_BYTES, Collecting, collect
from alpenglow.data.document import DataError, Document, Unit
from alpenglow.data.document_store import Store, StoreWriter

FORMAT = 1
REPEATED = "repeated paragraphs"
"""What the lines that go are counted as."""
NOTHING_LEFT = "nothing but repeated paragraphs"


@dataclass(frozen=True)
class Earlier:
    """The other units that one is compared with: files of hashes, and a mark of all of them."""

    files: tuple[Path, ...]
    mark: str

    @classmethod
    def of(cls, units: tuple[Unit, ...], about: Collecting) -> Earlier:
        """Name the files of these units: those before it in its group; all others if faithful."""
        marks = [about.mark(unit) for unit in units]
        return cls(tuple(hashes_of(about, unit) for unit in units), xxhash.xxh3_64_hexdigest(
            " ".join(marks).encode()))  # fmt: skip


def hash_lines(unit: Unit, about: Collecting) -> None:
    """Write the sorted hashes of a unit's lines, unless they are there; 8 bytes a different line.

    Raises:
        DataError: as of `collect`, or the file system refuses.
    """
    path = hashes_of(about, unit)
    if _load(path) is not None:
        return
    with collect(unit, about) as store:
        found = paragraphs.unique_hashes(_texts(store))
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            np.save(file, found)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error})") from None
    finally:
        temporary.unlink(missing_ok=True)


def refine(unit: Unit, about: Collecting, earlier: Earlier) -> Store:
    """Write a unit's store without repeated lines, unless it is there; returns it, open.

    Raises:
        DataError: as of `collect`, an earlier unit's hashes are gone, or the file system refuses.
    """
    mark = xxhash.xxh3_128_hexdigest(f"{about.mark(unit)} {earlier.mark} {FORMAT}".encode())
    path = about.folder / f"{unit.slice}-{mark[:16]}.refined.h5"
    found = Store.find(path, mark)
    if found is not None:
        return found
    before: list[NDArray[np.uint64]] = []
    for file in earlier.files:
        hashes = _load(file)
        if hashes is None:
            raise DataError(f"{file}: the hashes of an earlier unit are gone or cut; start again")
        before.append(hashes)
    with collect(unit, about) as store, StoreWriter(path, mark, unit.slice) as writer:
        seen: set[int] | None = set()
        if about.recipe.mode == "faithful":
            before.append(paragraphs.repeated_hashes(_texts(store)))
            seen = None
        for batch in store.documents(BATCH_BYTES):
            kept: list[Document] = []
            for document in _refined(batch, before, seen):
                if document.fault:
                    writer.drop(document, document.fault)
                else:
                    kept.append(document)
            writer.add(kept)
        writer.close()
    return Store(path)


def _refined(
    batch: list[Document], before: list[NDArray[np.uint64]], seen: set[int] | None
) -> Iterator[Document]:
    texts = [document.text for document in batch]
    if seen is None:  # within a document cc_net keeps the first
        texts = [paragraphs.without_repeated([text], before, set())[0] for text in texts]
    else:
        texts = paragraphs.without_repeated(texts, before, seen)
    for document, text in zip(batch, texts, strict=True):
        metadata = {
            **document.metadata,
            "original_length": str(len(document.text)),
            "original_nlines": str(document.text.count("\n") + 1),
        }
        if text.strip():
            yield dataclasses.replace(
                document,
                text=text,
                metadata=metadata,
                trimmed={REPEATED: document.bytes - len(text.encode("utf-8", "surrogatepass"))}
                if text != document.text
                else {},
            )
        else:
            yield dataclasses.replace(document, fault=NOTHING_LEFT, size=document.bytes)


def _texts(store: Store) -> Iterator[str]:
    for first, last in store.batches(BATCH_BYTES):
        yield from store.texts(first, last)


def hashes_of(about: Collecting, unit: Unit) -> Path:
    """Name the file of a unit's hashes."""
    return about.path(unit).with_suffix(".lines.npy")


def _load(path: Path) -> NDArray[Any] | None:
    """Map the hashes; None where there are none, or they are cut."""
    try:
        return np.asarray(np.load(path, mmap_mode="r"))
    except (OSError, ValueError, EOFError):
        return None
