"""GitHub slice: source code, a file a document.

Without a dump it reads what any machine has: the Python standard library and installed packages.
"""

from __future__ import annotations

from collections.abc import Iterator

from alpenglow.data.document import Document, Input, InputAbsent, Unit, cap, pack
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
        inputs = [
            Input(str(item.path), item.source, item.licence, item.path.stat().st_size)
            for item in installed.files()
            if item.path.suffix in ENDINGS and item.path.is_file()
        ]
        if not inputs:
            raise InputAbsent(f"{NAME}: this Python has no source files beside it; {NEEDS}")
    else:
        inputs = config.files(ENDINGS, NEEDS)
    return pack(NAME, cap(inputs, config.recipe.max_bytes), config.unit_bytes)


def read(unit: Unit) -> Iterator[Document]:
    """Yield each file."""
    return whole_files(unit)
