"""Spans timed by a device: an asynchronous one of threads here, CUDA where there is one.

The device is a thread that works through a queue in order, so a marker is passed when the work
before it has been done, which may be long after the host queued it. That is what a CUDA stream
does.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from alpenglow_profiling import recorder as recorder_module
from alpenglow_profiling.device_times import Item, Marker, Marks, on_host_clock
from alpenglow_profiling.events import Kind, Recorder, read
from alpenglow_profiling.log import read_log
from alpenglow_profiling.self_time import sums

SHIFT_S = 1234.5
"""How far the device's clock is from the host's."""


class Event:
    """A marker in the queue of `Device`."""

    def __init__(self) -> None:
        self.passed_s: float | None = None

    def query(self) -> bool:
        return self.passed_s is not None

    def elapsed_time(self, end_event: Event) -> float:
        if self.passed_s is None or end_event.passed_s is None:
            raise RuntimeError("not ready")
        return float(np.float32(1e3 * (end_event.passed_s - self.passed_s)))


class Device:
    """Does what is queued, in order, in a thread of its own."""

    def __init__(self) -> None:
        self.made = 0
        self._idle: list[Event] = []
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self) -> None:
        while (task := self._queue.get()) is not None:
            task()

    def launch(self, task: Callable[[], None]) -> None:
        self._queue.put(task)

    def work(self, seconds: float) -> None:
        self.launch(lambda: time.sleep(seconds))

    def mark(self) -> Marker:
        if not self._idle:
            self.made += 1
            self._idle.append(Event())
        event = self._idle.pop()
        event.passed_s = None
        self.launch(lambda: setattr(event, "passed_s", time.monotonic() + SHIFT_S))
        return event

    def give_back(self, markers: Iterable[Marker]) -> None:
        for marker in markers:
            assert isinstance(marker, Event)
            assert marker.query()
            self._idle.append(marker)

    def wait(self) -> None:
        done = threading.Event()
        self.launch(done.set)
        done.wait()

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join()


@pytest.fixture
def device() -> Iterator[Device]:
    made = Device()
    yield made
    made.close()


def step(recorder: Recorder, device: Device, number: int, *, wait: bool = True) -> None:
    """Two micro-batches: the host queues them at once, the device takes a while."""
    recorder.step = number
    with recorder.span(Kind.STEP):
        for i in range(2):
            with recorder.span(Kind.DATA_WAIT, micro_batch=i):
                if i == 0:
                    time.sleep(0.004)  # the device has nothing to do; the second time it has
            with recorder.span(Kind.FORWARD, micro_batch=i):
                device.work(0.003)
                with recorder.span(Kind.TENSOR_REDUCE, group=0):
                    device.work(0.002)
        with recorder.span(Kind.OPTIMIZER):
            device.work(0.001)
        if wait:
            device.wait()


def held_up() -> tuple[threading.Event, Callable[[], None]]:
    """An event, and work that lasts until it is set."""
    event = threading.Event()

    def wait() -> None:
        assert event.wait(30)

    return event, wait


def test_passes_last_as_long_as_the_device_takes(tmp_path: Path, device: Device) -> None:
    with Recorder(tmp_path, 0, "h", world_size=1, device=device) as recorder:
        for number in range(1, 6):
            step(recorder, device, number)
            with recorder.span(Kind.CHECKPOINT):
                time.sleep(0.002)
    rows = read_log(recorder.path).rows
    lengths = rows["end_ns"] - rows["begin_ns"]
    for kind, least in (
        (Kind.FORWARD, 5e6), (Kind.TENSOR_REDUCE, 2e6), (Kind.OPTIMIZER, 1e6),
        (Kind.CHECKPOINT, 2e6),
    ):  # fmt: skip
        assert (lengths[rows["kind"] == kind] > 0.99 * least).all(), kind
    # Waiting for data counts where the device waited too: not while it had a pass to do.
    waits = rows[rows["kind"] == Kind.DATA_WAIT]
    took = waits["end_ns"] - waits["begin_ns"]
    first, second = (took[waits["micro_batch"] == i] for i in range(2))
    assert (first > 3.5e6).all()
    assert np.median(second) < np.median(first)


def test_spans_nest_and_add_up_to_the_step(tmp_path: Path, device: Device) -> None:
    host: list[tuple[int, int]] = []
    with Recorder(tmp_path, 0, "h", world_size=1, device=device, flush_seconds=0.002) as recorder:
        for number in range(1, 11):
            begin = time.monotonic_ns()
            step(recorder, device, number)
            device.wait()  # the end of the step is queued last
            host.append((begin, time.monotonic_ns()))
    log = read_log(recorder.path)
    told = {(row["step"], row["kind"]): row["own_ns"] for row in log.sums}
    made = {(row["step"], row["kind"]): row["own_ns"] for row in sums(log.rows)}
    assert told == made
    events = read(tmp_path)
    steps = events.outer[events.outer["kind"] == Kind.STEP]
    lengths = steps["end_ns"] - steps["begin_ns"]
    assert (events.sums.own_ns.sum(axis=(1, 2)) == lengths).all()
    assert (events.sums.own_ns >= 0).all()
    for number, (begin, end) in enumerate(host, 1):
        rows = log.rows[log.rows["step"] == number]
        (whole,) = rows[rows["kind"] == Kind.STEP]
        assert (rows["begin_ns"] >= whole["begin_ns"]).all()
        assert (rows["end_ns"] <= whole["end_ns"]).all()
        # On the host's clock, though the device's is far from it. The host waited for the device,
        # so the device's step lies within the host's; it is placed too early at most.
        assert whole["begin_ns"] >= begin
        assert whole["end_ns"] <= end
        reduces, passes = (rows[rows["kind"] == k] for k in (Kind.TENSOR_REDUCE, Kind.FORWARD))
        assert (reduces["begin_ns"] >= passes["begin_ns"]).all()
        assert (reduces["end_ns"] <= passes["end_ns"]).all()


def test_steps_queued_ahead_follow_each_other_and_markers_are_used_again(
    tmp_path: Path, device: Device
) -> None:
    with Recorder(tmp_path, 0, "h", world_size=1, device=device, flush_seconds=0.001) as recorder:
        for number in range(1, 31):
            step(recorder, device, number, wait=number % 3 == 0)
            recorder.flush()
    steps = read(tmp_path).outer
    assert steps["step"].tolist() == list(range(1, 31))
    assert (steps["begin_ns"][1:] >= steps["end_ns"][:-1]).all()
    assert device.made <= 4 * 14  # of three steps without a wait and the one under way, not of 30


def test_what_the_device_has_not_passed_is_not_waited_for(tmp_path: Path, device: Device) -> None:
    held, wait = held_up()
    with Recorder(tmp_path, 0, "h", world_size=1, device=device, flush_seconds=60) as recorder:
        step(recorder, device, 1)
        recorder.step = 2
        with recorder.span(Kind.STEP):
            with recorder.span(Kind.FORWARD):
                device.work(0.001)
            device.wait()
            device.launch(wait)
            with recorder.span(Kind.BACKWARD):
                device.work(0.001)
        recorder.flush()  # returns at once: the device stands
        log = read_log(recorder.path)
        assert log.sums["step"].max() == 2
        assert log.rows["kind"][log.rows["step"] == 2].tolist() == [Kind.FORWARD]
        assert log.rows["kind"][log.rows["step"] == 1].tolist().count(Kind.STEP) == 1
        held.set()
    log = read_log(recorder.path)
    found = log.rows["kind"][log.rows["step"] == 2].tolist()
    assert sorted(found) == [Kind.FORWARD, Kind.BACKWARD, Kind.STEP]
    assert log.unread == 0


def test_a_device_that_never_comes_is_left(
    tmp_path: Path,
    device: Device,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(recorder_module, "DEVICE_SECONDS", 0.05)
    held, wait = held_up()
    recorder = Recorder(tmp_path, 0, "h", world_size=1, device=device, flush_seconds=60)
    step(recorder, device, 1)
    recorder.step = 2
    with recorder.span(Kind.STEP), recorder.span(Kind.P2P, peer=1):
        device.launch(wait)
    recorder.close()
    held.set()
    assert "the device is behind" in caplog.text
    assert set(read(tmp_path).rows["step"]) == {1}


class Broken(Event):
    """A marker of a device that has failed, as CUDA events are after an illegal access."""

    def query(self) -> bool:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore")


def test_a_device_that_fails_takes_only_its_own_times(
    tmp_path: Path,
    device: Device,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with Recorder(tmp_path, 0, "h", world_size=1, device=device, flush_seconds=60) as recorder:
        step(recorder, device, 1)
        recorder.flush()
        monkeypatch.setattr(device, "mark", Broken)
        step(recorder, device, 2)
        with recorder.span(Kind.CHECKPOINT):
            pass
    assert "tells no times: CUDA error: an illegal memory access was encountered" in caplog.text
    rows = read(tmp_path).rows
    assert len(rows[rows["step"] == 1]) == 8
    assert rows["kind"][rows["step"] == 2].tolist() == [Kind.STEP, Kind.CHECKPOINT]


def test_an_error_of_the_device_is_the_one_that_is_told(
    tmp_path: Path, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> Marker:
        raise RuntimeError("no marker")

    recorder = Recorder(tmp_path, 0, "h", world_size=1, device=device)
    with (
        pytest.raises(RuntimeError, match="illegal address"),
        recorder.span(Kind.STEP),
        recorder.span(Kind.FORWARD),
    ):
        monkeypatch.setattr(device, "mark", refuse)
        raise RuntimeError("illegal address")
    recorder.close()
    assert read(tmp_path).rows["kind"].tolist() == [Kind.STEP, Kind.FORWARD]


def test_times_between_markers_become_host_times() -> None:
    """The host was ahead by 10, 2 and 40 ns: the least of it ties the clocks."""
    origin, second, third = Event(), Event(), Event()
    for event, at in ((origin, 5.0), (second, 5.001), (third, 5.003)):
        event.passed_s = at
    inner: Item = (1, 4, 0, 2_000_990, 2_002_998, -1, -1, -1, Marks(origin, second, third))
    outer: Item = (1, 15, -1, 1_000_990, 2_002_999, -1, -1, -1, Marks(origin, origin, third))
    late: Item = (0, 4, 0, 5, 6, -1, -1, -1, Marks(second, second, third))
    spans = on_host_clock([late, inner, outer])
    assert spans[0] == late[:8]
    assert [span[3:5] for span in spans[1:]] == [(2_000_990, 4_000_990), (1_000_990, 4_000_990)]
    later = on_host_clock([inner, outer], after_ns=1_000_995)
    assert [span[3:5] for span in later] == [(2_000_995, 4_000_995), (1_000_995, 4_000_995)]


@pytest.mark.gpu
def test_cuda_events_time_a_matrix_product(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("requires a GPU")
    from alpenglow_profiling.cuda import CudaClock

    a = torch.randn(4096, 4096, device="cuda")
    a @ a
    with Recorder(tmp_path, 0, "h", world_size=1, device=CudaClock()) as recorder:
        for number in range(1, 6):
            torch.cuda.synchronize()
            recorder.step = number
            with recorder.span(Kind.STEP):
                with recorder.span(Kind.FORWARD):
                    begin = time.monotonic_ns()
                    for _ in range(10):
                        a @ a
                    queued = time.monotonic_ns() - begin
                torch.cuda.synchronize()
                whole = time.monotonic_ns() - begin
            rows = [queued, whole]
    log = read_log(recorder.path)
    passes = log.rows[log.rows["kind"] == Kind.FORWARD]
    lengths = passes["end_ns"] - passes["begin_ns"]
    assert len(passes) == 5
    assert rows[0] < lengths[-1] < 1.05 * rows[1]
    for number in range(1, 6):
        own = log.sums["own_ns"][log.sums["step"] == number].sum()
        (step_row,) = log.rows[(log.rows["step"] == number) & (log.rows["kind"] == Kind.STEP)]
        assert own == step_row["end_ns"] - step_row["begin_ns"]
