"""arXiv's identifiers, and what arXiv's own metadata says about a paper.

Identifiers (arXiv help, "Understanding the arXiv identifier"): since April 2007 `YYMM.NNNN`, since
2015 `YYMM.NNNNN`; before, `archive/YYMMNNN`, in file names without the stroke (`hep-th9901001`).

The metadata snapshot is a file of JSON lines, one a paper (`id`, `title`, `license`, `update_date`
and more). It is read as a stream, and only the papers that are asked for are kept.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from alpenglow.data.document import DataError

_NEW = re.compile(r"(?P<id>(?P<yymm>\d{4})\.\d{4,5})(?:v\d+)?")
_OLD = re.compile(r"(?P<archive>[a-z-]+)(?:\.[A-Z]{2})?/?(?P<number>(?P<yymm>\d{4})\d{3})(?:v\d+)?")
_ID = re.compile(rb'"id"\s*:\s*"([^"\\]{1,60})"')
LONGEST_LINE = 1_000_000
"""Bytes of a paper's metadata."""
_LICENCES = {
    "arxiv.org/licenses/nonexclusive-distrib/1.0": "arXiv-nonexclusive-distrib-1.0",
    "arxiv.org/licenses/assumed-1991-2003": "arXiv-assumed-1991-2003",
    "creativecommons.org/publicdomain/zero/1.0": "CC0-1.0",
    "creativecommons.org/licenses/publicdomain": "CC-PDDC",
}
_CREATIVE_COMMONS = re.compile(r"creativecommons\.org/licenses/([a-z-]+)/(\d\.\d)")


@dataclass(frozen=True)
class Identity:
    """A paper's identifier."""

    id: str

    @property
    def url(self) -> str:
        """Address of the abstract."""
        return f"https://arxiv.org/abs/{self.id}"

    @property
    def month(self) -> str:
        """`YYYY-MM` of its first version."""
        yymm = self.id.rpartition("/")[2][:4]
        century = "19" if yymm >= "9101" else "20"  # arXiv began in August 1991
        return f"{century}{yymm[:2]}-{yymm[2:]}"


def identity(name: str) -> Identity | None:
    """Return the identifier that a file or folder is named after, if it is."""
    stem = name.rpartition("/")[2]
    for ending in (".gz", ".tgz", ".tar", ".pdf", ".tex"):
        stem = stem.removesuffix(ending)
    new = _NEW.fullmatch(stem)
    if new and "01" <= new["yymm"][2:] <= "12":
        return Identity(new["id"])
    old = _OLD.fullmatch(stem)
    if old and "01" <= old["yymm"][2:] <= "12":
        return Identity(f"{old['archive']}/{old['number']}")
    return None


@dataclass(frozen=True)
class About:
    """What the metadata says about a paper."""

    licence: str
    title: str
    updated: str
    """ISO date of the last change."""


def snapshots(folder: Path) -> list[Path]:
    """The metadata files in a folder: `arxiv-metadata*.json`, plain or gzip."""
    found = sorted(folder.glob("arxiv-metadata*.json")) + sorted(
        folder.glob("arxiv-metadata*.json.gz")
    )
    return [path for path in found if path.is_file()]


def read_metadata(path: Path, wanted: Collection[str]) -> dict[str, About]:
    """Read what a snapshot says about some papers; memory is that of those papers.

    Args:
        path: the snapshot.
        wanted: identifiers, as in `Identity.id`.

    Raises:
        DataError: the file is cut, or a line of a wanted paper is no JSON.
    """
    found: dict[str, About] = {}
    names = {name.encode() for name in wanted}
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            while names and (line := file.readline(LONGEST_LINE)):
                number += 1
                match = _ID.search(line, 0, 200) or _ID.search(line)
                if match and match[1] in names:
                    found[match[1].decode()] = _about(json.loads(line))
    except (
        OSError,
        EOFError,
        zlib.error,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
    ) as error:
        raise DataError(
            f"{path}, line {number}: not arXiv's metadata ({error}); fetch it again"
        ) from None
    return found


def _about(record: dict[str, object]) -> About:
    title, licence = record.get("title") or "", record.get("license") or ""
    return About(
        licence_name(str(licence)),
        " ".join(str(title).split()),
        str(record.get("update_date") or ""),
    )


def licence_name(address: str) -> str:
    """Return a licence's SPDX name, or a name of its own for arXiv's; else the address."""
    bare = address.removeprefix("http://").removeprefix("https://").strip("/")
    common = _CREATIVE_COMMONS.match(bare)
    if common:
        return f"CC-{common[1].upper()}-{common[2]}"
    return _LICENCES.get(bare, address)
