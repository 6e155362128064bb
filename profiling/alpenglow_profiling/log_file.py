"""The log of a rank as it is being written: what is settled, and behind it what is not yet.

Blocks of steps that ended are settled. Spans of the step under way are written too, as blocks of
type UNFINISHED behind the settled end, so that a death leaves them; once the step has ended, what
is settled of it takes their place. So a log grows by what is kept, not by what was recorded. The
form of the blocks stands in `log.py`.
"""

from __future__ import annotations

import os
from pathlib import Path

from alpenglow_profiling.blocks import clock_pair, encode
from alpenglow_profiling.log import ROWS, UNFINISHED, encode_steps


class LogFile:
    """The open file. One thread at a time may use it.

    A file that is already there is gone on with behind its end: a rank that is started again in the
    same segment adds to what it left.

    Args:
        path: the log.
        about: the block that says whose it is (`log.encode_about`).

    Raises:
        OSError: it cannot be made or written.
    """

    def __init__(self, path: Path, about: bytes) -> None:
        # Not O_APPEND: on Linux pwrite would heed it and not the offset.
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._settled = os.fstat(self._file).st_size
        try:
            self._settled += self._write(about, self._settled)
        except OSError:
            os.close(self._file)
            raise
        self._end = self._settled

    def settle(self, sums: bytes, spans: bytes, late: bytes, unfinished: bytes) -> None:
        """Write what has ended, in the place of what was written of it before it had.

        Args:
            sums: packed `SUM` rows of steps that ended.
            spans: packed `ROW` rows of these steps that are kept.
            late: the same of earlier steps whose sums are already there.
            unfinished: all rows since the last step's end.

        Raises:
            OSError: it cannot be written.
        """
        pair = clock_pair()
        data = encode(late, ROWS, *pair) if late else b""
        if sums or spans:
            data += encode_steps(sums, spans, *pair)
        settled = self._settled + len(data)
        if unfinished:
            data += encode(unfinished, UNFINISHED, *pair)
        end = self._settled + self._write(data, self._settled)
        if end < self._end:
            os.ftruncate(self._file, end)  # a whole block may lie there, and the rest of one
        self._settled, self._end = settled, end

    def add(self, unfinished: bytes) -> None:
        """Write more rows of the step under way.

        Raises:
            OSError: it cannot be written.
        """
        self._end += self._write(encode(unfinished, UNFINISHED, *clock_pair()), self._end)

    def close(self, *, sync: bool) -> None:
        """Close the file; `sync` waits until the disk has it."""
        try:
            if sync:
                os.fsync(self._file)
        finally:
            os.close(self._file)

    def _write(self, data: bytes, offset: int) -> int:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._file, view, offset)
            view, offset = view[written:], offset + written
        return len(data)
