"""JSON lines of BigQuery's github_repos dump: `content`, `path`, `repo_name`, `license`, ..."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from alpenglow.data.document import DataError, Input
from alpenglow.data.slices.github_file import SourceFile
from alpenglow.data.slices.source import LARGEST, TOO_LARGE

ENDINGS = (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".gz")
"""BigQuery's export names its parts `github_000000000000.gz`."""
_PIECE = 1 << 20


def files(item: Input) -> Iterator[SourceFile]:
    """Yield each line's file; a line that holds none is a fault.

    Raises:
        DataError: the file is cut, or not gzip although its name says so.
    """
    path = Path(item.path)
    number = 0
    try:
        with _open(path) as stream:
            while line := stream.readline(LARGEST + 1):
                number += 1
                source = f"{item.source}#{number}"
                if len(line) > LARGEST and not line.endswith(b"\n"):
                    size = len(line) + _pass_over_line(stream)
                    yield SourceFile(source, "", "", item.licence, None, size, TOO_LARGE)
                elif line.strip():
                    yield _file(line, source, item.licence)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path}: cannot be read after line {number} ({error}); fetch it again"
        ) from None


def _open(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path) if path.name.endswith(".gz") else path.open("rb"))


def _pass_over_line(stream: IO[bytes]) -> int:
    size = 0
    while piece := stream.readline(_PIECE):
        size += len(piece)
        if piece.endswith(b"\n"):
            break
    return size


def _file(line: bytes, source: str, licence: str) -> SourceFile:
    try:
        row: Any = json.loads(line)
        text = row["content"] if "content" in row else row["text"]
        path = row.get("path", "")
        usable = isinstance(text, str) and isinstance(path, str)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        usable = False
    if not usable:
        return SourceFile(source, "", "", licence, b"", len(line), "not a JSON object with a text")
    repository = _word(row, "repo_name")
    name = f"{repository}/{path}" if repository and path else source
    return SourceFile(name, path, repository, _word(row, "license") or licence, text, len(line))


def _word(row: dict[str, Any], key: str) -> str:
    value = row.get(key)
    # A repository with several licences has a list of them, of which all apply.
    if isinstance(value, list):
        return " AND ".join(item for item in value if isinstance(item, str))
    return value if isinstance(value, str) else ""
