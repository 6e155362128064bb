"""The bytes of a trace file, plain or gzip, in blocks; the next block is fetched beside the work.

zlib and file reads let other threads run, so on a second core unpacking costs next to nothing.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

BLOCK = 1 << 20
_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_WINDOW = 31  # zlib's window argument for a gzip header and 32 KiB of history


class TraceError(ValueError):
    """A trace that cannot be used; the message names the file and what to do."""


class TraceFile:
    """A file's unpacked bytes in blocks of about `BLOCK`, and afterwards whether it was cut.

    `damage` is empty for a sound file, else half a sentence ("the gzip data ends early"). Whether a
    file is gzip is told by its first two bytes, not by its name; members in a row are joined.

    Raises `OSError` where the file cannot be read.
    """

    def __init__(self, path: Path, block: int = BLOCK) -> None:
        self.path = path
        self.damage = ""
        self._block = block

    def __iter__(self) -> Iterator[bytes]:
        """Blocks in order, none empty; one is read ahead."""
        with self.path.open("rb") as raw:
            magic = raw.read(2)
            raw.seek(0)
            blocks = self._unpacked(raw) if magic == _GZIP_MAGIC else self._plain(raw)
            yield from _ahead(blocks)

    def _plain(self, raw: BinaryIO) -> Iterator[bytes]:
        while block := raw.read(self._block):
            yield block

    def _unpacked(self, raw: BinaryIO) -> Iterator[bytes]:
        member = zlib.decompressobj(_GZIP_WINDOW)
        data = b""
        try:
            while data or (data := raw.read(1 << 16)):
                if member.eof:  # another member, or padding
                    data = data.lstrip(b"\0")
                    if not data:
                        continue
                    member = zlib.decompressobj(_GZIP_WINDOW)
                block = member.decompress(data, self._block)
                data = member.unused_data if member.eof else member.unconsumed_tail
                if block:
                    yield block
            while not member.eof and (block := member.decompress(b"", self._block)):
                yield block
        except zlib.error as error:
            self.damage = f"its gzip data is damaged ({error})"
            return
        if not member.eof:
            self.damage = "its gzip data ends early"


def _ahead(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The same blocks; a thread makes the next one while the caller works on this one."""
    slot: list[bytes | BaseException | None] = [None]

    def fetch() -> None:
        try:
            slot[0] = next(blocks, None)
        except BaseException as error:  # handed to the caller's thread, which raises it
            slot[0] = error

    fetch()
    while True:
        block = slot[0]
        if block is None:
            return
        if isinstance(block, BaseException):
            raise block
        thread = threading.Thread(target=fetch, name="trace-ahead", daemon=True)
        thread.start()
        try:
            yield block
        finally:
            thread.join()
