"""Passes the output of many ranks through, whole lines at a time.

Ranks write at the same moment; their lines may come in any order but never inside one another.
"""

from __future__ import annotations

import os
from selectors import EVENT_READ, BaseSelector

LONGEST = 1 << 16


class Pump:
    """Reads file descriptors as they become ready and writes whole lines to their sinks."""

    def __init__(self, selector: BaseSelector) -> None:
        self._selector = selector
        self._partial: dict[int, bytes] = {}
        self._sinks: dict[int, tuple[int, bytes]] = {}

    def add(self, source: int, sink: int, prefix: bytes = b"") -> None:
        """Pass `source` on to `sink`, each line after `prefix`; the pump closes `source`."""
        os.set_blocking(source, False)
        self._sinks[source] = (sink, prefix)
        self._partial[source] = b""
        self._selector.register(source, EVENT_READ, self)

    def read(self, source: int) -> bool:
        """Pass on what is there; False once the source has ended or holds nothing now."""
        try:
            data = os.read(source, LONGEST)
        except BlockingIOError:
            return False
        if not data:
            self._close(source)
            return False
        whole, partial = self._split(self._partial[source] + data)
        self._partial[source] = partial
        self._write(source, whole)
        return True

    def drain(self) -> None:
        """Pass on everything that is left, unfinished lines too, and close all sources."""
        for source in list(self._sinks):
            while source in self._sinks and self.read(source):
                pass
            if source in self._sinks:
                self._close(source)

    @staticmethod
    def _split(data: bytes) -> tuple[bytes, bytes]:
        # A carriage return ends a line too: progress bars redraw with it.
        end = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
        if end == 0 and len(data) > LONGEST:
            end = len(data)
        return data[:end], data[end:]

    def _close(self, source: int) -> None:
        partial = self._partial.pop(source)
        if partial:
            self._write(source, partial + b"\n")
        self._selector.unregister(source)
        del self._sinks[source]
        os.close(source)

    def _write(self, source: int, data: bytes) -> None:
        sink, prefix = self._sinks[source]
        if prefix and data:
            data = b"".join(prefix + line for line in data.splitlines(keepends=True))
        while data:
            data = data[os.write(sink, data) :]
