"""A running job as it is seen from outside: its records, the end of its metrics and of its logs.

Each look reads only what has been written since the one before, and writes nothing into the run:
logs are neither merged nor removed.
"""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from alpenglow_analysis.run import Facts
from alpenglow_analysis.segment import RunError, Segment
from alpenglow_lsf.files import read_json
from alpenglow_profiling.kind import Kind
from alpenglow_profiling.log_tail import LogTail
from alpenglow_profiling.self_time import sums

WINDOW = 32
"""Steps that a look goes back over."""
SLOW = 1.03
"""A rank this much slower than its peers over the window is named."""
_USEFUL = (Kind.FORWARD, Kind.BACKWARD, Kind.WEIGHT_GRAD)
_WAITING = (Kind.P2P, Kind.STEP, Kind.DATA_WAIT)
_KINDS = 32


@dataclass(frozen=True)
class SlowRank:
    """A rank beyond its peers."""

    rank: int
    node: str
    stage: int
    factor: float


@dataclass(frozen=True)
class Look:
    """What one look found."""

    segment: str
    running: bool
    """Its record is open, and it gave a sign of life within the patience of the watcher."""
    over: bool
    """Nothing more is to come: the run is complete or its chain has ended."""
    reason: str
    """Why the segment ended; empty while it runs."""
    since_s: float
    """Seconds since it started."""
    silent_s: float
    """Seconds since its last sign of life."""
    step: int
    steps: int | None
    """Steps of the whole run; None where the recipe does not say."""
    loss: float
    tokens_per_s: float
    """At the median of the last steps."""
    step_s: float
    shares: dict[Kind, float]
    """What the last steps were made of, mean over ranks; STEP is time in no span."""
    useful: float
    waiting: float
    """In point-to-point messages, for data, or in no span."""
    slow: tuple[SlowRank, ...]
    heard: int
    """Ranks that have told of a step in the window."""


class Watcher:
    """Looks at a run again and again.

    Args:
        run: the run directory.
        patience_s: a segment that gives no sign of life for so long counts as dead.

    Raises:
        RunError: not a run directory.
    """

    def __init__(self, run: Path, patience_s: float = 900.0) -> None:
        if not run.is_dir():
            raise RunError(f"{run}: no such run directory")
        self.run = run
        self.facts = Facts.load(run / "run.toml")
        self._patience = patience_s
        self._segment = ""
        self._tails: dict[int, LogTail] = {}
        self._own: dict[int, dict[int, npt.NDArray[np.int64]]] = defaultdict(dict)
        self._lines: list[dict[str, Any]] = []
        self._read = 0
        self._heard_at = 0.0
        self._stage = np.array(
            [self.facts.layout.coordinates(rank)[0] for rank in range(self.facts.layout.world)]
        )

    def look(self, now: float | None = None) -> Look:
        """Read what is new and say how the run stands.

        Args:
            now: unix seconds; the clock's if None.
        """
        now = time.time() if now is None else now
        record = self._newest()
        if record is None:
            return _nothing(now - self.run.stat().st_mtime > self._patience)
        if record.name != self._segment:
            self._segment = record.name
            self._tails, self._own = {}, defaultdict(dict)
            self._heard_at = 0.0
        first = not self._heard_at
        new = self._metrics() | self._logs()
        if first:
            times = [_changed(tail.path) for tail in self._tails.values()]
            self._heard_at = max([record.started, *times])
        elif new:
            self._heard_at = now
        closed = record.reason not in ("not closed", "no batch job")
        life = max(record.ended, self._heard_at, _last(self._lines))
        silent = max(0.0, now - life)
        running = not closed and silent < self._patience
        over = not running and (record.reason != "more to do" or silent >= self._patience)
        own = self._window()
        step_s, shares = _shares(own)
        train = self.facts.recipe.get("train", {})
        steps = train.get("steps") if isinstance(train, dict) else None
        last = self._lines[-1] if self._lines else {}
        return Look(
            segment=record.name,
            running=running,
            over=over,
            reason="" if not closed else record.reason,
            since_s=(record.ended if closed else now) - record.started,
            silent_s=silent,
            step=int(last.get("step", 0)),
            steps=steps if isinstance(steps, int) else None,
            loss=_number(last.get("loss")),
            tokens_per_s=_median(self._lines, "tokens_per_s"),
            step_s=step_s if step_s else _median(self._lines, "step_time_s"),
            shares=shares,
            useful=sum(shares.get(kind, 0.0) for kind in _USEFUL),
            waiting=sum(shares.get(kind, 0.0) for kind in _WAITING),
            slow=self._slow(own),
            heard=len({rank for ranks in own.values() for rank in ranks}),
        )

    def _newest(self) -> Segment | None:
        found = []
        for path in (self.run / "segments").glob("*.json"):
            if path.stem.endswith(".rank0"):
                continue
            fields = read_json(path)
            if fields is None or fields.get("activity") != self.facts.activity:
                continue
            try:
                found.append(Segment.load(path, ranks_per_node=self.facts.slots_per_node))
            except RunError:
                continue  # it is being written
        if found:
            return max(found, key=lambda segment: (segment.started, segment.name))
        # A trainer started by hand has no record: the folder of its events is one.
        folders = [path for path in (self.run / "events").glob("*.*") if path.is_dir()]
        if not folders:
            return None
        newest = max(folders, key=lambda path: path.stat().st_mtime)
        times = [path.stat().st_mtime for path in newest.iterdir()] or [newest.stat().st_mtime]
        return Segment.without_record(
            newest.name, newest.with_suffix(".none"), activity=self.facts.activity,
            nodes=self.facts.nodes, ranks=self.facts.ranks,
            ranks_per_node=self.facts.slots_per_node, seen=(min(times), max(times)),
        )  # fmt: skip

    def _metrics(self) -> bool:
        try:
            with (self.run / "metrics.jsonl").open("rb") as file:
                size = file.seek(0, 2)
                self._read = 0 if size < self._read else self._read
                file.seek(self._read)
                data = file.read()
        except OSError:
            return False
        whole = data.rfind(b"\n") + 1
        self._read += whole
        for text in data[:whole].splitlines()[-WINDOW:]:
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict) and isinstance(line.get("step"), int):
                while self._lines and self._lines[-1]["step"] >= line["step"]:
                    self._lines.pop()
                self._lines.append(line)
        self._lines = self._lines[-WINDOW:]
        return whole > 0

    def _logs(self) -> bool:
        folder = self.run / "events" / self._segment
        for path in folder.glob("rank-*.log"):
            rank = int(path.stem.removeprefix("rank-"))
            self._tails.setdefault(rank, LogTail(path))
        new = False
        for rank, tail in self._tails.items():
            rows, told = tail.news()
            new |= bool(len(rows) or len(told))
            ended = np.unique(rows["step"][rows["kind"] == Kind.STEP])
            whole = rows[np.isin(rows["step"], ended)]
            for table, first in ((sums(whole), False), (told, True)):
                for step in np.unique(table["step"]).tolist():
                    if step <= 0 or (not first and rank in self._own.get(step, {})):
                        continue
                    mine = table[table["step"] == step]
                    own = np.zeros(_KINDS, np.int64)
                    np.add.at(own, mine["kind"], mine["own_ns"])
                    self._own[step][rank] = own
        for step in sorted(self._own)[: -2 * WINDOW]:
            del self._own[step]
        return new

    def _window(self) -> dict[int, dict[int, npt.NDArray[np.int64]]]:
        return {step: self._own[step] for step in sorted(self._own)[-WINDOW:]}

    def _slow(self, own: dict[int, dict[int, npt.NDArray[np.int64]]]) -> tuple[SlowRank, ...]:
        factors: dict[int, list[float]] = defaultdict(list)
        for ranks in own.values():
            took = np.full(len(self._stage), np.nan)
            for rank, row in ranks.items():
                if rank < len(took):
                    took[rank] = row[[*_USEFUL, Kind.RECOMPUTE]].sum()
            took[took <= 0] = np.nan
            for stage in np.unique(self._stage):
                mine = np.flatnonzero((self._stage == stage) & np.isfinite(took))
                if len(mine) > 1:
                    middle = float(np.median(took[mine]))
                    for rank in mine.tolist():
                        factors[rank].append(float(took[rank]) / middle)
        found = [
            SlowRank(rank, self._tails[rank].node, int(self._stage[rank]), float(np.median(of)))
            for rank, of in factors.items()
            if len(of) >= 3 and np.median(of) >= SLOW
        ]
        return tuple(sorted(found, key=lambda slow: -slow.factor))


def _nothing(over: bool) -> Look:
    nan = float("nan")
    return Look("", False, over, "", 0.0, 0.0, 0, None, nan, nan, nan, {}, 0.0, 0.0, (), 0)


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _last(lines: list[dict[str, Any]]) -> float:
    """Unix time of the last line; 0 where it does not say."""
    time_s = _number(lines[-1].get("time")) if lines else 0.0
    return time_s if math.isfinite(time_s) else 0.0


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")


def _median(lines: list[dict[str, Any]], name: str) -> float:
    values = [v for line in lines if (v := _number(line.get(name))) == v]
    return float(np.median(values)) if values else float("nan")


def _shares(own: dict[int, dict[int, npt.NDArray[np.int64]]]) -> tuple[float, dict[Kind, float]]:
    rows = [row for ranks in own.values() for row in ranks.values()]
    if not rows:
        return 0.0, {}
    total = np.sum(rows, axis=0)
    whole = int(total.sum())
    steps = [float(np.mean([row.sum() for row in ranks.values()])) for ranks in own.values()]
    shares = {kind: float(total[kind]) / max(1, whole) for kind in Kind if total[kind]}
    return float(np.median(steps)) / 1e9, shares
