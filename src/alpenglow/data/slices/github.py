"""GitHub slice: source code, a file a document.

Without a dump it reads what any machine has: the Python standard library and installed packages.
"""

from __future__ import annotations

from collections.abc import Iterator

from alpenglow.data.document import Document, Input, InputAbsent, Unit, cap, pack
from alpenglow.data.recipe import SliceRecipe
from alpenglow.data.slices import installed
from alpenglow.data.slices.source import Source, whole_files

NAME = "github"
NEEDS = "it reads a folder of source files (input), or this Python's own (origin = 'installed')"
ENDINGS = (
    ".py", ".pyx", ".pyi", ".c", ".h", ".cc", ".cpp", ".hpp", ".cu", ".cuh", ".js", ".ts", ".java",
    ".go", ".rs", ".rb", ".pl", ".php", ".lua", ".r", ".jl", ".f90", ".scala", ".hs", ".sh", ".sql",
)  # fmt: skip


def units(config: Source) -> list[Unit]:
    """List source files, packed into units; see `slices` for the shape.

    Raises:
        InputAbsent: there is no source file.
    """
    if config.recipe.origin == "installed":
        inputs = cap(_installed(), config.recipe.max_bytes)
        if not inputs:
            raise InputAbsent(f"{NAME}: this Python has no source files beside it; {NEEDS}")
    else:
        inputs = cap(config.files(ENDINGS, NEEDS), config.recipe.max_bytes)
    return pack(NAME, inputs, config.unit_bytes)


def _installed() -> Iterator[Input]:
    for item in installed.files():
        found = item.input() if item.path.endswith(ENDINGS) else None
        if found is not None:
            yield found


def read(unit: Unit, recipe: SliceRecipe) -> Iterator[Document]:
    """Yield each file."""
    return whole_files(unit)
