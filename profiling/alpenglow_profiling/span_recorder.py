"""What a trainer holds to say where its time goes: a recorder's shape, and one that keeps nothing.

The recorder that keeps spans is `alpenglow_profiling.recorder.Recorder`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from alpenglow_profiling.kind import Kind


class OpenSpan(Protocol):
    """A span between entering and leaving."""

    bytes: int
    """May be set until the span is left, where it is not known before; -1: unknown."""


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
    ) -> AbstractContextManager[OpenSpan]:
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
        """Nanoseconds of all spans of a kind so far on the host's clock, nested ones counted each.

        On a GPU this is the time of queueing and waiting, not what the spans' rows will say.
        """
        ...

    def flush(self) -> None:
        """Write what has gathered. Not to be called from a signal handler."""
        ...

    def close(self) -> None:
        """Flush, sync and close; later spans are ignored."""
        ...


class _NoSpan:
    """A span that leaves no trace; one serves all."""

    bytes = -1

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
    ) -> AbstractContextManager[OpenSpan]:
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
