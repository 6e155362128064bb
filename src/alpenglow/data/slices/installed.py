"""What any machine has: this Python's standard library and the packages installed beside it.

Files are named `numpy-2.4.6/numpy/linalg/_linalg.py` or `cpython-3.11.7/json/decoder.py`, and put
into the order of a hash of that name: a cap then takes a mixture of all packages, and two slices
that begin at opposite ends do not take the same file.
"""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import xxhash

PYTHON_LICENCE = "PSF-2.0"
OWN = "alpenglow"
SKIPPED_FOLDERS = frozenset({"test", "tests", "testing", "site-packages", "dist-packages"})
"""Folders of the standard library: others' packages, and tests of odd encodings and sizes."""


@dataclass(frozen=True)
class Installed:
    """A file of the standard library or of an installed package."""

    path: Path
    source: str
    licence: str

    @property
    def order(self) -> str:
        """Return what files are sorted by."""
        return xxhash.xxh3_64_hexdigest(self.source.encode())


@functools.cache
def files() -> tuple[Installed, ...]:
    """Every file, in the order of the hash of its name."""
    found = {item.source: item for item in (*_library(), *_packages())}
    return tuple(sorted(found.values(), key=lambda item: (item.order, item.source)))


def version() -> str:
    """Name this Python: `cpython-3.11.7`."""
    return f"{platform.python_implementation().lower()}-{platform.python_version()}"


def _library() -> Iterator[Installed]:
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in root.rglob("*.py"):
        inner = path.relative_to(root)
        if SKIPPED_FOLDERS.isdisjoint(inner.parts[:-1]):
            yield Installed(path, f"{version()}/{inner.as_posix()}", PYTHON_LICENCE)


def _packages() -> Iterator[Installed]:
    for distribution in importlib.metadata.distributions():
        metadata = distribution.metadata
        name = re.sub(r"[-_.]+", "-", metadata["Name"] or "").lower()
        if not name or name == OWN:
            continue
        licence = licence_of(metadata)
        for file in distribution.files or ():
            inner = PurePosixPath(*(part for part in file.parts if part != ".."))
            if "__pycache__" not in inner.parts:
                path = Path(str(distribution.locate_file(file)))
                yield Installed(path, f"{name}-{distribution.version}/{inner}", licence)


def licence_of(metadata: importlib.metadata.PackageMetadata) -> str:
    """Return a package's licence: License-Expression, else a short License, else classifiers."""
    expression = _field(metadata, "License-Expression")
    if expression:
        return expression
    classifiers = [
        line.rpartition("::")[2].strip()
        for line in metadata.get_all("Classifier") or []
        if line.startswith("License ::")
    ]
    field = _field(metadata, "License")
    # Some packages put the whole licence text into this field; only a name is of use here.
    if field.strip() and len(field) <= 60 and "\n" not in field.strip():
        return field.strip()
    if classifiers:
        return " / ".join(classifiers)
    return "not stated"


def _field(metadata: importlib.metadata.PackageMetadata, name: str) -> str:
    return str(metadata[name]) if name in metadata else ""
