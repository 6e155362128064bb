"""What a server answered, as a crawl stored it: status, kind, and the body without its wrappings.

A body may still be in chunks and compressed as it came over the wire (gzip, deflate, br, zstd), or
already unpacked with the old header beside it, as many crawlers store it; what does not begin as
its header says is taken as it is. What unpacking gives is bounded.
"""

from __future__ import annotations

import io
import re
import zlib
from dataclasses import dataclass

from alpenglow.data.document import DataError
from alpenglow.data.slices.page_text import Refused
from alpenglow.data.slices.source import LARGEST, TOO_LARGE
from alpenglow.data.slices.warc import GZIP, fields_of

NO_HTTP = "not an HTTP response"
CANNOT_UNPACK = "body cannot be unpacked"
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_STATUS = re.compile(r"HTTP/\d(?:\.\d)? (\d{3})")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]*)?\r?\n")
_CHARSET = re.compile(r"charset\s*=\s*[\"']?([\w.:+-]+)", re.ASCII | re.IGNORECASE)
ZSTD = b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True)
class Response:
    """One answer."""

    status: int
    kind: str
    """Media type in lower case without parameters; "" where none is stated."""
    charset: str
    """As the header states it; "" where it does not."""
    coding: str
    chunked: bool
    raw: bytes

    def body(self) -> bytes:
        """Return the body, unpacked.

        Raises:
            Refused: it cannot be unpacked, or is too large.
        """
        data = _joined(self.raw) if self.chunked else self.raw
        for coding in reversed([part.strip() for part in self.coding.split(",")]):
            data = _unpacked(data, coding)
        return data


def response(block: bytes) -> Response:
    """Read the content of a `response` record.

    Raises:
        Refused: it is no HTTP response.
    """
    found = _HEAD_END.search(block)
    head, raw = (block[: found.start()], block[found.end() :]) if found else (block, b"")
    line, _, fields = head.decode("latin-1").partition("\n")
    status = _STATUS.match(line)
    if status is None:
        raise Refused(NO_HTTP)
    headers = fields_of(fields)
    kind, charset = media_type(headers.get("content-type", ""))
    chunked = "chunked" in headers.get("transfer-encoding", "").lower()
    coding = headers.get("content-encoding", "").lower()
    return Response(int(status[1]), kind, charset, coding, chunked, raw)


def media_type(value: str) -> tuple[str, str]:
    """Split a Content-Type into kind and charset."""
    charset = _CHARSET.search(value)
    return value.partition(";")[0].strip().lower(), charset[1] if charset else ""


def _joined(data: bytes) -> bytes:
    """Join the chunks of a body (RFC 9112, section 7.1)."""
    first = _CHUNK.match(data)
    size = int(first[1], 16) if first else 0
    if not first or (size and data[first.end() + size : first.end() + size + 1] not in b"\r\n"):
        return data  # joined already by who stored it
    parts: list[bytes] = []
    at = 0
    while True:
        head = _CHUNK.match(data, at)
        if head is None:
            raise Refused(CANNOT_UNPACK)
        size = int(head[1], 16)
        if not size:
            return b"".join(parts)
        part = data[head.end() : head.end() + size]
        if len(part) < size:
            raise Refused(CANNOT_UNPACK)
        parts.append(part)
        at = head.end() + size
        at += 2 if data[at : at + 2] == b"\r\n" else 1


def _unpacked(data: bytes, coding: str) -> bytes:
    if coding in {"gzip", "x-gzip"} and data.startswith(GZIP):
        return _inflated(data, zlib.MAX_WBITS | 16)
    if coding == "deflate" and data:
        # By the standard with zlib's header; some servers leave it out.
        bare = data[0] & 15 != 8 or int.from_bytes(data[:2]) % 31
        if bare and data.lstrip()[:1] == b"<":
            return data
        return _inflated(data, -zlib.MAX_WBITS if bare else zlib.MAX_WBITS)
    if coding == "br" and data.lstrip()[:1] != b"<":
        return _read(data, "BrotliReader")
    if coding == "zstd" and data.startswith(ZSTD):
        return _read(data, "ZstdReader")
    return data


def _inflated(data: bytes, bits: int) -> bytes:
    inflater = zlib.decompressobj(bits)
    try:
        body = inflater.decompress(data, LARGEST + 1)
    except zlib.error:
        raise Refused(CANNOT_UNPACK) from None
    if len(body) > LARGEST:
        raise Refused(TOO_LARGE)
    if not inflater.eof:
        raise Refused(CANNOT_UNPACK)
    return body


def _read(data: bytes, reader: str) -> bytes:
    try:
        from fastwarc import stream_io
    except ImportError:
        raise DataError("pages packed with br or zstd need: pip install 'alpenglow[raw]'") from None
    stream = getattr(stream_io, reader)(io.BytesIO(data))
    parts, size = [], 0
    try:
        while part := stream.read(1 << 20):
            size += len(part)
            if size > LARGEST:
                raise Refused(TOO_LARGE)
            parts.append(part)
    except OSError:
        raise Refused(CANNOT_UNPACK) from None
    return b"".join(parts)
