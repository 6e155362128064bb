"""What recording costs: time a span, share of a step, bytes a row.

    python -m alpenglow_profiling.bench [--pairs 60] [--spans 200000]

The step is one that a rank of a pipeline does: 8 micro-batches through the layers of its stage,
forward and backward in torch, activations and gradients copied to and from other memory in the
place of messages, and an optimizer step: 51 spans. It is done with a `Recorder` and with a
`NullRecorder` in turns, in pairs of random order, so that what else the machine does meets both
alike; the ratio of each pair counts, and the interval given holds the median with 95 %
(binomial order statistics). The same is done with processor time, all threads of the process
together, which others that use the machine disturb less. Beside it stands what can be timed apart:
spans without content, and the processor time of the thread that writes. On a machine with CUDA the
same is done on its device.

Sizes are those of times that scatter as in a real run: 6 ranks, all spans kept.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import h5py

from alpenglow_profiling.events import Kind, NullRecorder, Recorder, SpanRecorder, log_path, merge

STEP_SPANS = 55
MICRO_BATCHES = 8


def span_cost(recorder: SpanRecorder, spans: int) -> float:
    """Seconds a span, nothing inside it; the best of five rounds, as others share the machine."""
    best = float("inf")
    for _ in range(5):
        begin = time.perf_counter()
        for _ in range(spans // 5):
            with recorder.span(Kind.FORWARD, micro_batch=3):
                pass
        best = min(best, (time.perf_counter() - begin) / (spans // 5))
    return best


class StageStep:
    """A training step of one pipeline stage.

    Args:
        device: torch's name of it.
        width: of the layers.
        tokens: of a micro-batch.
    """

    def __init__(self, device: str, width: int, tokens: int) -> None:
        import torch

        self._torch: Any = torch
        if device == "cpu":
            torch.set_num_threads(1)  # as a rank that shares its node
        layers: list[Any] = []
        for _ in range(4):
            layers += [torch.nn.Linear(width, 4 * width), torch.nn.GELU()]
            layers += [torch.nn.Linear(4 * width, width)]
        self._stage = torch.nn.Sequential(*layers).to(device)
        self._optimizer = torch.optim.AdamW(self._stage.parameters(), lr=1e-6)
        self._elsewhere = torch.randn(tokens, width, device=device)
        self._here = torch.empty_like(self._elsewhere)

    def __call__(self, recorder: SpanRecorder) -> None:
        """Do it, with a span around each part."""
        copy = self._copy
        with recorder.span(Kind.STEP):
            for i in range(MICRO_BATCHES):
                with recorder.span(Kind.DATA_WAIT, micro_batch=i):
                    pass
                copy(recorder, i, self._here, self._elsewhere)
                with recorder.span(Kind.FORWARD, micro_batch=i):
                    inputs = self._here.clone().requires_grad_()
                    outputs = self._stage(inputs)
                copy(recorder, i, self._elsewhere, outputs.detach())
                with recorder.span(Kind.BACKWARD, micro_batch=i):
                    outputs.backward(self._elsewhere)
                copy(recorder, i, self._elsewhere, inputs.grad)
            with recorder.span(Kind.GRADIENT_REDUCE):
                norm = self._torch.nn.utils.clip_grad_norm_(self._stage.parameters(), 1.0)
            with recorder.span(Kind.OPTIMIZER):
                self._optimizer.step()
                self._optimizer.zero_grad()
            float(norm)  # a trainer looks at its loss: the host waits here for a device

    def _copy(self, recorder: SpanRecorder, micro_batch: int, to: Any, of: Any) -> None:
        with recorder.span(Kind.P2P, micro_batch=micro_batch, bytes=4 * of.numel(), peer=1):
            to.copy_(of)


def step_share(
    step: Callable[[SpanRecorder], None], recorder: SpanRecorder, pairs: int, seed: int = 1
) -> tuple[list[float], list[float], list[float]]:
    """Do a step with a recorder and without, in turns.

    Returns:
        Of each pair seconds without, and the ratio with/without of seconds and of processor time.
    """
    dice, nothing = random.Random(seed), NullRecorder()
    without, ratios, loads = [], [], []
    for number in range(pairs + 2):
        took, used = {}, {}
        for on in dice.choice(((True, False), (False, True))):
            recorder.step = number + 1
            begin, load = time.perf_counter(), time.process_time()
            step(recorder if on else nothing)
            took[on], used[on] = time.perf_counter() - begin, time.process_time() - load
        if number >= 2:  # the first ones warm up
            without.append(took[False])
            ratios.append(took[True] / took[False])
            loads.append(used[True] / used[False])
    return without, ratios, loads


def median_interval(values: Iterable[float]) -> tuple[float, float, float]:
    """Median, and the order statistics that hold it with about 95 % (normal approximation)."""
    ordered = sorted(values)
    half = 0.98 * math.sqrt(len(ordered))
    middle = (len(ordered) - 1) / 2
    low, high = max(0, math.floor(middle - half)), min(len(ordered) - 1, math.ceil(middle + half))
    return statistics.median(ordered), ordered[low], ordered[high]


def row_sizes(directory: Path, steps: int, ranks: int = 6) -> dict[str, float]:
    """Bytes a row in the logs, and of spans and of sums in the merged file."""
    dice = random.Random(1)
    start = time.monotonic_ns()
    for rank in range(ranks):
        with Recorder(directory, rank, "node", world_size=ranks) as recorder:
            now, kinds = start, [Kind.P2P, Kind.FORWARD, Kind.BACKWARD, Kind.P2P]
            for step in range(1, steps + 1):
                recorder.step, begin = step, now
                for i in range(STEP_SPANS - 1):
                    kind = kinds[i % 4]
                    usual = (1e6, 3e5) if kind == Kind.P2P else (8e6, 4e5)
                    end = now + max(1000, int(dice.gauss(*usual)))
                    nbytes = 1 << 24 if kind == Kind.P2P else -1
                    recorder.record(kind, now, end, micro_batch=i // 4, bytes=nbytes)
                    now = end + dice.randrange(2000, 9000)
                recorder.record(Kind.STEP, begin, now)
    spans = steps * STEP_SPANS * ranks
    log = sum(log_path(directory, rank).stat().st_size for rank in range(ranks))
    (path,) = merge(directory)
    with h5py.File(path, "r") as file:
        stored = {
            name: sum(column.id.get_storage_size() for column in file[name].values())
            for name in ("outer", "spans", "sums")
        }
        sums = len(file["sums/rank"])
    return {
        "log": log / (spans + sums),
        "spans": (stored["outer"] + stored["spans"]) / spans,
        "sums": stored["sums"] / sums,
        "sums a step": sums / (steps * ranks),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m alpenglow_profiling.bench")
    parser.add_argument("--spans", type=int, default=200_000, help="without content, and of sizes")
    parser.add_argument("--pairs", type=int, default=60, help="steps with and without recording")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        with Recorder(Path(folder) / "cost", 0, "node", world_size=1) as recorder:
            cost = span_cost(recorder, options.spans)
        nothing = span_cost(NullRecorder(), options.spans)
        print(f"span         {cost * 1e6:.2f} us (recording off: {nothing * 1e6:.2f} us)")
        for device in _devices():
            _print_share(Path(folder) / device, device, options.pairs, cost - nothing)
        size = row_sizes(Path(folder) / "size", max(1, options.spans // STEP_SPANS // 6))
    print(
        f"row          {size['log']:.1f} bytes in the log; in the HDF5 file {size['spans']:.1f} a "
        f"span, {size['sums']:.1f} a sum ({size['sums a step']:.0f} sums a rank and step)"
    )
    return 0


def _devices() -> list[str]:
    import torch

    return ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def _print_share(folder: Path, device: str, pairs: int, span_s: float) -> None:
    step = StageStep(device, *((256, 256) if device == "cpu" else (4096, 4096)))
    clock = None
    if device == "cuda":
        from alpenglow_profiling.cuda import CudaClock

        clock = CudaClock()
    with Recorder(folder, 0, "node", world_size=1, sample_every=10, device=clock) as recorder:
        without, ratios, loads = step_share(step, recorder, pairs)
    usual = statistics.median(without)
    print(f"step, {device:<5}  {usual * 1e3:.0f} ms without recording, with it:")
    for what, values in (("time", ratios), ("processor time", loads)):
        share, low, high = median_interval(ratio - 1 for ratio in values)
        print(f"             {share:+.2%} {what} (95 %: {low:+.2%} to {high:+.2%}; {pairs} pairs)")
    spans, writing = STEP_SPANS * span_s / usual, recorder.thread_s / (recorder.step * usual)
    print(
        f"             timed apart: {spans + writing:.2%}, {STEP_SPANS} spans {spans:.3%} and the "
        f"thread that writes {writing:.3%}"
    )


if __name__ == "__main__":
    sys.exit(main())
