"""Markers of a CUDA device: events that are used again and again.

    recorder = Recorder(..., device=CudaClock())

An event is recorded on the stream that is current where a span begins or ends. Collectives of
torch.distributed run on streams of their own, and the current one waits for them: so what is
measured of them is what holds up the work behind them. In the backward pass autograd sets the
stream of the forward pass, whichever thread it runs in.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from alpenglow_profiling.device_times import Marker


class CudaClock:
    """A pool of timing events, all on the device that is current at first use."""

    def __init__(self) -> None:
        self._idle: list[Marker] = []

    def mark(self) -> Marker:
        """See `DeviceClock.mark`."""
        try:
            event = self._idle.pop()
        except IndexError:
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()  # type: ignore[attr-defined] # every marker of this pool is an event
        return event

    def give_back(self, markers: Iterable[Marker]) -> None:
        """See `DeviceClock.give_back`."""
        self._idle.extend(markers)
