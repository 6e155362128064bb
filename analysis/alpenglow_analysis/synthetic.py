"""A lawful run directory with known times, made without a machine.

It shows what a report looks like before there is a run, and gives tests and the bench a truth:
without jitter every span has the length that is written here, to the ns; with faults planted,
`planted.json` says where they are and how much time each took.

    python -m alpenglow_analysis.synthetic runs/example --pipeline 2 --tensor 2 --data 2
    python -m alpenglow_analysis.synthetic runs/summit --preset 3072
    python -m alpenglow_analysis.report runs/example
"""

from __future__ import annotations

import json
import sys
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import tomli_w

from alpenglow_analysis.planted import Clocks, LongCheckpoint
from alpenglow_analysis.synthetic_files import SegmentEvents, node_name
from alpenglow_analysis.synthetic_rows import NodeClocks, Recorded
from alpenglow_analysis.synthetic_steps import StepModel
from alpenglow_analysis.synthetic_truth import Past, truth
from alpenglow_analysis.synthetic_work import Times
from alpenglow_profiling.kind import Kind

CREATED = 1_700_000_000
"""Unix seconds at which the first segment starts: 14 November 2023, 22:13:20 UTC."""
MONOTONIC_OFFSET_NS = 1_699_000_000 * 10**9
"""Wall clock minus CLOCK_MONOTONIC on every node whose clock is not disturbed."""
ANOMALY = 1.5
"""A step so many times as long as the median of its segment is kept, with its neighbours."""


@dataclass(frozen=True)
class Segment:
    """What one job of the run does."""

    first_step: int
    last_step: int
    """One less than the first: it ended before it had trained a step."""
    killed: bool = False
    """Killed after its last step: no record of its end, events as they were."""
    reason: str = "complete"
    activity: str = "pretrain"
    cut: float = 0.0
    """How much of the step after the last had passed when the job was killed."""
    queued_s: float = 600.0
    """Time since the segment before."""


@dataclass(frozen=True)
class Synthetic(StepModel):
    """A run to be made. Times in ns."""

    segments: tuple[Segment, ...]
    _: KW_ONLY
    machine: str = "synthetic"
    gpus_per_node: int = 0
    peak_flops_per_rank: float | None = None
    spare_nodes: int = 0
    """Nodes that are asked for and charged, and run nothing."""
    launch: int = 4_000_000_000
    startup: int = 9_000_000_000
    restart: int = 0
    """Reading a checkpoint, where a segment does not begin with step 1."""
    shutdown: int = 2_000_000_000
    pause: int = 3_000_000
    """Between two steps, in no span."""
    checkpoint: int = 700_000_000
    checkpoint_every: int = 50
    sample_every: int = 1
    """Spans are kept of each step whose number this divides, of the first two of a segment and
    around anomalies; of the others their sums."""
    form: Literal["logs", "nodes"] = "logs"
    """A log for each rank, or the merged file of each node."""

    def elapsed(self, segment: Segment) -> int:
        """Time in ns that a segment is charged for a node, without a fault and a cut step."""
        steps = range(segment.first_step, segment.last_step + 1)
        saves = sum(step % self.checkpoint_every == 0 for step in steps)
        body = self._ready(segment) + len(steps) * (self.step + self.pause)
        end = 0 if segment.killed else self.shutdown
        return body + saves * self.checkpoint + end

    def lost_from(self, number: int) -> int | None:
        """The first step of a segment, counted from 0, that a later one trains again."""
        later = self.segments[number + 1 :]
        return min((s.first_step for s in later if s.activity == "pretrain"), default=None)

    def write(self, path: Path) -> Path:
        """Make the run directory."""
        (path / "segments").mkdir(parents=True)
        (path / "run.toml").write_text(tomli_w.dumps(self._facts(path.name)), encoding="utf-8")
        begin = CREATED * 10**9
        lines: list[str] = []
        past: dict[str, Past] = {}
        for number, segment in enumerate(self.segments):
            name = f"{1001 + number}.0"
            if number:
                begin += round(segment.queued_s * 1e9)
            end = begin + self.launch
            if segment.activity == "pretrain":
                end, past[name] = self._segment(path, name, number, begin, lines)
            self._record(path, name, segment, begin, end)
            begin = end
        (path / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")
        planted = truth(self, past)
        (path / "planted.json").write_text(json.dumps(planted, indent=1), encoding="utf-8")
        return path

    @property
    def _tokens(self) -> int:
        return 2 * 2048 * self.micro_batches * self.layout.data

    def _ready(self, segment: Segment) -> int:
        """Time from a segment's begin to its first step."""
        return self.launch + self.startup + (self.restart if segment.first_step > 1 else 0)

    def _segment(
        self, path: Path, name: str, number: int, begin: int, lines: list[str]
    ) -> tuple[int, Past]:
        """Write events and metrics lines of one segment; returns when it ended, and its steps."""
        segment = self.segments[number]
        first, last = segment.first_step, segment.last_step
        length = self.lengths(number, first, last)
        now = begin + self._ready(segment)
        up = begin + self.launch + self.startup
        outside = [(Kind.STARTUP, 0, begin + self.launch, up)]
        if now > up:
            outside.append((Kind.RESTART, 0, up, now))
        step = np.arange(first, last + 1)
        saves = np.where(step % self.checkpoint_every == 0, self.checkpoint, 0)
        for fault in self.planted:
            if isinstance(fault, LongCheckpoint):
                saves[(step == fault.step) & (saves > 0)] += fault.extra_ns
        whole = length + self.pause + saves
        begins = now + np.cumsum(whole) - whole
        now += int(whole.sum())
        for i in np.flatnonzero(saves):
            saving = int(begins[i] + length[i]) + self.pause
            outside.append((Kind.CHECKPOINT, int(step[i]), saving, saving + int(saves[i])))

        clocks, error = self._clocks(number, begin)
        recorded = Recorded.empty(self, clocks, first, last)
        kept, place = self._kept(step, length), 0
        for block in self.played(number, first, last):
            part = slice(place, place + len(block.length))
            recorded.add(block, begins[part], kept[part])
            place = part.stop
        unfinished, killed = None, now
        if segment.killed and segment.cut:
            (cut,) = self.played(number, last + 1, last + 1)
            unfinished = Recorded.empty(self, clocks, last + 1, last + 1)
            unfinished.add(cut, np.array([now]), np.ones(1, bool))
            killed = now = now + int(segment.cut * cut.length[0])
        flushes = np.linspace(begin + self.launch, now, 2 + (now - begin) // 30_000_000_000)
        events = SegmentEvents(
            name, recorded, outside, flushes.astype(np.int64), error, self.sample_every,
            unfinished, killed,
        )  # fmt: skip
        folder = path / "events" / name
        events.write_nodes(folder) if self.form == "nodes" else events.write_logs(folder)
        lines += self._lines(name, number, step, length, begins)
        past = Past(step, begins, length, clocks)
        return now + (0 if segment.killed else self.shutdown), past

    def _kept(self, step: Times, length: Times) -> npt.NDArray[np.bool_]:
        kept = step % self.sample_every == 0
        kept[:2] = True
        odd = np.flatnonzero(length > ANOMALY * np.median(length)) if len(step) else step
        for near in (odd - 1, odd, odd + 1):
            kept[np.clip(near, 0, len(step) - 1)] = True
        return np.asarray(kept)

    def _clocks(self, number: int, begin: int) -> tuple[NodeClocks, Times]:
        """Clocks of the nodes in a segment, and how far their wall clocks are off."""
        offset = np.full(self.nodes, -MONOTONIC_OFFSET_NS)
        drift, error = np.zeros(self.nodes, np.int64), np.zeros(self.nodes, np.int64)
        for fault in self.planted:
            if isinstance(fault, Clocks):
                dice = np.random.default_rng([self.seed, 1 << 20, number])
                size = self.nodes
                drift = np.rint(dice.normal(0, fault.drift, size) * 2**30).astype(np.int64)
                error = np.rint(dice.normal(0, fault.offset_ns, size)).astype(np.int64)
                offset -= dice.integers(0, 10**15, size)  # each node booted at a time of its own
        return NodeClocks(offset, drift, begin), error

    def _lines(
        self, name: str, number: int, step: Times, length: Times, begins: Times
    ) -> list[str]:
        dice = np.random.default_rng([self.seed, 1 << 21, number])
        losses = 1.9 + 8.6 / (1 + step / 12) ** 0.6 + 0.03 * dice.standard_normal(len(step))
        lines = []
        for s, loss, took, begin in zip(
            step.tolist(), losses.tolist(), length.tolist(), begins.tolist(), strict=True
        ):
            fields = {
                "segment": name,
                "step": s,
                "loss": round(loss, 4),
                "tokens": s * self._tokens,
                "lr": 1.2e-4,
                "grad_norm": 1.0,
                "loss_scale": 1.0,
                "step_time_s": took / 1e9,
                "tokens_per_s": self._tokens / (took / 1e9),
                "time": (begin + took) / 1e9,
            }
            lines.append(json.dumps(fields) + "\n")
        return lines

    def _facts(self, name: str) -> dict[str, Any]:
        machine: dict[str, Any] = {
            "name": self.machine,
            "nodes": self.nodes,
            "ranks": self.ranks,
            "ranks_per_node": self.ranks_per_node,
            "gpus_per_node": self.gpus_per_node,
        }
        if self.peak_flops_per_rank is not None:
            machine["peak_flops_per_rank"] = self.peak_flops_per_rank
        shape = self.layout
        return {
            "run": {
                "name": name,
                "activity": "pretrain",
                "created": "2023-11-14T22:13:20+00:00",
                "code_version": "synthetic",
            },
            "machine": machine,
            "layout": {
                "pipeline": shape.pipeline,
                "tensor": shape.tensor,
                "data": shape.data,
                "order": shape.order,
            },
            "batch": {
                "micro_batch_size": 2,
                "micro_batches": self.micro_batches,
                "sequence_length": 2048,
                "tokens_per_step": self._tokens,
            },
            "data": {"catalogue": "none", "fingerprint": "none", "tokenizer": "none"},
            "recipe": {"parallel": {"schedule": self.schedule}},
            "model": {
                "parameters": 6_857_302_016,
                "flops_per_token": 4.31e10,
                "flops_formula": "Narayanan et al. 2021, without recompute",
            },
        }

    def _record(self, path: Path, name: str, segment: Segment, begin: int, end: int) -> None:
        job, attempt = name.split(".")
        trained = segment.activity == "pretrain"
        nodes = self.nodes + self.spare_nodes if trained else 1
        side = {
            "resumed_from_step": segment.first_step - 1,
            "last_step": segment.last_step,
            "last_durable_checkpoint": segment.last_step
            - segment.last_step % self.checkpoint_every,
            "startup_s": self.startup / 1e9,
            "heartbeat": end / 1e9,
        }
        record = {
            "format": 1,
            "job_id": job,
            "attempt": int(attempt),
            "activity": segment.activity,
            "machine": self.machine,
            "submitted": begin / 1e9 - segment.queued_s / 2,
            "started": begin / 1e9,
            "heartbeat": None,
            "ended": None if segment.killed else end / 1e9,
            "nodes_asked": nodes,
            "nodes_used": self.nodes if trained else 1,
            "nodes_charged": nodes,
            "ranks": self.ranks if trained else 1,
            "hosts": [node_name(n) for n in range(self.nodes)],
            "charge_rule": "nodes x elapsed",
            "exit_code": None if segment.killed else (85 if segment.reason == "more to do" else 0),
            "reason": None if segment.killed else segment.reason,
            "reason_text": "",
        }
        folder = path / "segments"
        if segment.killed:
            (folder / f"{name}.rank0.json").write_text(json.dumps(side), encoding="utf-8")
        elif trained:
            record |= side
        (folder / f"{name}.json").write_text(json.dumps(record), encoding="utf-8")


if __name__ == "__main__":
    from alpenglow_analysis.synthetic_presets import main

    sys.exit(main())
