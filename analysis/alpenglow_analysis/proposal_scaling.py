"""Strong and weak series of a proposal: predicted from the layout, measured where there is a study.

Strong keeps the global batch, weak the micro-batches a replica; both begin at the smallest job of
whole replicas that is told, and ideal is that point's time over more nodes, or kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from alpenglow_analysis.chosen_layout import Chosen
from alpenglow_analysis.marked import Mark
from alpenglow_analysis.planned_run import PlanError
from alpenglow_analysis.scaling_study import ScalingStudy

Kind = Literal["strong", "weak"]
MOST_POINTS = 5


@dataclass(frozen=True)
class Point:
    """One size of a series."""

    nodes: int
    processes: int
    """Ranks, one a GPU."""
    seconds: float
    """Of a step."""
    tokens: float
    """Of a step."""
    micro_batches: int
    bubble: float
    """What the schedule idles by itself, as a share."""
    communication: float | None = None
    """Share of the step; None where it is not told."""


@dataclass(frozen=True)
class Series:
    """Points by rising nodes."""

    kind: Kind
    mark: Mark
    source: str
    points: tuple[Point, ...]

    def ideal(self, point: Point) -> float:
        """Seconds of a step if it scaled without loss from the first point."""
        first = self.points[0]
        if self.kind == "strong":
            return first.seconds * first.processes / point.processes
        return first.seconds

    def efficiency(self, point: Point) -> float:
        """Ideal over actual."""
        return self.ideal(point) / point.seconds


@dataclass(frozen=True)
class Study:
    """What a scaling study measured."""

    name: str
    machine: str
    model: str
    series: tuple[Series, ...]
    synthetic: bool = False
    """Made by a program, not measured: no number of it has the mark of a measurement."""

    def __post_init__(self) -> None:
        if not any(len(each.points) > 1 for each in self.series):
            raise PlanError(f"{self.name}: no series of two sizes or more: nothing scales in it")
        wrong = {each.mark for each in self.series} - {"A" if self.synthetic else "M"}
        if wrong:
            raise ValueError(f"{self.name}: marks {wrong} of a study, synthetic {self.synthetic}")

    @property
    def ranks(self) -> tuple[int, int]:
        """Fewest and most ranks."""
        found = [point.processes for each in self.series for point in each.points]
        return min(found), max(found)


def measured(study: ScalingStudy) -> Study:
    """A scaling study as a proposal tells it.

    Raises:
        PlanError: no series of it has two sizes.
    """
    mark: Mark = "A" if study.synthetic else "M"
    found = []
    for each in study.series:
        points = tuple(
            Point(p.nodes, p.ranks, p.seconds, float(p.tokens), p.micro_batches, p.bubble,
                  p.communication)
            for p in each.points
        )  # fmt: skip
        kind: Kind = "strong" if each.kind == "strong" else "weak"
        source = f"{study.path}/study.json: median steps of {study.path.name}/runs"
        found.append(Series(kind, mark, source, points))
    return Study(str(study.path), study.machine, study.recipe, tuple(found), study.synthetic)


def point(chosen: Chosen) -> Point:
    """The predicted point of a layout."""
    cost, parts = chosen.cost, chosen.cost.parts()
    names = ("tensor collectives", "p2p", "gradient reduction")
    return Point(
        nodes=chosen.nodes,
        processes=chosen.layout.world,
        seconds=cost.seconds,
        tokens=float(cost.tokens),
        micro_batches=chosen.work.micro_batches,
        bubble=chosen.bubble,
        communication=sum(parts[name] for name in names) / cost.seconds,
    )


def predicted(chosen: Chosen, kind: Kind, nodes: tuple[int, ...] | None = None) -> Series:
    """Predict a series up to the nodes of the plan.

    Args:
        chosen: the layout on the most nodes.
        kind: strong or weak.
        nodes: sizes; None takes halves of the plan's nodes.
    """
    points = []
    for many in sizes(chosen) if nodes is None else nodes:
        try:
            points.append(point(_at(chosen, kind, many)))
        except PlanError:
            continue
    return Series(kind, "P", "alpenglow.parallel.step_cost", tuple(points))


def _at(chosen: Chosen, kind: Kind, nodes: int) -> Chosen:
    if kind == "strong":
        return chosen.on(nodes)
    batch = chosen.run.global_batch_size * nodes
    if batch % chosen.nodes:
        raise PlanError(f"{nodes:,} nodes hold no whole number of sequences")
    return chosen.on(nodes, batch // chosen.nodes)


def sizes(chosen: Chosen) -> tuple[int, ...]:
    """Nodes of the plan and their halves, as long as replicas fill them and the batch divides."""
    found, nodes = [chosen.nodes], chosen.nodes
    while len(found) < MOST_POINTS and nodes % 2 == 0 and chosen.fits(nodes // 2):
        nodes //= 2
        found.append(nodes)
    return tuple(reversed(found))
