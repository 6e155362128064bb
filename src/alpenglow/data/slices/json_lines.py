"""Files of JSON lines, plain or gzip: an object a line, and no line costs a worker its memory."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from alpenglow.data.document import DataError
from alpenglow.data.slices.source import LARGEST, TOO_LARGE

ENDINGS = (".json.gz", ".jsonl.gz", ".json", ".jsonl")
NO_OBJECT = "not a JSON object"
STEP = 1 << 20


@dataclass(frozen=True)
class Line:
    """One line that is not blank."""

    number: int
    """From 1."""
    record: dict[str, Any]
    size: int
    """Bytes, without the line end."""
    fault: str = ""
    """Why `record` is empty."""
    beginning: str = ""
    """Of a faulty line, for people to read."""


def json_lines(path: Path) -> Iterator[Line]:
    """Stream the lines of a file; a line that is no JSON object, or too long, has a fault.

    Raises:
        DataError: the file is cut or cannot be read, with the last line that was whole.
    """
    number = 0
    try:
        with _open(path) as file:
            while data := file.readline(LARGEST + 1):
                number += 1
                size = len(data)
                if size > LARGEST and not data.endswith(b"\n"):
                    while rest := file.readline(STEP):
                        size += len(rest)
                        if rest.endswith(b"\n"):
                            break
                    yield Line(number, {}, size, TOO_LARGE, _beginning(data))
                elif data.strip():
                    yield _line(number, data.rstrip(b"\r\n"))
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path}: cannot be read after line {number} ({error}); fetch the file again"
        ) from None


def _line(number: int, data: bytes) -> Line:
    try:
        record = json.loads(data)
    except (ValueError, RecursionError):
        record = None
    if isinstance(record, dict):
        return Line(number, record, len(data))
    return Line(number, {}, len(data), NO_OBJECT, _beginning(data))


def _beginning(data: bytes) -> str:
    return data[:2000].decode("utf-8", "replace")


def _open(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path)) if path.suffix == ".gz" else path.open("rb")
