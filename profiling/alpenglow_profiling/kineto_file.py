"""The bytes of a trace file in blocks; gzip is unpacked by a thread beside the work.

zlib lets other threads run, so on a second core unpacking costs next to nothing.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

BLOCK = 1 << 19
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
            if magic == _GZIP_MAGIC:
                yield from _ahead(self._unpacked(raw))
            else:  # the system reads ahead by itself
                yield from iter(lambda: raw.read(self._block), b"")

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
    """The same blocks; a thread makes the next ones while the caller works on this one."""
    ready: queue.Queue[bytes | BaseException | None] = queue.Queue(2)
    stop = threading.Event()

    def work() -> None:
        try:
            for block in blocks:
                ready.put(block)
                if stop.is_set():
                    return
            ready.put(None)
        except BaseException as error:  # handed to the caller's thread, which raises it
            ready.put(error)

    thread = threading.Thread(target=work, name="trace-ahead", daemon=True)
    thread.start()
    try:
        while (block := ready.get()) is not None:
            if isinstance(block, BaseException):
                raise block
            yield block
    finally:
        stop.set()
        while thread.is_alive():  # it may be waiting for room
            with contextlib.suppress(queue.Empty):
                ready.get(timeout=0.01)
        thread.join()
