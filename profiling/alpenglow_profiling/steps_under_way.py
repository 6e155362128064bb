"""From spans as they are recorded to what the log gets: sums of every step, spans of some.

A step ends with its STEP span. Its sums and its outer spans are then due; the spans inside it too
if it is kept (`sampling.py`). They are held until the next step has ended, which may be an anomaly
that wants the one before it. What was recorded since the last step's end is the step under way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from alpenglow_profiling.device_times import DeviceClock, Item, markers, on_host_clock, passed
from alpenglow_profiling.kind import OUTER, Kind
from alpenglow_profiling.sampling import StepSampling
from alpenglow_profiling.step_sums import Span, pack, step_sums

_OUTER = frozenset(int(kind) for kind in OUTER)
_STEP = int(Kind.STEP)


@dataclass
class Due:
    """Packed rows for the log."""

    sums: bytes = b""
    """Of steps that ended since the last call."""
    spans: bytes = b""
    """Of the same steps: outer ones, and those inside the kept ones."""
    late: bytes = b""
    """Spans inside earlier steps that are kept after all."""
    unfinished: bytes = b""
    """What is known of the step under way: all of it where steps ended, else what is new."""

    @property
    def settles(self) -> bool:
        """Whether a step has ended."""
        return bool(self.sums or self.spans or self.late)


class StepsUnderWay:
    """The steps that have not been written, in order; used by one thread at a time.

    Args:
        rank: whose they are.
        sampling: says which steps are kept.
        device: gets its markers back once they are read; None: all times are the host's.
    """

    def __init__(self, rank: int, sampling: StepSampling, device: DeviceClock | None) -> None:
        self._rank = rank
        self._sampling = sampling
        self._device = device
        self._waiting: deque[list[Item]] = deque()
        self._open: list[Item] = []
        self._unwritten: list[Item] = []
        self._held: list[Span] = []
        self._device_end_ns = 0
        self.broken: set[int] = set()
        """Numbers of steps that ended by an exception; any thread adds to it."""
        self.lost: str | None = None
        """Why the device tells no more times; then its spans are left out."""

    def take(self, items: Iterable[Item]) -> Due:
        """Take what was recorded since the last call; returns what to write."""
        for item in items:
            self._open.append(item)
            self._unwritten.append(item)
            if item[1] == _STEP:
                self._waiting.append(self._open)
                self._open = []
        due = Due()
        while self._waiting and (spans := self._read(self._waiting[0])) is not None:
            self._waiting.popleft()
            self._finish(spans, due)
        if due.settles:
            self._unwritten = [item for step in (*self._waiting, self._open) for item in step]
        due.unfinished = self._unfinished()
        return due

    @property
    def behind(self) -> bool:
        """Whether the device has not yet passed all that was recorded."""
        return any(not self._passed(item) for item in self._unwritten)

    def _read(self, items: list[Item]) -> list[Span] | None:
        """The spans of a step that has ended; None while the device is behind."""
        if not all(self._passed(item) for item in items):
            return None
        spans = self._timed(items)
        if self._device is not None and self.lost is None:
            used = markers(items)
            if used:
                self._device_end_ns = spans[-1][4]
                self._device.give_back(used)
        return spans

    def _finish(self, spans: list[Span], due: Due) -> None:
        step, _, _, begin, end, *_ = spans[-1]
        inner = [span for span in spans if span[1] not in _OUTER]
        broken = step in self.broken
        self.broken.discard(step)
        keep, before = self._sampling.look(step, end - begin, broken=broken)
        if before and self._held:
            due.late += pack(self._rank, self._held)
        due.sums += step_sums(self._rank, spans)
        due.spans += pack(
            self._rank, spans if keep else [span for span in spans if span[1] in _OUTER]
        )
        self._held = [] if keep else inner

    def _unfinished(self) -> bytes:
        ready: list[Item] = []
        later: list[Item] = []
        for item in self._unwritten:
            (ready if self._passed(item) else later).append(item)
        self._unwritten = later
        rows = b""
        for step in _by_origin(ready):
            rows += pack(self._rank, self._timed(step))
        return rows

    def _passed(self, item: Item) -> bool:
        try:
            return passed(item)
        except RuntimeError as error:
            self._lose(error)
            return True

    def _timed(self, items: Sequence[Item]) -> list[Span]:
        if self.lost is None:
            try:
                return on_host_clock(items, self._device_end_ns)
            except RuntimeError as error:
                self._lose(error)
        # The STEP span stays, in the host's time, so that the step counts as ended.
        return [item[:8] for item in items if item[8] is None or item[1] == _STEP]

    def _lose(self, error: RuntimeError) -> None:
        self.lost = self.lost or str(error).partition("\n")[0]


def _by_origin(items: list[Item]) -> list[list[Item]]:
    """The spans with marks of each step apart, host's own ones with any."""
    found: dict[int, list[Item]] = {}
    for item in items:
        found.setdefault(0 if item[8] is None else id(item[8].origin), []).append(item)
    return list(found.values())
