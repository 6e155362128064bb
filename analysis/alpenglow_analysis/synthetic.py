"""A lawful run directory with known times, made without a machine.

It shows what a report looks like before there is a run, and gives the tests a truth: with
`jitter = 0` every span has the length that is written here, to the ns.

    python -m alpenglow_analysis.synthetic runs/example --pipeline 2 --tensor 2 --data 2
    python -m alpenglow_analysis.report runs/example
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tomli_w

from alpenglow.parallel.layout import Layout
from alpenglow.parallel.schedule import COMPUTE, SCHEDULES, Action
from alpenglow.parallel.timeline import Durations, timeline
from alpenglow_profiling.blocks import encode
from alpenglow_profiling.events import ROW, Kind, Rows, log_path
from alpenglow_profiling.log import ROWS, encode_about

CREATED = 1_700_000_000
"""Unix seconds at which the first segment starts: 14 November 2023, 22:13:20 UTC."""
_PASSES = {
    Action.forward: (Kind.FORWARD, 0, -1),
    Action.backward: (Kind.BACKWARD, 1, 1),
    Action.backward_input: (Kind.BACKWARD, 1, 1),
    Action.backward_weight: (Kind.WEIGHT_GRAD, 2, 0),
}
"""Kind of a pass, its place in the table of durations, how far off the stage is that it needs."""
MONOTONIC_OFFSET_NS = 1_699_000_000 * 10**9
"""Wall clock minus CLOCK_MONOTONIC on every node."""


@dataclass(frozen=True)
class Segment:
    """What one job of the run does."""

    first_step: int
    last_step: int
    killed: bool = False
    """Killed right after its last step: no record of its end, logs as they were."""
    reason: str = "complete"
    activity: str = "pretrain"


@dataclass(frozen=True)
class Synthetic:
    """A run to be made. Times in ns."""

    layout: Layout
    micro_batches: int
    segments: tuple[Segment, ...]
    machine: str = "synthetic"
    ranks_per_node: int = 4
    gpus_per_node: int = 0
    peak_flops_per_rank: float | None = None
    spare_nodes: int = 0
    """Nodes that are asked for and charged, and run nothing."""
    launch: int = 4_000_000_000
    startup: int = 9_000_000_000
    shutdown: int = 2_000_000_000
    schedule: str = "1f1b"
    forward: int = 30_000_000
    backward: int = 60_000_000
    """Of the input alone where the schedule is zb-h1."""
    weight_grad: int = 30_000_000
    """Counts where the schedule is zb-h1."""
    tensor_reduce: int = 4_000_000
    """Inside each forward and each backward."""
    data_wait: int = 1_000_000
    """Once a step, before the pipeline starts."""
    gradient_reduce: int = 12_000_000
    optimizer: int = 9_000_000
    pause: int = 3_000_000
    """Between two steps, in no span."""
    checkpoint: int = 700_000_000
    checkpoint_every: int = 50
    jitter: float = 0.0
    """Relative standard deviation of each forward and backward."""
    slow_rank: int = -1
    slow_factor: float = 1.0
    seed: int = 1

    @property
    def ranks(self) -> int:
        """Ranks of the run."""
        return self.layout.world

    @property
    def nodes(self) -> int:
        """Nodes that run ranks."""
        return -(-self.ranks // self.ranks_per_node)

    @property
    def makespan(self) -> int:
        """Time in ns from the first pass to the last, without jitter."""
        took = Durations(self.forward, self.backward, self.weight_grad)
        if self.schedule != "zb-h1":
            took = Durations(self.forward, self.backward, 0)
        slots = timeline(
            self.schedule, self.layout.pipeline, self.micro_batches, took, rendezvous=False
        )
        return round(max(slot.end for slot in slots))

    @property
    def step(self) -> int:
        """Length in ns of a whole step, without jitter."""
        return self.data_wait + self.makespan + self.gradient_reduce + self.optimizer

    def elapsed(self, segment: Segment) -> int:
        """Time in ns that a segment is charged for a node, without jitter."""
        steps = range(segment.first_step, segment.last_step + 1)
        saves = sum(step % self.checkpoint_every == 0 for step in steps)
        body = self.launch + self.startup + len(steps) * (self.step + self.pause)
        end = 0 if segment.killed else self.shutdown
        return body + saves * self.checkpoint + end

    def write(self, path: Path) -> Path:
        """Make the run directory."""
        (path / "segments").mkdir(parents=True)
        (path / "run.toml").write_text(tomli_w.dumps(self._facts(path.name)), encoding="utf-8")
        dice = np.random.default_rng(self.seed)
        begin = CREATED * 10**9
        lines: list[str] = []
        for number, segment in enumerate(self.segments, start=1):
            name = f"{1000 + number}.0"
            end = self._segment(path, name, segment, begin, dice, lines)
            self._record(path, name, segment, begin, end)
            begin = end + 600 * 10**9
        (path / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")
        return path

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
            "layout": {"pipeline": shape.pipeline, "tensor": shape.tensor, "data": shape.data},
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

    @property
    def _tokens(self) -> int:
        return 2 * 2048 * self.micro_batches * self.layout.data

    def _segment(
        self,
        path: Path,
        name: str,
        segment: Segment,
        begin: int,
        dice: np.random.Generator,
        lines: list[str],
    ) -> int:
        """Write logs and metrics lines of one segment; returns when it ended, in wall ns."""
        if segment.activity != "pretrain":
            return begin + self.launch
        now = begin + self.launch
        tables: list[list[Rows]] = [[] for _ in range(self.ranks)]
        for rank, table in enumerate(tables):
            table.append(_rows(rank, 0, [(Kind.STARTUP, -1, now, now + self.startup)]))
        now += self.startup
        for step in range(segment.first_step, segment.last_step + 1):
            if self.jitter or not tables[0][1:]:
                spans = self._step(dice)
                end = max(own[-1][3] for own in spans)
                shapes = [
                    _rows(r, 0, [*own, (Kind.STEP, -1, 0, end)]) for r, own in enumerate(spans)
                ]
            for table, shape in zip(tables, shapes, strict=True):
                rows = shape.copy()
                rows["step"] = step
                rows["begin_ns"] += now
                rows["end_ns"] += now
                table.append(rows)
            now += end
            lines.append(self._line(name, step, end, now, dice))
            now += self.pause
            if step % self.checkpoint_every == 0:
                for rank, table in enumerate(tables):
                    table.append(
                        _rows(rank, step, [(Kind.CHECKPOINT, -1, now, now + self.checkpoint)])
                    )
                now += self.checkpoint
        folder = path / "events" / name
        folder.mkdir(parents=True)
        clock = (now - MONOTONIC_OFFSET_NS, now)
        for rank, table in enumerate(tables):
            rows = np.concatenate(table)
            rows["begin_ns"] -= MONOTONIC_OFFSET_NS
            rows["end_ns"] -= MONOTONIC_OFFSET_NS
            about = encode_about(rank, f"n{rank // self.ranks_per_node:03d}", self.ranks, clock)
            half = len(rows) // 2
            blocks = [encode(part.tobytes(), ROWS, *clock) for part in (rows[:half], rows[half:])]
            log_path(folder, rank).write_bytes(about + b"".join(blocks))
        return now + (0 if segment.killed else self.shutdown)

    def _step(self, dice: np.random.Generator) -> list[list[tuple[Kind, int, int, int]]]:
        """Spans (kind, micro-batch, begin, end) of every rank in one step that begins at 0."""
        shape, m = self.layout, self.micro_batches
        size = (shape.world, 3, m)
        base = np.array([self.forward, self.backward, self.weight_grad]).reshape(1, 3, 1)
        took = np.broadcast_to(base, size) * (1 + self.jitter * dice.standard_normal(size))
        took = np.maximum(took, base * 0.5)
        if self.slow_rank >= 0:
            took[self.slow_rank] *= self.slow_factor
        spans: list[list[tuple[Kind, int, int, int]]] = [[] for _ in range(shape.world)]
        for data in range(shape.data):
            self._pipeline(data, np.rint(took).astype(np.int64), spans)
        done = max(own[-1][3] for own in spans)
        for own in spans:
            own.append((Kind.GRADIENT_REDUCE, -1, done, done + self.gradient_reduce))
            done_reducing = done + self.gradient_reduce
            own.append((Kind.OPTIMIZER, -1, done_reducing, done_reducing + self.optimizer))
        return spans

    def _pipeline(
        self,
        data: int,
        took: npt.NDArray[np.int64],
        spans: list[list[tuple[Kind, int, int, int]]],
    ) -> None:
        """Play one replica's schedule; a stage moves at the pace of its slowest tensor rank."""
        shape, m = self.layout, self.micro_batches
        stages = range(shape.pipeline)
        groups = [[shape.rank(s, data, t) for t in range(shape.tensor)] for s in stages]
        queues = [
            [i for i in SCHEDULES[self.schedule](shape.pipeline, m, s) if i.action in COMPUTE]
            for s in stages
        ]
        ends: dict[tuple[int, Action, int], int] = {}
        free = [self.data_wait] * shape.pipeline
        for group in groups:
            for rank in group:
                spans[rank].append((Kind.DATA_WAIT, -1, 0, self.data_wait))
        while any(queues):
            for s in stages:
                while queues[s]:
                    item = queues[s][0]
                    kind, place, ahead = _PASSES[item.action]
                    needed = (s + ahead, item.action, item.micro_batch)
                    if ahead and 0 <= needed[0] < shape.pipeline and needed not in ends:
                        break
                    queues[s].pop(0)
                    ready = max(free[s], ends.get(needed, 0))
                    end = ready + int(took[groups[s], place, item.micro_batch].max())
                    for rank in groups[s]:
                        own = spans[rank]
                        if ready > free[s]:
                            own.append((Kind.P2P, item.micro_batch, free[s], ready))
                        # The faster ranks of a tensor group wait in its collective.
                        slack = end - ready - int(took[rank, place, item.micro_batch])
                        inner = self.tensor_reduce + slack
                        if inner and shape.tensor > 1 and ahead:
                            own.append((Kind.TENSOR_REDUCE, item.micro_batch, end - inner, end))
                        own.append((kind, item.micro_batch, ready, end))
                    free[s] = ends[s, item.action, item.micro_batch] = end

    def _line(self, name: str, step: int, took: int, now: int, dice: np.random.Generator) -> str:
        loss = 1.9 + 8.6 / (1 + step / 12) ** 0.6 + 0.03 * float(dice.standard_normal())
        fields = {
            "segment": name,
            "step": step,
            "loss": round(loss, 4),
            "tokens": step * self._tokens,
            "lr": 1.2e-4,
            "grad_norm": 1.0,
            "loss_scale": 1.0,
            "step_time_s": took / 1e9,
            "tokens_per_s": self._tokens / (took / 1e9),
            "time": now / 1e9,
        }
        return json.dumps(fields) + "\n"

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
            "submitted": begin / 1e9 - 300,
            "started": begin / 1e9,
            "heartbeat": None,
            "ended": None if segment.killed else end / 1e9,
            "nodes_asked": nodes,
            "nodes_used": self.nodes if trained else 1,
            "nodes_charged": nodes,
            "ranks": self.ranks if trained else 1,
            "hosts": [f"n{n:03d}" for n in range(self.nodes)],
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


def _rows(rank: int, step: int, spans: Sequence[tuple[Kind, int, int, int]]) -> Rows:
    table = [(rank, step, int(k), m, begin, end, -1, -1, -1) for k, m, begin, end in spans]
    return np.array(table, dtype=ROW)


def main(arguments: Sequence[str] | None = None) -> int:
    """Make an example run: three segments, one of them killed, with jitter and a slow rank."""
    parser = argparse.ArgumentParser(prog="python -m alpenglow_analysis.synthetic")
    parser.add_argument("run", type=Path, help="the directory to be made")
    for name, value in (("pipeline", 2), ("tensor", 2), ("data", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--micro-batches", type=int, default=8)
    parser.add_argument("--schedule", choices=list(SCHEDULES), default="1f1b")
    parser.add_argument("--ranks-per-node", type=int, default=4)
    parser.add_argument("--gpus-per-node", type=int, default=0)
    parser.add_argument("--peak-flops", type=float, default=None, help="FLOP/s of a rank")
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args(arguments)
    if options.run.exists():
        sys.stderr.write(f"{options.run} exists: name a directory that can be made\n")
        return 1
    layout = Layout(options.pipeline, options.tensor, options.data)
    first, second = options.steps * 2 // 5, options.steps * 7 // 10
    every = max(1, options.steps // 8)
    resumed = second - second % every
    Synthetic(
        layout=layout,
        micro_batches=options.micro_batches,
        schedule=options.schedule,
        segments=(
            Segment(1, first, reason="more to do"),
            Segment(first + 1, second, killed=True),
            Segment(resumed + 1, options.steps),
        ),
        ranks_per_node=options.ranks_per_node,
        gpus_per_node=options.gpus_per_node,
        peak_flops_per_rank=options.peak_flops,
        checkpoint_every=every,
        jitter=0.04,
        slow_rank=layout.world - 1,
        slow_factor=1.08,
    ).write(options.run)
    return 0


if __name__ == "__main__":
    sys.exit(main())
