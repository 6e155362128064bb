"""Times of a device on the host's clock, from markers in its queue, without waiting for it.

A host that trains on a GPU only queues work, so the clock that it reads around a pass says nothing
of the pass. A marker (a CUDA event, `cuda.py`) is queued where a span begins and where it ends; the
device passes it later and notes when. How long after another marker that was can be asked once both
are passed, so a step is read late, when it costs no wait.

Markers know no clock but their own. What ties them to the host's is cause: none is passed before it
was queued. With h when the host queued a marker and d how long after the step's first marker the
device passed it, that first marker was passed at max(h - d) or later, and where the device waits
for work at any moment of the step, not much later than that: by the time from queueing to running,
some microseconds. Each step has its own first marker, for the distance of two CUDA events is a
float32 of milliseconds: good to 0.1 us over a second, to 0.25 ms over an hour.

Within a step all times come from one such sum, and rounding keeps order, so spans nest as the
device ran them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from alpenglow_profiling.step_sums import Span


class Marker(Protocol):
    """A place in the queue of a device; `torch.cuda.Event` is one."""

    def query(self) -> bool:
        """Whether the device has passed it; returns at once."""

    def elapsed_time(self, end_event: Any) -> float:
        """Milliseconds from this marker to another; both are passed."""


class DeviceClock(Protocol):
    """Puts markers into the queue that this thread works with."""

    def mark(self) -> Marker:
        """A marker behind all that is queued by now; returns at once."""

    def give_back(self, markers: Iterable[Marker]) -> None:
        """These are read and may be queued again."""


@dataclass(frozen=True, slots=True)
class Marks:
    """Where a span begins and ends in the device's queue."""

    origin: Marker
    """The first of its step."""
    begin: Marker
    end: Marker


Item: TypeAlias = tuple[int, int, int, int, int, int, int, int, Marks | None]
"""A `Span` as it was recorded: its times are the host's, its marks, if any, tell the device's."""


def passed(item: Item) -> bool:
    """Whether the times of a span can be told: the device has left it, or it is the host's own.

    Raises:
        RuntimeError: the device failed.
    """
    return item[8] is None or item[8].end.query()


def on_host_clock(items: Sequence[Item], after_ns: int = 0) -> list[Span]:
    """Spans in the time of the host's clock, in their order.

    Args:
        items: all `passed`; those with marks belong to the step of the last that has any (what
            another thread ended too late keeps the host's times).
        after_ns: when the device ended its step before; this one does not begin earlier.

    Raises:
        RuntimeError: the device failed.
    """
    origin = next((item[8].origin for item in reversed(items) if item[8] is not None), None)
    if origin is None:
        return [item[:8] for item in items]
    places: list[tuple[int, int] | None] = []
    zero = after_ns
    for item in items:
        marks = item[8]
        if marks is None or marks.origin is not origin:
            places.append(None)
            continue
        begin = round(origin.elapsed_time(marks.begin) * 1e6) if marks.begin is not origin else 0
        end = round(origin.elapsed_time(marks.end) * 1e6)
        zero = max(zero, item[3] - begin, item[4] - end)
        places.append((begin, end))
    return [
        item[:8] if place is None else (*item[:3], zero + place[0], zero + place[1], *item[5:8])
        for item, place in zip(items, places, strict=True)
    ]


def markers(items: Iterable[Item]) -> list[Marker]:
    """All markers of these spans, each once."""
    found: dict[int, Marker] = {}
    for item in items:
        if item[8] is not None:
            for marker in (item[8].origin, item[8].begin, item[8].end):
                found[id(marker)] = marker
    return list(found.values())
