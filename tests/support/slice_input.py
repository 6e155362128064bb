"""All documents that a slice makes of a file or folder, as a recipe's table would have it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alpenglow.data import slices
from alpenglow.data.document import Document, Unit
from alpenglow.data.recipe import SliceRecipe
from alpenglow.data.slices.source import Source


def units(name: str, root: Path, **recipe: Any) -> list[Unit]:
    """List a slice's units; `recipe` is what `[slices.NAME]` says beside `input`."""
    config = Source.of(name, SliceRecipe(input=root, **recipe), unit_bytes=1_000_000)
    return slices.of_name(name).units(config)


def documents(name: str, root: Path, **recipe: Any) -> list[Document]:
    """Read them all, and check what holds for every document of every slice."""
    found: list[Document] = []
    for unit in units(name, root, **recipe):
        found += slices.of_name(name).read(unit, SliceRecipe(input=root, **recipe))
    for document in found:
        assert document.slice == name
        assert document.source
        assert all(size > 0 for size in document.trimmed.values())
        assert all(isinstance(value, str) for value in document.metadata.values())
    return found
