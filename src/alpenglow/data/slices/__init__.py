"""The seven slices of the corpus, a module each, all of one shape.

NAME    the slice's name
NEEDS   one sentence: the raw input that it reads
units(config) -> list[Unit]        the raw input, cut into tasks; raises InputAbsent
read(unit) -> Iterator[Document]   one task's documents
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Protocol, cast

from alpenglow.data.document import Document, Unit
from alpenglow.data.slices.source import Source


class Slice(Protocol):
    """What every module of this folder offers."""

    NAME: str
    NEEDS: str

    def units(self, config: Source) -> list[Unit]:
        """List the raw input as units of work."""

    def read(self, unit: Unit) -> Iterator[Document]:
        """Turn one unit into documents."""


def of_name(name: str) -> Slice:
    """Return the module of a slice."""
    return cast(Slice, importlib.import_module(f"alpenglow.data.slices.{name}"))
