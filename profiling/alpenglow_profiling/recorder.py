"""The recorder of one rank: spans into a buffer, the buffer into a log, off the critical path.

    recorder = Recorder(run / "events" / segment, rank, host, world_size=size)
    recorder.step = 7
    with recorder.span(Kind.STEP):
        with recorder.span(Kind.FORWARD, micro_batch=0):
            ...
    recorder.close()

Closing a span packs 41 bytes into a preallocated buffer. A thread writes what has gathered as one
checksummed block each `flush_seconds`; a kill loses what was recorded since. A disk that fills up
ends the recording, never the training.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from contextlib import AbstractContextManager
from pathlib import Path
from time import monotonic_ns
from types import TracebackType
from typing import Protocol

from alpenglow_profiling.kind import PACKED, ROW, Kind
from alpenglow_profiling.log import ROWS, clock_pair, encode, encode_about

LOG = logging.getLogger(__name__)


class SpanRecorder(Protocol):
    """What a trainer holds: a `Recorder`, or a `NullRecorder` where nothing is to be kept."""

    step: int
    """The step (1-based; 0 before the first) that rows begun from now on belong to."""

    def span(
        self,
        kind: Kind,
        micro_batch: int = -1,
        bytes: int = -1,
        group: int = -1,
        peer: int = -1,
    ) -> AbstractContextManager[object]:
        """Record the time from entering to leaving the `with` block."""
        ...

    def record(
        self,
        kind: Kind,
        begin_ns: int,
        end_ns: int,
        micro_batch: int = -1,
        bytes: int = -1,
        group: int = -1,
        peer: int = -1,
    ) -> None:
        """Record a span that was timed elsewhere, in ns of `time.monotonic_ns()`."""
        ...

    def spent_ns(self, kind: Kind) -> int:
        """Nanoseconds of all spans of a kind so far, nested ones counted each."""
        ...

    def flush(self) -> None:
        """Write what has gathered. Not to be called from a signal handler."""
        ...

    def close(self) -> None:
        """Flush, sync and close; later spans are ignored."""
        ...


class _Span:
    """One open span."""

    __slots__ = (
        "_begin",
        "_bytes",
        "_group",
        "_kind",
        "_micro_batch",
        "_peer",
        "_recorder",
        "_step",
    )

    def __init__(
        self, recorder: Recorder, kind: Kind, micro_batch: int, nbytes: int, group: int, peer: int
    ) -> None:
        self._recorder = recorder
        self._kind = kind
        self._micro_batch = micro_batch
        self._bytes = nbytes
        self._group = group
        self._peer = peer

    def __enter__(self) -> _Span:
        self._step = self._recorder.step
        self._begin = monotonic_ns()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._recorder._append(
            self._step,
            self._kind,
            self._micro_batch,
            self._begin,
            monotonic_ns(),
            self._bytes,
            self._group,
            self._peer,
        )


class Recorder:
    """Records the spans of one rank; any thread may record.

    Args:
        directory: `events/SEGMENT` of the run; made if absent.
        rank: global rank, names the log.
        node: host name; the logs of one node become one HDF5 file.
        world_size: number of ranks, so that a reader can tell when some are missing.
        capacity: rows that fit the buffer before a flush is forced.
        flush_seconds: longest time that a row stays in memory.

    Raises:
        OSError: the directory or the log cannot be made.
    """

    def __init__(
        self,
        directory: Path,
        rank: int,
        node: str,
        *,
        world_size: int,
        capacity: int = 8192,
        flush_seconds: float = 1.0,
    ) -> None:
        self.step = 0
        self.failure: str | None = None
        self.path = log_path(directory, rank)
        directory.mkdir(parents=True, exist_ok=True)
        self._rank = rank
        self._flush_seconds = flush_seconds
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._size = capacity * ROW.itemsize
        self._full: list[tuple[bytearray, int]] = []
        self._spare = [bytearray(self._size)]
        self._buffer, self._end = bytearray(self._size), 0
        self._closed = False
        self._spent = [0] * (max(Kind) + 1)
        self._wake = threading.Event()
        # Appending: a rank starts once in a segment, and if it started twice, both would count.
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            _write(self._file, encode_about(rank, node, world_size))
        except OSError:
            os.close(self._file)
            raise
        self._thread = threading.Thread(target=self._run, name="event-log", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def span(
        self,
        kind: Kind,
        micro_batch: int = -1,
        bytes: int = -1,
        group: int = -1,
        peer: int = -1,
    ) -> AbstractContextManager[object]:
        """See `SpanRecorder.span`. Spans may nest."""
        return _Span(self, kind, micro_batch, bytes, group, peer)

    def record(
        self,
        kind: Kind,
        begin_ns: int,
        end_ns: int,
        micro_batch: int = -1,
        bytes: int = -1,
        group: int = -1,
        peer: int = -1,
    ) -> None:
        """See `SpanRecorder.record`."""
        self._append(self.step, kind, micro_batch, begin_ns, end_ns, bytes, group, peer)

    def _append(
        self,
        step: int,
        kind: Kind,
        micro_batch: int,
        begin_ns: int,
        end_ns: int,
        nbytes: int,
        group: int,
        peer: int,
    ) -> None:
        with self._lock:
            if self._closed:
                return
            self._spent[kind] += end_ns - begin_ns
            if self._end == self._size:
                self._swap()
                self._wake.set()
            PACKED.pack_into(
                self._buffer,
                self._end,
                self._rank,
                step,
                kind,
                micro_batch,
                begin_ns,
                end_ns,
                nbytes,
                group,
                peer,
            )
            self._end += ROW.itemsize

    def spent_ns(self, kind: Kind) -> int:
        """See `SpanRecorder.spent_ns`."""
        return self._spent[kind]

    def _swap(self) -> None:
        """Put the buffer aside for the thread; the caller holds the lock."""
        self._full.append((self._buffer, self._end))
        self._buffer = self._spare.pop() if self._spare else bytearray(self._size)
        self._end = 0

    def flush(self) -> None:
        """See `SpanRecorder.flush`."""
        if os.getpid() != self._pid:
            return  # a forked child: the rows are the parent's to write
        with self._writing:
            with self._lock:
                if self._end:
                    self._swap()
                full, self._full = self._full, []
            for buffer, end in full:
                if self.failure is None:
                    self._write_block(bytes(memoryview(buffer)[:end]))
            with self._lock:
                self._spare.extend(buffer for buffer, _ in full[: 2 - len(self._spare)])

    def _write_block(self, rows: bytes) -> None:
        try:
            _write(self._file, encode(rows, ROWS, *clock_pair()))
        except OSError as error:
            self.failure = f"{self.path}: recording ends here: {error.strerror}"
            LOG.warning("%s", self.failure)

    def _run(self) -> None:
        while not self._closed:
            self._wake.wait(self._flush_seconds)
            self._wake.clear()
            self.flush()

    def close(self) -> None:
        """See `SpanRecorder.close`. Closing twice is harmless."""
        if self._closed or os.getpid() != self._pid:
            return
        with self._lock:
            self._closed = True
        self._wake.set()
        self._thread.join()
        self.flush()
        if self.failure is None:
            os.fsync(self._file)
        os.close(self._file)
        atexit.unregister(self.close)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _NoSpan:
    """A span that leaves no trace; one serves all."""

    def __enter__(self) -> _NoSpan:
        return self

    def __exit__(self, *_: object) -> None:
        return None


_NO_SPAN = _NoSpan()


class NullRecorder:
    """Same shape as `Recorder`, keeps nothing."""

    def __init__(self) -> None:
        self.step = 0

    def span(
        self,
        kind: Kind,
        micro_batch: int = -1,
        bytes: int = -1,
        group: int = -1,
        peer: int = -1,
    ) -> AbstractContextManager[object]:
        """Do nothing."""
        return _NO_SPAN

    def record(
        self,
        kind: Kind,
        begin_ns: int,
        end_ns: int,
        micro_batch: int = -1,
        bytes: int = -1,
        group: int = -1,
        peer: int = -1,
    ) -> None:
        """Do nothing."""

    def spent_ns(self, kind: Kind) -> int:
        """Nothing was recorded."""
        return 0

    def flush(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def log_path(directory: Path, rank: int) -> Path:
    """Where a rank of this segment logs: `rank-00000.log`."""
    return directory / f"rank-{rank:05d}.log"


def _write(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
