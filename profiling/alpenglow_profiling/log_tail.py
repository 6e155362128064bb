"""The end of a log that is still being written: what whole blocks came since the last look.

Nothing is written, merged or removed: a watcher may look at a running segment as often as it likes.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from alpenglow_profiling.blocks import HEADER_BYTES, MAGIC, block_at
from alpenglow_profiling.kind import ROW, SUM, Rows, Sums
from alpenglow_profiling.log import ABOUT, ROWS, STEPS, decode_steps, fits

LOOK_BACK = 1 << 20
"""Bytes before the end at which the first look begins: a long log is not read again."""


class LogTail:
    """Follows one log.

    Args:
        path: the log; it may not be there yet.
        look_back: bytes before its end at which the first look begins.
    """

    def __init__(self, path: Path, look_back: int = LOOK_BACK) -> None:
        self.path = path
        self.node = ""
        """Host name; empty until the log has said it."""
        self.world_size = 0
        self._look_back = look_back
        self._position: int | None = None
        """Up to where blocks were read; None before the first look."""

    def news(self) -> tuple[Rows, Sums]:
        """Spans and sums of the blocks that have become whole since the last call.

        A block that is not whole yet is left for the next call; damaged bytes before a whole one
        are stepped over. A log that cannot be read gives nothing.
        """
        data = self._unread()
        rows, told = [np.empty(0, ROW)], [np.empty(0, SUM)]
        position = whole = 0
        while position < len(data):
            block = block_at(data, position)
            if block is None:
                following = data.find(MAGIC, position + 1)
                if following < 0:
                    break
                position = following
                continue
            position += HEADER_BYTES + len(block.payload)
            whole = position
            if not fits(block):
                continue
            if block.kind == ABOUT:
                self._about(bytes(block.payload))
            elif block.kind == ROWS:
                rows.append(np.frombuffer(block.payload, ROW))
            elif block.kind == STEPS:
                sums, kept = decode_steps(block.payload)
                told.append(sums)
                rows.append(kept)
        self._position = (self._position or 0) + whole
        return np.concatenate(rows), np.concatenate(told)

    def _unread(self) -> bytes:
        try:
            with self.path.open("rb") as file:
                size = file.seek(0, 2)
                if self._position is None or size < self._position:
                    self._position = max(0, size - self._look_back)
                    file.seek(0)
                    block = block_at(file.read(4096), 0)
                    if block is not None and block.kind == ABOUT:
                        self._about(bytes(block.payload))
                if size == self._position:
                    return b""
                file.seek(self._position)
                return file.read(size - self._position)
        except OSError:
            return b""

    def _about(self, payload: bytes) -> None:
        about = json.loads(payload)
        self.node, self.world_size = str(about["node"]), int(about["world_size"])
