"""What of a folder goes to the Hub: known files of a release, each whole; the rest stays.

Nothing is sent that a release does not consist of: notes, logs and half-written files that lie in
the folder are named and left out. Torch is not called.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from alpenglow.release.cards.data_card import FILES
from alpenglow.release.cards.gguf_facts import REPORT
from alpenglow.release.cards.head import publication_of
from alpenglow.release.error import ReleaseError
from alpenglow.release.hub.series import load_series
from alpenglow.release.hub.series_tree import tree_of
from alpenglow.release.released import Released
from alpenglow_lsf.files import read_json

INDEX = "model.safetensors.index.json"
_MODEL = re.compile(
    r"README\.md|LICENSE(\.txt|\.md)?|NOTICE|config\.json|generation_config\.json|conversion\.json|"
    r"evaluation\.json|model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json|"
    r"tokenizer\.json|tokenizer_config\.json|special_tokens_map\.json|assets/[\w.-]+\.(png|svg)"
)
_DATA = re.compile("|".join(map(re.escape, FILES)) + r"|LICENSE(\.txt|\.md)?|NOTICE")
_GGUF = re.compile(r"[\w.-]+\.gguf|gguf\.json|README\.md|LICENSE(\.txt|\.md)?|NOTICE")
_NEEDED = ("README.md", "config.json", "conversion.json", "tokenizer.json")


@dataclass(frozen=True)
class Package:
    """Files of one folder for one revision of a repository."""

    folder: Path
    kind: Literal["model", "dataset"]
    files: dict[str, int]
    """Name -> bytes."""
    left_out: tuple[str, ...]
    revision: str | None
    """A branch; None is `main`."""
    exact: bool = False
    """Whether the branch is to hold nothing else."""

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(self.files.values())

    @property
    def stale(self) -> list[str]:
        """Patterns of files to be deleted there unless they are sent: weights cut otherwise."""
        if self.exact:
            return ["*"]
        if REPORT in self.files:
            return ["*.gguf"]
        return ["model*.safetensors", INDEX] if self.kind == "model" else []


def model_package(
    folder: Path, revision: str | None, *, unverified: bool = False, exact: bool = False
) -> Package:
    """A release folder.

    Args:
        folder: of the release.
        revision: branch to send it to.
        unverified: send one that nobody compared with its checkpoint.
        exact: the branch is to hold nothing else.

    Raises:
        ReleaseError: not a release, half of one, a cut file, a card whose head cannot be read, or
            not compared.
    """
    released = Released.load(folder)
    files, left_out = _split(folder, _MODEL)
    for name in (*_NEEDED, *_weights(folder)):
        if name not in files:
            raise ReleaseError(f"{folder}: {name} is missing; convert again")
    for name in files:
        if name.endswith(".safetensors"):
            _check_whole(folder / name)
    publication_of((folder / "README.md").read_text(encoding="utf-8"))
    if released.verification is None and not unverified:
        raise ReleaseError(
            f"{folder}: nobody has compared it with its checkpoint; run alpenglow release verify "
            f"{folder}, or push with --unverified"
        )
    return Package(folder, "model", files, left_out, revision, exact)


def gguf_package(folder: Path, revision: str | None, *, unverified: bool = False) -> Package:
    """A folder of GGUF files, with the report on them.

    Raises:
        ReleaseError: no such report, a file that is missing or cut, or one that nobody compared.
    """
    report = read_json(folder / REPORT) or {}
    files, left_out = _split(folder, _GGUF)
    rows = report.get("files") or []
    for row in rows:
        if files.get(row["file"]) != row["bytes"]:
            raise ReleaseError(f"{folder / row['file']}: missing or cut; convert again")
        if row.get("checked") is None and not unverified:
            raise ReleaseError(
                f"{folder / row['file']}: nobody has compared it with the release; run alpenglow "
                "release gguf --verify, or push with --unverified"
            )
    listed = {row["file"] for row in rows}
    unknown = [name for name in files if name.endswith(".gguf") and name not in listed]
    if unknown or not rows:
        what = unknown[0] if unknown else "any file"
        raise ReleaseError(f"{folder / REPORT}: it does not tell of {what}; convert again")
    return Package(folder, "model", files, left_out, revision)


def data_package(folder: Path, revision: str | None) -> Package:
    """A data card's folder.

    Raises:
        ReleaseError: no data card here.
    """
    files, left_out = _split(folder, _DATA) if folder.is_dir() else ({}, ())
    for name in FILES[:2]:
        if name not in files:
            raise ReleaseError(
                f"{folder}: {name} is missing, so this is no data card; write one with alpenglow "
                "release card --data SHARDS"
            )
    publication_of((folder / "README.md").read_text(encoding="utf-8"))
    return Package(folder, "dataset", files, left_out, revision)


def series_packages(folder: Path, *, unverified: bool = False) -> list[Package]:
    """The newest release of a series for `main`, then each for a branch of its name.

    Raises:
        ReleaseError: no series, or one of its releases cannot be sent.
    """
    head, entries = load_series(folder)
    tree = tree_of(str(head.get("form")), folder, str(head.get("repository")), {})
    packages = [
        model_package(tree.path(entry.name), entry.name, unverified=unverified, exact=True)
        for entry in entries
    ]
    if not packages:
        raise ReleaseError(f"{folder}: the series holds no release")
    newest = packages[-1]
    main = Package(newest.folder, "model", newest.files, newest.left_out, None)
    return [main, *packages]


def _split(folder: Path, wanted: re.Pattern[str]) -> tuple[dict[str, int], tuple[str, ...]]:
    """Files that go, with their bytes, and names of those that stay."""
    files: dict[str, int] = {}
    left: list[str] = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir():
            continue
        if wanted.fullmatch(name) and path.is_file():
            files[name] = path.stat().st_size
        else:
            left.append(name)
    return files, tuple(left)


def _weights(folder: Path) -> Sequence[str]:
    """The weight files that there must be.

    Raises:
        ReleaseError: the index cannot be read.
    """
    if not (folder / INDEX).exists():
        return ["model.safetensors"]
    index = read_json(folder / INDEX) or {}
    places = index.get("weight_map")
    if not isinstance(places, dict) or not places:
        raise ReleaseError(f"{folder / INDEX}: no weight_map in it; convert again")
    return sorted({str(name) for name in places.values()})


def _check_whole(path: Path) -> None:
    """See that a safetensors file is as long as its own header says.

    Raises:
        ReleaseError: cut, or not such a file.
    """
    length = path.stat().st_size
    try:
        with path.open("rb") as file:
            head = int.from_bytes(file.read(8), "little")
            table = json.loads(file.read(min(head, length)))
        ends = [entry["data_offsets"][1] for key, entry in table.items() if key != "__metadata__"]
        whole = 8 + head + max(ends, default=0) == length
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        whole = False
    if not whole:
        raise ReleaseError(f"{path}: cut, or not a safetensors file; convert again")
