"""Books slice: plain text, a book a file."""

from __future__ import annotations

from collections.abc import Iterator

from alpenglow.data.document import Document, Unit, cap, pack
from alpenglow.data.recipe import SliceRecipe
from alpenglow.data.slices.source import Source, whole_files

NAME = "books"
NEEDS = "it reads a folder of .txt files, a book a file, such as PG-19's (never books3)"


def units(config: Source) -> list[Unit]:
    """List books, packed into units; see `slices` for the shape.

    Raises:
        InputAbsent: there is no .txt file.
    """
    inputs = cap(config.files((".txt",), NEEDS), config.recipe.max_bytes)
    return pack(NAME, inputs, config.unit_bytes)


def read(unit: Unit, recipe: SliceRecipe) -> Iterator[Document]:
    """Yield each book."""
    return whole_files(unit)
