"""Papers from folders and archives: the TeX files of each, and what could not be read of it.

    folder/                 a paper: its .tex files and those in folders below it
    folder of papers        a paper a folder; .tex files beside them are papers of their own, which
                            may read one another in
    2101.00001.gz           a paper as arXiv keeps it: gzip of a .tex file or of a tar archive
    arXiv_src_2101_001.tar  arXiv's bulk form: a tar of such .gz files (and .pdf, where there is
                            no source)
    paper.tar, .tar.gz      a tar of .tex files is a paper

Bounds: `LARGEST` bytes of TeX and `FILES` files a paper, `UNPACKED` bytes of what it unpacks to.
One paper at a time is in memory. Links are not followed.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from alpenglow.data.document import DataError, Input
from alpenglow.data.slices.arxiv_archive import (
    BLOCK,
    Bounded,
    Content,
    CutArchive,
    Member,
    Readable,
    TooMuch,
    gunzipped,
    is_tar,
    members,
    opened,
)
from alpenglow.data.slices.arxiv_identity import identity
from alpenglow.data.slices.source import LARGEST, TOO_LARGE

TEX = (".tex", ".ltx", ".latex")
ARCHIVES = (".tar", ".gz", ".tgz")
TARS = (".tar", ".tar.gz", ".tgz")
NO_TEX = "no TeX source"
CUT = "cut or damaged archive"
UNPACKS = "unpacks to more than 1 GB"
FILES = 10_000
TOO_MANY = "more than 10000 TeX files"
LOOSE = "*.tex"
"""Last part of the path of an input that is the .tex files of a folder of papers."""


@dataclass
class Found:
    """One paper's files."""

    source: str
    """Stable name of where it was found."""
    name: str
    """What the paper is called: the name of its folder or archive."""
    files: dict[str, bytes] = field(default_factory=dict)
    """Path inside the paper -> content, in the order of the archive or of the names."""
    changed: float | None = None
    """When the archive's member was last written, seconds since 1970."""
    fault: str = ""
    size: int = 0
    """Bytes of TeX, or of what it was in where there is a fault."""
    loose: bool = False
    """Whether the files may be papers each."""
    counts: Counter[str] = field(default_factory=Counter)
    """`links` not followed, `names outside` refused."""

    def fail(self, fault: str, size: int | None = None) -> None:
        """Note why there is no text; the files go."""
        self.files.clear()
        self.fault = fault
        self.size = size or self.size

    def add(self, name: str, content: Readable) -> None:
        """Read a file in, unless the paper is too large with it."""
        if self.fault:
            return
        data = _all(content, LARGEST - self.size)
        self.size += LARGEST + 1 - self.size if data is None else len(data)
        if data is None:
            self.fail(TOO_LARGE)
        elif len(self.files) >= FILES:
            self.fail(TOO_MANY)
        else:
            self.files[name] = data


def _all(content: Readable, limit: int) -> bytes | None:
    parts: list[bytes] = []
    total = 0
    while data := content.read(1 << 20):
        total += len(data)
        if total > limit:
            return None
        parts.append(data)
    return b"".join(parts)


def is_tex(name: str) -> bool:
    """Whether a file's name says that it holds TeX."""
    return name.lower().endswith(TEX) and not name.rpartition("/")[2].startswith("._")


def grouped(root: Path, files: Iterable[Input]) -> list[Input]:
    """Make papers of files: folders with TeX in them become one input each.

    Args:
        root: the folder that was searched; a file stands for itself.
        files: TeX files and archives below it, in the order of their names.
    """
    items = [item for item in files if not _is_metadata(item.source)]
    if not root.is_dir():
        return items
    holders = {item.source.rpartition("/")[0] for item in items if is_tex(item.source)}
    result: dict[str, list[Input]] = {}
    for item in items:
        folders = item.source.split("/")[:-1]
        above = ("/".join(folders[: depth + 1]) for depth in range(len(folders)))
        paper = next((folder for folder in above if folder in holders), None)
        if paper is None:
            key = LOOSE if is_tex(item.source) else item.source
            result.setdefault(key, []).append(item)
        elif is_tex(item.source):
            result.setdefault(paper, []).append(item)
    return [_group(root, key, parts) for key, parts in result.items()]


def _group(root: Path, key: str, parts: list[Input]) -> Input:
    if key == parts[0].source:
        return parts[0]
    size, changed = sum(part.size for part in parts), max(part.changed for part in parts)
    return Input(str(root / key), key, parts[0].licence, size, changed)


def _is_metadata(source: str) -> bool:
    return source.lower().endswith((".json.gz", ".jsonl.gz"))


def papers(item: Input) -> Iterator[Found]:
    """Yield the papers of an input.

    Raises:
        DataError: an archive is cut or is none; names the file, the place and the cure.
    """
    path = Path(item.path)
    if path.name == LOOSE:
        names = sorted(p.name for p in path.parent.iterdir() if is_tex(p.name))
        yield _folder(path.parent, names, Found("", "", loose=True))
    elif path.is_dir():
        names = sorted(
            (Path(folder) / name).relative_to(path).as_posix()
            for folder, _, files in os.walk(path)
            for name in files
            if is_tex(name)
        )
        yield _folder(path, names, Found(item.source, path.name))
    elif is_tex(path.name):
        yield _folder(path.parent, [path.name], Found(item.source, path.name))
    else:
        yield from _archive(path, item.source)


def _folder(folder: Path, names: list[str], found: Found) -> Found:
    for name in names:
        path = folder / name
        if path.is_symlink():
            found.counts["links"] += 1
            continue
        try:
            with path.open("rb") as file:
                found.add(name, file)
        except OSError:
            found.fail("cannot be read")
    return found


def _archive(path: Path, source: str) -> Iterator[Found]:
    whole = Found(source, path.name)
    try:
        with opened(path) as stream:
            if not path.name.lower().endswith(TARS):
                yield _alone(stream, path.stat().st_size, whole)
                return
            beginning = stream.exactly(BLOCK)
            whole_stream = _again(stream, beginning)
            if not is_tar(beginning):
                raise CutArchive("it is no tar archive")
            several = False
            for member, content in members(whole_stream):
                if not member.name:
                    whole.counts["names outside"] += 1
                elif is_tex(member.name):
                    whole.add(member.name, content)
                elif member.name.lower().endswith((".gz", ".pdf")) and _is_paper(member.name):
                    several = True
                    yield _packed(member, content, source)
            if whole.files or whole.fault or not several:
                if not whole.files and not whole.fault:
                    whole.fail(NO_TEX, path.stat().st_size)
                yield whole
    except TooMuch:
        raise DataError(
            f"{path}: unpacks to more than 100 times its size; unpack it by hand if it is sound"
        ) from None
    except (CutArchive, OSError) as error:
        raise DataError(f"{path}: not a whole archive: {error}; fetch or pack it again") from None


def _again(stream: Bounded, beginning: bytes) -> Bounded:
    return Bounded(stream, None, beginning)


def _is_paper(name: str) -> bool:
    """Figures may be packed too; papers are named after their identifier."""
    return identity(name) is not None or (name.count("/") <= 1 and name.endswith(".gz"))


def _packed(member: Member, content: Content, source: str) -> Found:
    """Read a paper inside arXiv's bulk form."""
    name = member.name.rpartition("/")[2]
    found = Found(f"{source}#{member.name}", name, changed=member.changed)
    if name.lower().endswith(".pdf"):
        found.fail(NO_TEX, member.size)
        return found
    _alone(gunzipped(content), member.size, found)
    if found.fault == CUT:
        while content.left:  # raises again where it is the outer archive that ends here
            content.read(1 << 20)
    return found


def _alone(stream: Bounded, size: int, found: Found) -> Found:
    """Read what one .gz file unpacks to: a paper, whatever is wrong with it."""
    try:
        beginning = stream.exactly(BLOCK)
        stream = _again(stream, beginning)
        if not is_tar(beginning):
            _single(stream, beginning, found)
        else:
            for part, inner in members(stream):
                if not part.name:
                    found.counts["names outside"] += 1
                elif is_tex(part.name):
                    found.add(part.name, inner)
            if not found.files and not found.fault:
                found.fail(NO_TEX, size)
    except TooMuch:
        found.fail(UNPACKS, size)
    except CutArchive:
        found.fail(CUT, size)
    return found


def _single(stream: Bounded, beginning: bytes, found: Found) -> None:
    """Read a paper that is one file."""
    if beginning.startswith((b"%PDF", b"%!PS", b"\x89", b"<!DOC", b"<html")) or b"\0" in beginning:
        found.fail(NO_TEX, len(beginning))
        return
    found.add(found.name.removesuffix(".gz").removesuffix(".tex") + ".tex", stream)


def names(item: Input) -> Iterator[str]:
    """Yield what the papers of an input are called, without reading them.

    Raises:
        DataError: an archive is cut or is none.
    """
    path = Path(item.path)
    yield path.name
    if path.is_file() and path.name.lower().endswith(TARS):
        try:
            with opened(path) as stream:
                for member, _ in members(stream):
                    yield member.name
        except (CutArchive, TooMuch, OSError) as error:
            raise DataError(
                f"{path}: not a whole archive: {error}; fetch or pack it again"
            ) from None
