"""Folders of repositories: which folder is a repository, and what licence holds for a file."""

from __future__ import annotations

import functools
import os
from pathlib import Path

from alpenglow.data.slices import github_licence
from alpenglow.data.slices.source import decode

_LICENCE_BYTES = 1_000_000
"""More than any licence text has."""


@functools.lru_cache(maxsize=1 << 16)
def is_repository(folder: str) -> bool:
    """Whether a folder holds a licence file, or what git keeps."""
    names = _names(folder)
    return ".git" in names or any(map(github_licence.is_licence_file, names))


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208
    except OSError:
        return []


def place(root: Path, source: str, layout: str) -> tuple[str, str]:
    """Split a path beneath the input's folder into repository and path within it.

    Args:
        root: the input's folder.
        source: path of the file beneath it.
        layout: see `github_file.Rules`.

    Returns:
        `OWNER/NAME`, a folder's name or nothing; and the rest of the path.
    """
    parts = source.split("/")
    if layout == "owner/repository" and len(parts) > 2:
        return "/".join(parts[:2]), "/".join(parts[2:])
    if layout == "auto":
        if is_repository(str(root)):
            return root.name, source
        owned = len(parts) > 2 and is_repository(str(root / parts[0] / parts[1]))
        if owned and not is_repository(str(root / parts[0])):
            return "/".join(parts[:2]), "/".join(parts[2:])
    return (parts[0], "/".join(parts[1:])) if len(parts) > 1 else ("", source)


class FolderLicences:
    """The licence that holds in each folder: its own licence file's, else the folder's above.

    Args:
        root: no folder above this one is asked.
    """

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self._known: dict[str, str | None] = {}

    def of(self, folder: str) -> str | None:
        """Return the licence, None where no folder up to the root has a licence file."""
        folder = folder or "."
        if folder not in self._known:
            found, above = self._own(folder), os.path.dirname(folder)  # noqa: PTH120
            if found is None and folder not in (self._root, above, "."):
                found = self.of(above)
            self._known[folder] = found
        return self._known[folder]

    @staticmethod
    def _own(folder: str) -> str | None:
        texts = {}
        for name in filter(github_licence.is_licence_file, _names(folder)):
            path = Path(folder) / name
            if path.is_file():
                with path.open("rb") as file:
                    texts[name] = decode(file.read(_LICENCE_BYTES)) or ""
        return github_licence.of_folder(texts)
