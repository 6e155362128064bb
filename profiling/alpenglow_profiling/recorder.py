"""The recorder of one rank: spans into a list, the list into a log, off the critical path.

    recorder = Recorder(run / "events" / segment, rank, host, world_size=size, sample_every=10)
    recorder.step = 7
    with recorder.span(Kind.STEP):
        with recorder.span(Kind.FORWARD, micro_batch=0):
            ...
    recorder.close()

Closing a span appends one tuple. A thread does the rest each `flush_seconds`: it adds the steps
that have ended up (`step_sums.py`), decides whose spans are kept (`sampling.py`) and writes
checksummed blocks, the spans of the step under way too; a kill loses what was recorded since. A
disk that fills up ends the recording, never the training.

**On a GPU** (`device`) all spans inside a step and the step itself are timed by the device
(`device_times.py`). A STEP span is then from where the device reaches its begin in the queue to
where it has done all that was queued in it, so spans nest in it exactly and their sums add up to
it. Waiting for data is timed so as well: it counts as far as the device had nothing to do
meanwhile. What lies between steps (checkpoint, evaluation, start-up, drain) is the host's. A step
is read once the device has passed it, so its sums may be a flush late.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from contextlib import AbstractContextManager
from pathlib import Path
from time import monotonic, monotonic_ns, sleep, thread_time
from types import TracebackType

from alpenglow_profiling.device_times import DeviceClock, Item, Marker, Marks
from alpenglow_profiling.kind import OUTER, Kind
from alpenglow_profiling.log import encode_about
from alpenglow_profiling.log_file import LogFile
from alpenglow_profiling.sampling import StepSampling
from alpenglow_profiling.span_recorder import OpenSpan
from alpenglow_profiling.steps_under_way import Due, StepsUnderWay

LOG = logging.getLogger(__name__)
DEVICE_SECONDS = 10.0
"""How long closing waits for the device. Where a peer has died it may never pass the last marker,
and the rank must still end."""


class _Span:
    """One open span."""

    __slots__ = (
        "_begin",
        "_group",
        "_kind",
        "_mark",
        "_micro_batch",
        "_origin",
        "_peer",
        "_recorder",
        "_step",
        "bytes",
    )

    def __init__(
        self, recorder: Recorder, kind: Kind, micro_batch: int, nbytes: int, group: int, peer: int
    ) -> None:
        self._recorder = recorder
        self._kind = kind
        self._micro_batch = micro_batch
        self.bytes = nbytes
        self._group = group
        self._peer = peer

    def __enter__(self) -> _Span:
        recorder = self._recorder
        self._step = recorder.step
        self._begin = monotonic_ns()
        if recorder.device is not None:
            self._origin, self._mark = recorder._marked(self._kind)
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        end = monotonic_ns()
        recorder, kind = self._recorder, self._kind
        marks = None
        if recorder.device is not None and self._origin is not None:
            assert self._mark is not None
            try:
                marks = Marks(self._origin, self._mark, recorder.device.mark())
            except RuntimeError:  # a device that failed takes no markers either
                if error is None:
                    raise
        if kind is Kind.STEP:
            recorder._step_ends(self._step, broken=error_type is not None)
        recorder._append(
            (
                self._step,
                kind,
                self._micro_batch,
                self._begin,
                end,
                self.bytes,
                self._group,
                self._peer,
                marks,
            )
        )


class Recorder:
    """Records the spans of one rank; any thread may record.

    Args:
        directory: `events/SEGMENT` of the run; made if absent.
        rank: global rank, names the log.
        node: host name; the logs of one node become one HDF5 file.
        world_size: number of ranks, so that a reader can tell when some are missing.
        sample_every: spans inside steps are kept of each step whose number this divides, of the
            first two, and around anomalies; 1 keeps all. Sums are kept of every step.
        device: times the spans inside steps on a device (`cuda.CudaClock`); None: the host does.
        capacity: spans that may gather before a flush is forced.
        flush_seconds: longest time that a span stays in memory alone.

    Raises:
        OSError: the directory or the log cannot be made.
        ValueError: `sample_every` is less than 1.
    """

    def __init__(
        self,
        directory: Path,
        rank: int,
        node: str,
        *,
        world_size: int,
        sample_every: int = 1,
        device: DeviceClock | None = None,
        capacity: int = 8192,
        flush_seconds: float = 1.0,
    ) -> None:
        self.step = 0
        self.device = device
        self.failure: str | None = None
        self.thread_s = 0.0
        """Processor time of the thread that writes, until its last flush."""
        self.path = log_path(directory, rank)
        self._steps = StepsUnderWay(rank, StepSampling(sample_every), device)
        directory.mkdir(parents=True, exist_ok=True)
        self._flush_seconds = flush_seconds
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._capacity = capacity
        self._items: list[Item] = []
        self._origin: Marker | None = None
        self._closed = False
        self._spent = [0] * (max(Kind) + 1)
        self._wake = threading.Event()
        about = encode_about(rank, node, world_size, sample_every=sample_every)
        self._log = LogFile(self.path, about)
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
    ) -> AbstractContextManager[OpenSpan]:
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
        self._append((self.step, kind, micro_batch, begin_ns, end_ns, bytes, group, peer, None))

    def _append(self, item: Item) -> None:
        with self._lock:
            if self._closed:
                return
            self._spent[item[1]] += item[4] - item[3]
            self._items.append(item)
            if len(self._items) == self._capacity:
                self._wake.set()

    def _marked(self, kind: Kind) -> tuple[Marker | None, Marker | None]:
        """The origin of this step's times and a marker for a begin; (None, None): the host's."""
        assert self.device is not None
        if kind is Kind.STEP:
            self._origin = mark = self.device.mark()
            return mark, mark
        origin = None if kind in OUTER else self._origin
        return origin, None if origin is None else self.device.mark()

    def _step_ends(self, step: int, *, broken: bool) -> None:
        self._origin = None
        if broken:
            self._steps.broken.add(step)

    def spent_ns(self, kind: Kind) -> int:
        """See `SpanRecorder.spent_ns`."""
        return self._spent[kind]

    def flush(self) -> None:
        """See `SpanRecorder.flush`."""
        if os.getpid() != self._pid:
            return  # a forked child: the spans are the parent's to write
        with self._writing:
            with self._lock:
                items, self._items = self._items, []
            if self.failure is not None:
                return
            try:
                self._write(self._steps.take(items))
            except Exception as error:  # a number that fits no row, a full disk: training goes on
                why = error.strerror if isinstance(error, OSError) else error
                self.failure = f"{self.path}: recording ends here: {why}"
                LOG.warning("%s", self.failure)

    def _write(self, due: Due) -> None:
        if due.settles:
            self._log.settle(due.sums, due.spans, due.late, due.unfinished)
        elif due.unfinished:
            self._log.add(due.unfinished)

    def _run(self) -> None:
        while not self._closed:
            self._wake.wait(self._flush_seconds)
            self._wake.clear()
            self.flush()
            self.thread_s = thread_time()

    def close(self) -> None:
        """See `SpanRecorder.close`. Closing twice is harmless."""
        if self._closed or os.getpid() != self._pid:
            return
        with self._lock:
            self._closed = True
        self._wake.set()
        self._thread.join()
        self.flush()
        until = monotonic() + DEVICE_SECONDS
        while self._steps.behind and monotonic() < until:
            sleep(0.001)
        self.flush()
        if self._steps.behind:
            LOG.warning("%s: the device is behind: its last spans are left out", self.path)
        if self._steps.lost is not None:
            LOG.warning("%s: the device tells no times: %s", self.path, self._steps.lost)
        self._log.close(sync=self.failure is None)
        atexit.unregister(self.close)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def log_path(directory: Path, rank: int) -> Path:
    """Where a rank of this segment logs: `rank-00000.log`."""
    return directory / f"rank-{rank:05d}.log"
