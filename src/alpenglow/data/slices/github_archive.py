"""Archives of repositories: .tar, .tar.gz and .zip, read member by member.

An archive is read twice: once for the licence files, which may come after what they hold for, and
once for the sources. A member is bounded like every document, and what a whole archive unpacks to
is bounded too, so that an archive bomb ends in a sentence and not in a full memory or an endless
job. Nothing is written to disk; links, devices and names that point outside are not followed.
"""

from __future__ import annotations

import gzip
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, cast

from alpenglow.data.document import DataError, Input
from alpenglow.data.slices import github_licence
from alpenglow.data.slices.github_endings import is_source
from alpenglow.data.slices.github_file import SourceFile
from alpenglow.data.slices.source import LARGEST, decode

ENDINGS = (".tar", ".tar.gz", ".tgz", ".zip")
RATIO = 200
"""An archive that unpacks to more times its size is refused; source text gives 3 to 10."""
ALWAYS = 1_000_000_000
"""Bytes that any archive may unpack to."""


@dataclass(frozen=True)
class _Member:
    path: str
    size: int
    stream: IO[bytes] | None = None
    fault: str = ""
    """Why it cannot be read."""

    def read(self, archive: Path) -> tuple[bytes | None, str]:
        """Return the content, None where it is larger than a document may be; and the fault.

        Raises:
            DataError: the archive is damaged, and no member after this one can be found.
        """
        if self.stream is None:
            return b"", self.fault
        try:
            data = self.stream.read(LARGEST + 1)
        except (zipfile.BadZipFile, NotImplementedError, zlib.error, EOFError, OSError) as error:
            if not _is_zip(archive):
                raise _damaged(archive, self.path, error) from None
            return b"", "damaged"
        return (None, "") if len(data) > LARGEST else (data, "")


def files(item: Input, mode: Literal["fixed", "faithful"], layout: str) -> Iterator[SourceFile]:
    """Yield the source files of an archive.

    Raises:
        DataError: the archive is cut, damaged, or unpacks to far more than source text can.
    """
    path = Path(item.path)
    top, licences = _licences(path)
    repository = _repository(item.source, layout)
    for member in _members(path):
        inner = member.path.removeprefix(top)
        if not is_source(inner, mode):
            continue
        licence = _nearest(licences, inner) or item.licence
        name = f"{item.source}/{member.path}"
        data, fault = member.read(path)
        yield SourceFile(name, inner, repository, licence, data, member.size, fault)


def _repository(source: str, layout: str) -> str:
    name = source.lower()
    ending = next(ending for ending in (".tar.gz", ".tgz", ".tar", ".zip") if name.endswith(ending))
    parts = source[: -len(ending)].split("/")
    return "/".join(parts[-2:]) if layout == "owner/repository" else parts[-1]


def _licences(path: Path) -> tuple[str, dict[str, str]]:
    """Return the folder that holds all members (`NAME-1.0/`, or nothing), and folder -> licence."""
    tops: set[str] = set()
    texts: dict[str, dict[str, str]] = {}
    for member in _members(path):
        top, slash, _ = member.path.partition("/")
        if len(tops) < 2:
            tops.add(f"{top}/" if slash else "")
        folder, _, name = member.path.rpartition("/")
        if github_licence.is_licence_file(name):
            data, _ = member.read(path)
            texts.setdefault(f"{folder}/" if folder else "", {})[name] = decode(data or b"") or ""
    common = tops.pop() if len(tops) == 1 else ""
    found = {
        folder.removeprefix(common): github_licence.of_folder(files) or github_licence.UNKNOWN
        for folder, files in texts.items()
    }
    return common, found


def _nearest(licences: dict[str, str], path: str) -> str | None:
    while path:
        path = path[: path.rstrip("/").rfind("/") + 1]
        if path in licences:
            return licences[path]
    return None


def _members(path: Path) -> Iterator[_Member]:
    return _zipped(path) if _is_zip(path) else _tarred(path)


def _is_zip(path: Path) -> bool:
    return path.name.lower().endswith(".zip")


def _zipped(path: Path) -> Iterator[_Member]:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise _damaged(path, "its table of contents", error) from None
    with archive:
        infos = [info for info in archive.infolist() if not info.is_dir()]
        allowed = _allowed(path)
        if sum(info.file_size for info in infos) > allowed:
            raise _bomb(path, allowed)
        for info in infos:
            name, size = _clean(info.filename), info.file_size
            if info.flag_bits & 1:
                yield _Member(name, size, fault="encrypted")
                continue
            try:
                stream = archive.open(info)
            except (zipfile.BadZipFile, NotImplementedError, OSError):
                yield _Member(name, size, fault="damaged")
                continue
            with stream:
                yield _Member(name, size, stream)


def _tarred(path: Path) -> Iterator[_Member]:
    last = "its beginning"
    try:
        with path.open("rb") as file:
            raw: IO[bytes] = file
            if not path.name.lower().endswith(".tar"):
                raw = cast(IO[bytes], gzip.GzipFile(fileobj=file))
            counted = cast(IO[bytes], _Counted(raw, path, _allowed(path)))
            with tarfile.open(fileobj=counted, mode="r|", tarinfo=_Header) as archive:
                for info in archive:
                    last = info.name
                    archive.members = []  # type: ignore[attr-defined]  # else all names are kept
                    if info.isreg():
                        yield _Member(_clean(info.name), info.size, archive.extractfile(info))
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise _damaged(path, last, error) from None


class _Header(tarfile.TarInfo):
    """Python's reader takes a damaged or missing header for the end; two empty blocks are that."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Any:
        try:
            return super().fromtarfile(archive)
        except tarfile.HeaderError as error:
            if type(error).__name__ == "EOFHeaderError":
                raise
            raise EOFError(str(error) or "no header") from None


class _Counted:
    """A stream that may give so many bytes and no more."""

    def __init__(self, stream: IO[bytes], path: Path, allowed: int) -> None:
        self._stream, self._path, self._left = stream, path, allowed
        self._allowed = allowed

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise _bomb(self._path, self._allowed)
        return data


def _allowed(path: Path) -> int:
    return max(ALWAYS, RATIO * path.stat().st_size)


def _clean(name: str) -> str:
    return "/".join(part for part in name.split("/") if part not in ("", ".", ".."))


def _bomb(path: Path, allowed: int) -> DataError:
    return DataError(
        f"{path}: unpacks to more than {allowed // 1_000_000} MB, over {RATIO} times its size; "
        "no archive of source files does: take it out of the input"
    )


def _damaged(path: Path, place: str, error: Exception) -> DataError:
    return DataError(f"{path}: cut or damaged after {place} ({error}); fetch it again")
