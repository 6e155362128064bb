"""A run directory as one `Run`: facts, segments, steps and events. Reading only.

run = Run.load(Path("runs/pretrain_7b"))
run.facts.layout.pipeline, run.segments[0].node_hours, run.metrics["loss"], run.events
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from alpenglow.parallel.layout import Layout, LayoutError
from alpenglow_analysis.metrics import Metrics
from alpenglow_analysis.segment import RunError, Segment
from alpenglow_profiling.events import Events, EventsError, Kind, read


@dataclass(frozen=True)
class Facts:
    """What run.toml says; None where it says nothing."""

    name: str
    activity: str
    created: str
    code_version: str
    machine: str
    nodes: int
    ranks: int
    ranks_per_node: int
    gpus_per_node: int
    peak_flops_per_rank: float | None
    layout: Layout
    micro_batch_size: int
    micro_batches: int
    sequence_length: int
    tokens_per_step: int
    parameters: int | None
    flops_per_token: float | None
    flops_formula: str
    dtype: str | None = None
    """Of the matrix products, as the ranks resolved it."""
    data: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)

    @property
    def unit(self) -> str:
        """What a rank drives: a GPU where the machine has one for each, else it is just a rank."""
        return "GPU" if self.gpus_per_node >= self.ranks_per_node > 0 else "rank"

    @property
    def slots_per_node(self) -> int:
        """GPUs of a node where there are any, else the ranks a node was given."""
        return max(self.gpus_per_node, self.ranks_per_node, 1)

    @classmethod
    def load(cls, path: Path) -> Facts:
        """Read run.toml.

        Raises:
            RunError: it is absent, not TOML, or lacks something a report cannot do without.
        """
        try:
            tables = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RunError(f"{path.parent}: no run directory: it holds no run.toml") from None
        except (OSError, ValueError) as error:
            raise RunError(f"{path}: not a readable run.toml: {error}") from None
        try:
            return cls._from(tables)
        except KeyError as error:
            raise RunError(f"{path}: {error.args[0]} is missing") from None
        except (LayoutError, TypeError, ValueError) as error:
            raise RunError(f"{path}: {error}") from None

    @classmethod
    def _from(cls, tables: Mapping[str, Any]) -> Facts:
        run, machine, batch = (_table(tables, name) for name in ("run", "machine", "batch"))
        layout, model = _table(tables, "layout"), tables.get("model", {})
        ranks = int(machine["ranks"])
        pipeline, tensor, data = (int(layout[name]) for name in ("pipeline", "tensor", "data"))
        shape = Layout(
            pipeline,
            tensor,
            data,
            order=layout.get("order", "pipe-major"),
            seats=tuple(layout.get("seats", ())),
            layers=tuple(layout.get("layers", ())),
        )
        if shape.world != ranks:
            raise ValueError(
                f"layout {shape.pipeline} x {shape.tensor} x {shape.data} has {shape.world} ranks, "
                f"the machine table says {ranks}"
            )
        peak, flops = machine.get("peak_flops_per_rank"), model.get("flops_per_token")
        parameters = model.get("parameters")
        return cls(
            name=str(run["name"]),
            activity=str(run["activity"]),
            created=str(run.get("created", "")),
            code_version=str(run.get("code_version", "")),
            machine=str(machine["name"]),
            nodes=int(machine["nodes"]),
            ranks=ranks,
            ranks_per_node=int(machine["ranks_per_node"]),
            gpus_per_node=int(machine.get("gpus_per_node", 0)),
            peak_flops_per_rank=None if peak is None else float(peak),
            layout=shape,
            micro_batch_size=int(batch["micro_batch_size"]),
            micro_batches=int(batch["micro_batches"]),
            sequence_length=int(batch["sequence_length"]),
            tokens_per_step=int(batch["tokens_per_step"]),
            parameters=None if parameters is None else int(parameters),
            flops_per_token=None if flops is None else float(flops),
            flops_formula=str(model.get("flops_formula", "")),
            dtype=model.get("dtype"),
            data=dict(tables.get("data", {})),
            recipe=dict(tables.get("recipe", {})),
        )


class _Table(dict[str, Any]):
    """A table of run.toml that names itself when a key is asked for in vain."""

    def __init__(self, name: str, fields: Mapping[str, Any]) -> None:
        super().__init__(fields)
        self._name = name

    def __missing__(self, key: str) -> Any:
        raise KeyError(f"{self._name}.{key}")


def _table(tables: Mapping[str, Any], name: str) -> _Table:
    if not isinstance(tables.get(name), Mapping):
        raise KeyError(f"the table [{name}]")
    return _Table(name, tables[name])


@dataclass(frozen=True)
class Run:
    """One run directory."""

    path: Path
    facts: Facts
    segments: tuple[Segment, ...]
    """Segments of the run's own activity, in the order they started."""
    others: tuple[Segment, ...]
    """Jobs that left a record here but did something else: report, convert."""
    metrics: Metrics
    events: dict[str, Events]
    """Spans of each segment that left any, times in wall-clock ns."""

    @classmethod
    def load(cls, path: Path, *, write: bool = True) -> Run:
        """Read a run directory, whole or damaged.

        Args:
            path: the run directory.
            write: False leaves nothing there, as for a run that is still going on.

        Raises:
            RunError: no such directory, or not one of a run.
        """
        if not path.is_dir():
            raise RunError(f"{path}: no such run directory")
        facts = Facts.load(path / "run.toml")
        metrics = Metrics.load(path / "metrics.jsonl")
        names = {record.stem for record in (path / "segments").glob("*.json")}
        names = {name.removesuffix(".rank0") for name in names}
        names |= {folder.name for folder in (path / "events").glob("*.*") if folder.is_dir()}
        segments, events = [], {}
        for name in sorted(names):
            spans = _events(path / "events" / name, write)
            if spans is not None:
                events[name] = spans
            segment = _segment(path, name, facts, metrics, spans)
            if segment is not None:
                segments.append(segment)
        segments.sort(key=lambda segment: (segment.started, segment.name))
        own = tuple(segment for segment in segments if segment.activity == facts.activity)
        others = tuple(segment for segment in segments if segment.activity != facts.activity)
        if not own:
            raise RunError(
                f"{path}: no record of a {facts.activity} job in {path / 'segments'}: "
                "nothing is known of what was charged"
            )
        return cls(path, facts, own, others, metrics, events)

    def tokens(self, steps: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Tokens of each of some steps: a run may have gone on with another global batch."""
        found = np.full(len(steps), float(self.facts.tokens_per_step))
        if len(self.metrics):
            place = np.minimum(np.searchsorted(self.metrics.step, steps), len(self.metrics) - 1)
            batch = self.metrics["batch"][place]
            known = (self.metrics.step[place] == steps) & ~np.isnan(batch)
            found[known] = batch[known] * self.facts.sequence_length
        return found

    def first_step(self, segment: Segment) -> int | None:
        """The first step that a segment trained, by spans and metrics; None if it did not."""
        steps = [s for name, s in self.metrics.first_step.items() if name == segment.name]
        if segment.name in self.events:
            sums = self.events[segment.name].sums
            trained = sums.step[(sums.own(Kind.FORWARD) > 0).any(axis=1) & (sums.step > 0)]
            steps += trained[:1].tolist()
        return min(steps, default=None)

    def lost_from(self, segment: Segment) -> int | None:
        """The first step that a later segment trained again; None if this segment lost none."""
        after = self.segments[self.segments.index(segment) + 1 :]
        return min((s for s in map(self.first_step, after) if s is not None), default=None)

    @property
    def damages(self) -> tuple[str, ...]:
        """One sentence for each thing that is missing or was left out."""
        found = list(self.metrics.damages)
        for segment in self.segments:
            if segment.name not in self.events:
                found.append(f"segment {segment.name} left no events")
            else:
                events = self.events[segment.name]
                found += [f"segment {segment.name}: {damage}" for damage in events.damages]
                if events.world_size != self.facts.ranks:
                    found.append(
                        f"segment {segment.name} ran {events.world_size} ranks, the run was laid "
                        f"out for {self.facts.ranks}: its time counts, its steps are not compared"
                    )
            if segment.reason == "no batch job":
                found.append(
                    f"segment {segment.name} was started by hand: its charge is the time from its "
                    "first to its last recorded span"
                )
            elif segment.estimated:
                found.append(
                    f"segment {segment.name} did not close its record (killed, or still running): "
                    "its end is its last sign of life, so its charge is rather too low"
                )
        return tuple(found)


def _segment(
    path: Path, name: str, facts: Facts, metrics: Metrics, spans: Events | None
) -> Segment | None:
    """One segment by its record, or else by what its ranks left; None if that is nothing."""
    last = [metrics.last_seen.get(name, math.nan)]
    first = math.nan
    extent = None if spans is None else spans.extent
    if extent is not None:
        first = extent[0] / 1e9
        last.append(extent[1] / 1e9)
    seen = max((t for t in last if not math.isnan(t)), default=None)
    record = path / "segments" / f"{name}.json"
    if record.is_file():
        return Segment.load(
            record,
            ranks_per_node=facts.slots_per_node,
            seen=seen,
        )
    if seen is None or math.isnan(first):
        return None
    return Segment.without_record(
        name,
        record.with_name(f"{name}.rank0.json"),
        activity=facts.activity,
        nodes=facts.nodes,
        ranks=facts.ranks,
        ranks_per_node=facts.slots_per_node,
        seen=(first, seen),
    )


def _events(directory: Path, write: bool) -> Events | None:
    try:
        events = read(directory, write=write)
    except EventsError:
        return None
    return events if events.nodes else None
