"""WARC files made by hand, record by record, so that a test knows every byte of them."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Mapping
from pathlib import Path


def record(kind: str, content: bytes, number: int = 1, **fields: str) -> bytes:
    """Return one record; fields are headers with `_` for `-`."""
    headers = {
        "WARC-Type": kind,
        "WARC-Target-URI": f"http://example.org/{number}",
        "WARC-Date": "2023-03-20T10:00:00Z",
        "WARC-Record-ID": f"<urn:uuid:{number}>",
        **{name.replace("_", "-"): value for name, value in fields.items()},
    }
    headers.setdefault("Content-Length", str(len(content)))
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"WARC/1.0\r\n{lines}\r\n".encode() + content + b"\r\n\r\n"


def http(body: bytes, kind: str | None = "text/html", status: int = 200, **fields: str) -> bytes:
    """Return an HTTP response; fields are headers with `_` for `-`."""
    headers: Mapping[str, str] = {name.replace("_", "-"): value for name, value in fields.items()}
    if kind is not None:
        headers = {"Content-Type": kind, **headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} Said\r\n{lines}\r\n".encode() + body


def write(path: Path, records: Iterable[bytes]) -> Path:
    """Write a file; with the ending .gz a gzip member a record."""
    parts = [gzip.compress(part, mtime=0) if path.suffix == ".gz" else part for part in records]
    path.write_bytes(b"".join(parts))
    return path
