"""Raw text to document stores: what a worker does first with a unit.

`collect(unit, about)` reads a unit with its slice's reader, masks personal data where the recipe
asks for it and writes one store (alpenglow.data.document_store), named by what it was made from: it
is made once, whatever filters, tokenizer, number of workers or restarts come after. A document in
which something goes wrong is counted and its beginning kept; it never ends the unit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import xxhash

from alpenglow.data.document import Document, Unit
from alpenglow.data.document_store import Store, StoreWriter
from alpenglow.data.personal_data import Masks
from alpenglow.data.recipe import SliceRecipe
from alpenglow.data.slices import of_name

BATCH_BYTES = 8_000_000
"""Text that is held at once: bounds memory, and long enough to be quick."""


@dataclass(frozen=True)
class Collecting:
    """What decides the documents of a slice's units.

    Args:
        folder: where the stores lie.
        recipe: the slice's part of the recipe.
        key: `PrepareRecipe.collecting` of it.
    """

    folder: Path
    recipe: SliceRecipe
    key: str

    def path(self, unit: Unit) -> Path:
        """The store of a unit: its name changes with the input and with the slice's recipe."""
        return self.folder / f"{unit.slice}-{self.mark(unit)[:16]}.h5"

    def mark(self, unit: Unit) -> str:
        """What the store says it was made from, 32 hex digits."""
        return xxhash.xxh3_128_hexdigest(f"{unit.key} {self.key}".encode())


def collect(unit: Unit, about: Collecting) -> Store:
    """Read a unit, unless that is done already; returns its store, open.

    Raises:
        DataError: the raw input cannot be used at all, or the store cannot be written.
    """
    path, mark = about.path(unit), about.mark(unit)
    found = Store.find(path, mark)
    if found is None:
        with StoreWriter(path, mark, unit.slice) as writer:
            masks = Masks(about.recipe.mask)
            for batch in batches(read(unit, about.recipe)):
                good = []
                for document in batch:
                    if document.fault:
                        writer.drop(document, document.fault)
                    else:
                        good.append(_masked(document, masks, writer))
                writer.add(good)
            writer.close()
        found = Store(path)
    return found


def _masked(document: Document, masks: Masks, writer: StoreWriter) -> Document:
    text, masked = masks.mask(document.text)
    if not masked:
        return document
    trimmed = dict(document.trimmed)
    for rule, (occurrences, size) in masked.items():
        writer.mask(rule, occurrences)
        trimmed[f"masked {rule}"] = size
    return dataclasses.replace(document, text=text, trimmed=trimmed, identity=document.id)


def read(unit: Unit, recipe: SliceRecipe) -> Iterator[Document]:
    """Yield a unit's documents."""
    return of_name(unit.slice).read(unit, recipe)


def batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    """Group documents into lists of about `BATCH_BYTES` of text."""
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
