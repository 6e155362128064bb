"""Where a slice's raw input lies: what `units` is given, and the files found there."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from alpenglow.data.document import Document, Input, InputAbsent, Unit
from alpenglow.data.recipe import SliceRecipe

LARGEST = 50_000_000
"""Bytes of a document's raw text; a larger one is a fault, so that no worker's memory depends on
what a crawl holds: a log of 1 GB in one line, an archive that unpacks to a thousand times its size.
"""
TOO_LARGE = "larger than 50 MB"
"""The fault of such a document."""


@dataclass(frozen=True)
class Source:
    """A slice's part of the recipe, with its paths resolved."""

    name: str
    recipe: SliceRecipe
    root: Path
    """File or folder of raw input; for a wheel, the folder that it is downloaded to."""
    unit_bytes: int

    @classmethod
    def of(cls, name: str, recipe: SliceRecipe, unit_bytes: int) -> Source:
        """Resolve `input`: `raw/NAME` if absent, `raw` for a wheel."""
        default = Path("raw") if recipe.origin == "wheel" else Path("raw") / name
        return cls(name, recipe, recipe.input or default, unit_bytes)

    def files(self, endings: Collection[str], needs: str) -> list[Input]:
        """List the raw files in the order of their names.

        Args:
            endings: what the names of raw files end with.
            needs: the slice's sentence, for the error.

        Raises:
            InputAbsent: nothing is there, or nothing with one of these endings.
        """
        self.expect_folder(needs)
        if not self.root.exists():
            raise InputAbsent(f"{self.name}: {self.root} is not there; {needs}")
        if self.root.is_file():
            paths, base = [self.root], self.root.parent
        else:
            paths, base = sorted(_walk(self.root)), self.root
        found = [path for path in paths if path.name.lower().endswith(tuple(endings))]
        if not found:
            raise InputAbsent(
                f"{self.name}: {self.root} holds no file with ending {', '.join(endings)}; {needs}"
            )
        return [_input(path, path.relative_to(base).as_posix(), self.licence) for path in found]

    def expect_folder(self, needs: str) -> None:
        """Refuse an origin that the slice does not know.

        Raises:
            InputAbsent: the recipe asks for another origin than a folder.
        """
        if self.recipe.origin != "folder":
            raise InputAbsent(
                f"{self.name}: origin = {self.recipe.origin!r} is not known to this slice; {needs}"
            )

    @property
    def licence(self) -> str:
        """Return what is noted where a document states nothing itself."""
        return self.recipe.licence


def _input(path: Path, source: str, licence: str) -> Input:
    status = path.stat()
    return Input(str(path), source, licence, status.st_size, status.st_mtime_ns)


def _walk(root: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder) / name
            if not name.startswith(".") and path.is_file():
                yield path


def decode(data: bytes) -> str | None:
    """Decode a text file: UTF-8, with or without a mark, else Latin-1; None for binary data."""
    if b"\0" in data:
        return None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_up_to(file: IO[bytes], limit: int = LARGEST) -> bytes | None:
    """Read a file or member of an archive; None where it holds more than `limit` bytes."""
    data = file.read(limit + 1)
    return None if len(data) > limit else data


def whole_files(unit: Unit) -> Iterator[Document]:
    """Read a unit whose every input is one document."""
    for item in unit.inputs:
        with Path(item.path).open("rb") as file:
            data = read_up_to(file)
        text = None if data is None else decode(data)
        if text is None:
            fault = TOO_LARGE if data is None else "binary"
            yield Document("", unit.slice, item.source, item.licence, fault=fault, size=item.size)
        else:
            yield Document(text, unit.slice, item.source, item.licence)


def up_to(documents: Iterator[Document], limit: int | None) -> Iterator[Document]:
    """Pass documents on until they reach `limit` bytes."""
    total = 0
    for document in documents:
        yield document
        total += document.bytes
        if limit is not None and total >= limit:
            return
