"""Where the releases of a series lie, equal files once: plain folders, or the Hub's own cache.

    folders      NAME/config.json ...        a Hugging Face folder a checkpoint; equal files are
                                             hard links
    revisions    models--ORG--REPO/blobs/HASH
                 models--ORG--REPO/snapshots/COMMIT/config.json -> ../../blobs/HASH
                 models--ORG--REPO/refs/NAME

The second is the cache layout of huggingface_hub (its guide "Understand caching"; blobs are named
by sha256 where the Hub keeps a file in LFS, by git's sha1 elsewhere), so that
`from_pretrained("ORG/REPO", revision="NAME", cache_dir=...)` finds it offline. Torch-free.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from alpenglow.release.error import ReleaseError
from alpenglow.release.folder import put_in_place
from alpenglow_lsf.files import write_text

LARGE = 10_000_000
"""Bytes above which the Hub keeps any file in LFS."""
WRITTEN_LATER = ("README.md", "conversion.json", "evaluation.json")
"""Files that other commands write again; they do not decide whether a release is whole."""

Files = dict[str, dict[str, Any]]
"""Name -> bytes and hash (a blob's name)."""


class Tree(Protocol):
    """A place for the releases of a series."""

    def path(self, name: str) -> Path:
        """The folder of one."""
        ...

    def building(self, name: str) -> Any:
        """A context manager: a folder to fill, which becomes `path(name)` as a whole."""
        ...

    def added(self, name: str) -> tuple[Files, int]:
        """Files of the one that was built last, and the bytes that it took on disk."""
        ...

    def newest(self, name: str) -> None:
        """Say which is the newest: `main`."""
        ...


def whole(tree: Tree, name: str, files: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether a release that was made before is still there, by names and sizes."""
    folder = tree.path(name)
    kept = {file: told["bytes"] for file, told in files.items() if file not in WRITTEN_LATER}
    with suppress(OSError):
        return bool(kept) and all((folder / f).stat().st_size == n for f, n in kept.items())
    return False


def blob_name(path: Path) -> str:
    """What the Hub calls a file's content."""
    size = path.stat().st_size
    if path.suffix == ".safetensors" or size > LARGE:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    return hashlib.sha1(b"blob %d\0" % size + path.read_bytes(), usedforsecurity=False).hexdigest()


class FolderTree:
    """A folder a checkpoint.

    Args:
        output: where.
        known: files of the releases that are there, by release.
    """

    def __init__(self, output: Path, known: Mapping[str, Mapping[str, Any]]) -> None:
        self._output = output
        self._places = {
            told["hash"]: output / name / file
            for name, files in known.items()
            for file, told in files.items()
            if file not in WRITTEN_LATER
        }
        self._added: tuple[Files, int] = ({}, 0)

    def path(self, name: str) -> Path:
        """The folder of one."""
        return self._output / name

    @contextmanager
    def building(self, name: str) -> Iterator[Path]:
        """Fill a folder; equal files of other releases take the place of its own.

        Raises:
            ReleaseError: something else is there.
        """
        with put_in_place(self.path(name)) as folder:
            yield folder
            self._added = self._link(folder)
        for file, told in self._added[0].items():
            if file not in WRITTEN_LATER:
                self._places.setdefault(told["hash"], self.path(name) / file)

    def added(self, name: str) -> tuple[Files, int]:
        """Files of the one that was built last, and the bytes that it took on disk."""
        return self._added

    def newest(self, name: str) -> None:
        """Folders have no `main`."""

    def _link(self, folder: Path) -> tuple[Files, int]:
        files, size = _files(folder), 0
        for file, told in files.items():
            place = self._places.get(told["hash"])
            if place is None or not _linked(place, folder / file):
                size += told["bytes"]
        return files, size


def _linked(place: Path, path: Path) -> bool:
    """Put a hard link to an equal file in a file's place; False where that cannot be."""
    if not place.is_file() or blob_name(place) != blob_name(path):
        return False
    link = path.with_name(f".{path.name}.link")
    try:
        os.link(place, link)
    except OSError:
        return False  # another file system, or one without hard links: the copy stays
    link.replace(path)
    return True


class RevisionTree:
    """One repository in the layout of huggingface_hub's cache.

    Args:
        output: the cache's folder (`cache_dir`).
        repository: ORG/NAME.
    """

    def __init__(self, output: Path, repository: str) -> None:
        self._output = output
        self._root = output / f"models--{repository.replace('/', '--')}"
        self._added: tuple[Files, int] = ({}, 0)

    def path(self, name: str) -> Path:
        """The snapshot of one; a folder that is not there where there is none."""
        with suppress(OSError):
            commit = (self._root / "refs" / name).read_text(encoding="utf-8").strip()
            return self._root / "snapshots" / commit
        return self._root / "snapshots" / "absent"

    @contextmanager
    def building(self, name: str) -> Iterator[Path]:
        """Fill a folder; its files become blobs, then a snapshot, then a reference names it."""
        folder = self._output / f"{name}.tmp"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            yield folder
            self._added = self._place(name, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def added(self, name: str) -> tuple[Files, int]:
        """Files of the one that was built last, and the bytes that it took on disk."""
        return self._added

    def newest(self, name: str) -> None:
        """Let `main` be this one."""
        commit = (self._root / "refs" / name).read_text(encoding="utf-8")
        write_text(self._root / "refs" / "main", commit)

    def _place(self, name: str, folder: Path) -> tuple[Files, int]:
        files, size = _files(folder), 0
        blobs, snapshots, refs = (self._root / part for part in ("blobs", "snapshots", "refs"))
        for each in (blobs, snapshots, refs):
            each.mkdir(parents=True, exist_ok=True)
        for file, told in files.items():
            blob = blobs / told["hash"]
            if not blob.exists():
                _sync(folder / file)
                (folder / file).rename(blob)
                size += told["bytes"]
        listing = "".join(f"{told['hash']} {file}\n" for file, told in sorted(files.items()))
        commit = hashlib.sha1(f"{name}\n{listing}".encode(), usedforsecurity=False).hexdigest()
        if not (snapshots / commit).exists():
            building = snapshots / f".{commit}"
            shutil.rmtree(building, ignore_errors=True)
            for file, told in files.items():
                link = building / file
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(os.path.relpath(blobs / told["hash"], link.parent))
            building.rename(snapshots / commit)
        write_text(refs / name, commit)
        return files, size


def _files(folder: Path) -> Files:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): {
            "bytes": path.stat().st_size,
            "hash": blob_name(path),
        }
        for path in found
    }


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def tree_of(
    form: str, output: Path, repository: str, known: Mapping[str, Mapping[str, Any]]
) -> Tree:
    """The tree of a form.

    Raises:
        ReleaseError: no such form.
    """
    if form == "folders":
        return FolderTree(output, known)
    if form == "revisions":
        return RevisionTree(output, repository)
    raise ReleaseError(f"form {form!r}: folders or revisions")
