"""A scaling study as it was measured: strong and weak series of short runs of one job.

    study = ScalingStudy.load(Path("runs/scaling_study"))      # alpenglow.jobs.scaling made it
    for series in study.series:
        for point in series.points:
            point.ranks, point.seconds, series.ideal(point), series.efficiency(point)

A point is one size; its repeats are runs of their own. Warm-up steps are discarded; a repeat's time
is the median of the others, a point's the median of its repeats. Ideal strong scaling is the first
point's time over more ranks, ideal weak scaling keeps it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from alpenglow_analysis.bubble import schedule_bubble
from alpenglow_analysis.run import Run
from alpenglow_analysis.segment import RunError
from alpenglow_profiling.events import Kind

PLAN = "study.json"
FORMAT = 1
COMMUNICATION = (Kind.P2P, Kind.TENSOR_REDUCE, Kind.GRADIENT_REDUCE)


class StudyError(ValueError):
    """A study that cannot be read; the message is one sentence."""


@dataclass(frozen=True)
class Repeat:
    """One run of a size."""

    run: str
    """Its directory, relative to the study's."""
    steps: int
    """Steps that count; those of the warm-up do not."""
    seconds: float
    """Median of their durations."""
    communication: float | None
    """Share of the ranks' time in those steps inside messages and collectives, waiting for their
    partners included; None where the run left no events."""
    node_hours: float
    """Charged for the run."""


@dataclass(frozen=True)
class Point:
    """One size of a series."""

    nodes: int
    ranks: int
    pipeline: int
    tensor: int
    data: int
    micro_batch_size: int
    micro_batches: int
    """Of a replica, m."""
    global_batch_size: int
    sequence_length: int
    schedule: str
    repeats: tuple[Repeat, ...]

    @property
    def seconds(self) -> float:
        """Of a step: median over repeats."""
        return median(each.seconds for each in self.repeats)

    @property
    def spread(self) -> float:
        """Slowest repeat less fastest one, over the median; 0 for one repeat."""
        values = [each.seconds for each in self.repeats]
        return (max(values) - min(values)) / self.seconds

    @property
    def tokens(self) -> int:
        """Of a step."""
        return self.global_batch_size * self.sequence_length

    @property
    def tokens_per_second(self) -> float:
        """Of all ranks together."""
        return self.tokens / self.seconds

    @property
    def bubble(self) -> float:
        """Share of a step that the schedule idles by itself: equal passes, free messages."""
        return schedule_bubble(self.schedule, self.pipeline, self.micro_batches)

    @property
    def communication(self) -> float | None:
        """Median of the repeats'."""
        known = [each.communication for each in self.repeats if each.communication is not None]
        return median(known) if known else None

    @property
    def layout(self) -> str:
        """In a few letters."""
        return f"PP{self.pipeline} x TP{self.tensor} x DP{self.data}"


@dataclass(frozen=True)
class Series:
    """Points by rising ranks."""

    kind: str
    """strong or weak."""
    points: tuple[Point, ...]

    def ideal(self, point: Point) -> float:
        """Seconds of a step if nothing were lost from the first point on."""
        first = self.points[0]
        return first.seconds * (first.ranks / point.ranks if self.kind == "strong" else 1.0)

    def speedup(self, point: Point) -> float:
        """Tokens a second over the first point's."""
        return point.tokens_per_second / self.points[0].tokens_per_second

    def efficiency(self, point: Point) -> float:
        """Parallel efficiency: ideal over actual."""
        return self.ideal(point) / point.seconds


@dataclass(frozen=True)
class ScalingStudy:
    """A study."""

    path: Path
    machine: str
    """Machine file; of a stand-in its own."""
    recipe: str
    """File of the recipe that was trained."""
    model: dict[str, Any]
    series: tuple[Series, ...]
    missing: tuple[str, ...]
    """Runs that are not there or not whole, each with its reason."""
    synthetic: bool = False
    """Made by a program, not measured."""

    @property
    def node_hours(self) -> float:
        """Charged for all runs that count; a run of both series counts once."""
        runs = {r.run: r.node_hours for s in self.series for p in s.points for r in p.repeats}
        return sum(runs.values())

    @classmethod
    def load(cls, path: Path) -> ScalingStudy:
        """Read a study's folder.

        Raises:
            StudyError: no study, one of another form, or no size of it was run.
        """
        file = path / PLAN
        try:
            plan = json.loads(file.read_text(encoding="utf-8"))
            if plan["format"] != FORMAT:
                raise StudyError(f"{file}: form {plan['format']}, this is {FORMAT}")
            sizes, warm_up = plan["sizes"], [int(size["warm_up"]) for size in plan["sizes"]]
        except FileNotFoundError:
            raise StudyError(
                f"{path}: no scaling study ({PLAN} is not there); bsub jobs/scaling_study.lsf"
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, StudyError):
                raise
            raise StudyError(f"{file}: not the plan of a study ({error})") from None
        missing: list[str] = []
        points: dict[str, list[Point]] = {"strong": [], "weak": []}
        for size, first in zip(sizes, warm_up, strict=True):
            repeats = []
            for name in size["runs"]:
                try:
                    repeats.append(_repeat(path, str(name), first))
                except RunError as error:
                    missing.append(f"{name}: {error}")
            if not repeats:
                continue
            names = Point.__dataclass_fields__.keys() - {"repeats"}
            point = Point(**{name: size[name] for name in names}, repeats=tuple(repeats))
            for kind in size["series"]:
                points[kind].append(point)
        series = tuple(
            Series(kind, tuple(sorted(points[kind], key=lambda p: p.ranks)))
            for kind in ("strong", "weak")
            if points[kind]
        )
        if not series:
            why = f" ({missing[0]})" if missing else ""
            raise StudyError(f"{path}: no run of the study is whole{why}; submit its job again")
        return cls(
            path, str(plan["machine"]), str(plan["recipe"]), dict(plan["model"]), series,
            tuple(missing), bool(plan.get("synthetic", False)),
        )  # fmt: skip


def _repeat(study: Path, name: str, warm_up: int) -> Repeat:
    folder = study / name
    if not folder.is_dir():
        raise RunError("was not started")
    run = Run.load(folder, write=False)
    counts = run.metrics.step > warm_up
    seconds = run.metrics["step_time_s"][counts]
    seconds = seconds[np.isfinite(seconds)]
    if not len(seconds):
        raise RunError(f"no step beyond its {warm_up} of warm-up")
    hours = sum(segment.node_hours for segment in run.segments)
    return Repeat(
        name, len(seconds), float(np.median(seconds)), _communication(run, warm_up), hours
    )


def _communication(run: Run, warm_up: int) -> float | None:
    inside = whole = 0
    for events in run.events.values():
        sums = events.sums
        counted = sums.step > warm_up
        own = sums.own_ns[counted]
        known = [i for i, kind in enumerate(sums.kinds) if kind in COMMUNICATION]
        in_steps = [i for i, kind in enumerate(sums.kinds) if kind in _IN_STEP]
        inside += int(own[:, :, known].sum())
        whole += int(own[:, :, in_steps].sum())
    return inside / whole if whole else None


_IN_STEP = frozenset({
    Kind.STEP, Kind.DATA_WAIT, Kind.FORWARD, Kind.RECOMPUTE, Kind.BACKWARD, Kind.WEIGHT_GRAD,
    Kind.OPTIMIZER, *COMMUNICATION,
})  # fmt: skip
