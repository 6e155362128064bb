"""The chain of jobs as a strip of time: queue, start, steps that count, lost steps, the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from alpenglow_analysis.run import Run
from alpenglow_analysis.segment import Segment
from alpenglow_analysis.style import FAINT, INK, beside, figure, grid, paint
from alpenglow_analysis.units import seconds
from alpenglow_profiling.events import Kind

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_ROWS = 40
"""A longer chain shows its last jobs."""


@dataclass(frozen=True)
class Link:
    """One job of a chain; times are unix seconds."""

    segment: Segment
    waited: float
    """From the end of the job before to the start: the queue and the hand-over; 0 for the first."""
    first_step: float | None
    """When its first step began; None where it did none, or nothing is known."""
    lost_since: float | None
    """From when on its steps were trained again by a later job; None where none were."""


def chain(run: Run) -> list[Link]:
    """The jobs of a run in the order they started."""
    links: list[Link] = []
    before: float | None = None
    for segment in run.segments:
        events, lost_from = run.events.get(segment.name), run.lost_from(segment)
        first = lost = None
        if events is not None:
            steps = events.outer[events.outer["kind"] == Kind.STEP]
            if len(steps):
                first = float(steps["begin_ns"].min()) / 1e9
                given_up = steps[steps["step"] >= lost_from] if lost_from is not None else steps[:0]
                if len(given_up):
                    lost = float(np.min(given_up["begin_ns"])) / 1e9
        waited = 0.0 if before is None else max(0.0, segment.started - before)
        links.append(Link(segment, waited, first, lost))
        before = segment.ended if before is None else max(before, segment.ended)
    return links


def chain_strip(run: Run) -> Figure:
    """Draw it, one row a job."""
    links = chain(run)
    left_out = max(0, len(links) - MOST_ROWS)
    links = links[left_out:]
    zero = links[0].segment.started
    end = max(link.segment.ended for link in links)
    scale, unit = next(
        (s, u) for s, u in ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes"), (1.0, "s"))
        if end - zero >= 3 * s or s == 1.0
    )  # fmt: skip
    made = figure(1.25 + 0.3 * len(links))
    axes = made.add_subplot()
    used: dict[str, Any] = {}

    def bar(y: int, begin: float, until: float, key: str, label: str, height: float = 0.62) -> None:
        if until <= begin:
            return
        drawn = axes.barh(
            y, (until - begin) / scale, left=(begin - zero) / scale, height=height, **paint(key)
        )
        used.setdefault(label, drawn)

    for y, link in enumerate(links):
        job = link.segment
        if link.waited:
            bar(y, job.started - link.waited, job.started, "waiting", "Queue", 0.2)
        begun = job.ended if link.first_step is None else link.first_step
        bar(y, job.started, begun, "startup", "Launch and start-up")
        counted = job.ended if link.lost_since is None else link.lost_since
        bar(y, begun, counted, "compute", "Steps, with checkpoints and evaluation")
        if link.lost_since is not None:
            bar(y, link.lost_since, job.ended, "lost", "Steps trained again later")
        text = ("≥ " if job.estimated else "") + seconds(job.elapsed_ns / 1e9) + ", " + job.reason
        text += f", {job.nodes:,} {'node' if job.nodes == 1 else 'nodes'}"
        beside(axes, 8, y, text, fontsize=8.5)
    axes.set_yticks(range(len(links)), [link.segment.name for link in links])
    axes.set_ylim(len(links) - 0.4, -0.6)
    axes.set_xlim(0, (end - zero) / scale)
    axes.set_xlabel(f"{unit} since the {'first' if not left_out else 'first shown'} job began")
    some = f"the last {len(links)} of {len(links) + left_out} jobs" if left_out else "job by job"
    axes.set_title(f"The chain, {some}")
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.spines["left"].set_color(FAINT)
    grid(axes, "x")
    made.legend(
        list(used.values()), list(used), loc="outside lower center", ncols=4, fontsize=8.5,
        handlelength=1.6,
    )  # fmt: skip
    return made
