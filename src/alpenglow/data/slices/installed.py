"""What any machine has: this Python's standard library and the packages installed beside it.

Files are named `numpy-2.4.6/numpy/linalg/_linalg.py` or `cpython-3.11.7/json/decoder.py`, and put
into the order of a hash of that name: a cap then takes a mixture of all packages, and two slices
that begin at opposite ends do not take the same file.
"""

from __future__ import annotations

import csv
import functools
import importlib.metadata
import os
import platform
import re
import stat
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import xxhash

from alpenglow.data.document import Input

PYTHON_LICENCE = "PSF-2.0"
OWN = "alpenglow"
SKIPPED_FOLDERS = frozenset({"test", "tests", "testing", "site-packages", "dist-packages"})
"""Folders of the standard library: others' packages, and tests of odd encodings and sizes."""


@dataclass(frozen=True)
class Installed:
    """A file of the standard library or of an installed package."""

    path: str
    source: str
    licence: str

    def input(self) -> Input | None:
        """Return the file with its size; None where it is gone."""
        try:
            found = os.stat(self.path)  # noqa: PTH116
        except OSError:
            return None
        if not stat.S_ISREG(found.st_mode):
            return None
        return Input(self.path, self.source, self.licence, found.st_size)


@functools.cache
def files() -> tuple[Installed, ...]:
    """Every file, in the order of the hash of its name."""
    found = {item.source: item for item in (*_library(), *_packages())}
    order = {name: xxhash.xxh3_64_intdigest(name.encode()) for name in found}
    return tuple(found[name] for name in sorted(found, key=lambda name: (order[name], name)))


def version() -> str:
    """Name this Python: `cpython-3.11.7`."""
    return f"{platform.python_implementation().lower()}-{platform.python_version()}"


def _library() -> Iterator[Installed]:
    root = Path(sysconfig.get_paths()["stdlib"])
    for folder, inner, names in os.walk(root):
        inner[:] = sorted(set(inner) - SKIPPED_FOLDERS)
        for name in names:
            path = Path(folder, name)
            if path.suffix == ".py":
                source = f"{version()}/{path.relative_to(root).as_posix()}"
                yield Installed(str(path), source, PYTHON_LICENCE)


def _packages() -> Iterator[Installed]:
    for distribution in importlib.metadata.distributions():
        metadata = distribution.metadata  # parsed anew at each access, and by each .version
        name = re.sub(r"[-_.]+", "-", metadata["Name"] or "").lower()
        if not name or name == OWN:
            continue
        package = f"{name}-{metadata['Version']}"
        licence, root = licence_of(metadata), str(distribution.locate_file(""))
        # RECORD as it stands: Distribution.files would look at every file.
        for row in csv.reader((distribution.read_text("RECORD") or "").splitlines()):
            if row and not row[0].endswith(".pyc"):
                inner = "/".join(part for part in row[0].split("/") if part != "..")
                yield Installed(os.path.join(root, row[0]), f"{package}/{inner}", licence)  # noqa: PTH118


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
