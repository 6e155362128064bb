"""How an allocation was used over time, what an under-use date asks for, and where it goes."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from alpenglow_analysis.allocation import DAY, Allocation, Rule
from alpenglow_analysis.segment import Segment
from alpenglow_analysis.style import ACTUAL, FAINT, IDEAL, INK, figure, grid
from alpenglow_analysis.units import count

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RECENT_DAYS = 28.0
"""Today's rate is the mean over so many days before now."""


@dataclass(frozen=True)
class Burn:
    """Use over time: a line through (time, node_hours), straight while nothing begins or ends."""

    time_s: npt.NDArray[np.float64]
    """Unix times, ascending."""
    node_hours: npt.NDArray[np.float64]
    """Used until then."""

    def at(self, unix: float) -> float:
        """Node-hours used until a time."""
        if not len(self.time_s):
            return 0.0
        return float(np.interp(unix, self.time_s, self.node_hours))

    def rate(self, now: float, days: float = RECENT_DAYS) -> float:
        """Node-hours a day over the days before now, or since the first use if that is shorter.

        Less than a day counts as one: a first job of an hour is no rate to go on by.
        """
        if not len(self.time_s) or now <= self.time_s[0]:
            return 0.0
        since = max(now - days * DAY, min(float(self.time_s[0]), now - DAY))
        return (self.at(now) - self.at(since)) / ((now - since) / DAY)


def burn(segments: Sequence[Segment]) -> Burn:
    """Add up what jobs were charged, each evenly over its time."""
    edges: dict[float, float] = {}
    for segment in segments:
        if segment.ended > segment.started:
            edges[segment.started] = edges.get(segment.started, 0.0) + segment.nodes
            edges[segment.ended] = edges.get(segment.ended, 0.0) - segment.nodes
    times = np.array(sorted(edges), np.float64)
    if not len(times):
        return Burn(times, times)
    running = np.cumsum([edges[time] for time in times])
    used = np.concatenate([[0.0], np.cumsum(running[:-1] * np.diff(times) / 3600)])
    return Burn(times, used)


@dataclass(frozen=True)
class Due:
    """An under-use date beside what is used by then."""

    at_s: float
    used: float
    """Share of the allocation: measured, or by today's rate where it lies ahead."""
    forecast: bool
    rule: Rule | None
    """The rule that holds; None where enough is used."""
    safe: float
    """Share from which on no rule of that date holds."""
    taken: float
    """Node-hours that may be taken back."""
    needed: float
    """Node-hours a day from now on that would be enough; 0 where it is or the date is past."""


def dues(allocation: Allocation, used: Burn, now: float) -> list[Due]:
    """Each under-use date, by time."""
    found = []
    spent, rate = used.at(now), used.rate(now)
    for at, rules in allocation.dates():
        ahead = at > now
        by_then = used.at(at) if not ahead else spent + rate * (at - now) / DAY
        share = min(by_then, allocation.node_hours) / allocation.node_hours
        rule = next((r for r in sorted(rules, key=lambda r: r.below) if share < r.below), None)
        safe = max(r.below for r in rules)
        left = allocation.node_hours * (1 - share)
        lacking = max(0.0, safe * allocation.node_hours - spent)
        found.append(
            Due(
                at, share, ahead, rule, safe, rule.taken * left if rule else 0.0,
                lacking / ((at - now) / DAY) if ahead else 0.0,
            )
        )  # fmt: skip
    return found


@dataclass(frozen=True)
class Forecast:
    """Where today's rate leads to."""

    rate: float
    """Node-hours a day."""
    at_end: float
    """Node-hours used when the allocation ends, not above it."""
    exhausted_s: float | None
    """Unix time at which nothing is left; None where that is after its end."""
    to_use_all: float
    """Node-hours a day that would use all of it by its end; 0 where it has ended."""


def forecast(allocation: Allocation, used: Burn, now: float) -> Forecast:
    """Go on from now by today's rate."""
    spent, rate = used.at(now), used.rate(now)
    left = max(0.0, allocation.node_hours - spent)
    days = max(0.0, (allocation.end_s - now) / DAY)
    at_end = spent + min(left, rate * days)
    exhausted = now + left / rate * DAY if rate and left <= rate * days else None
    return Forecast(rate, at_end, exhausted, left / days if days else 0.0)


def burn_figure(allocation: Allocation, used: Burn, now: float) -> Figure:
    """Draw use over time against an even use, the under-use dates and the forecast."""
    made = figure(3.9)
    axes = made.add_subplot()
    total = allocation.node_hours

    def day(unix: float) -> float:
        return (unix - allocation.begin_s) / DAY

    length = day(allocation.end_s)
    axes.plot([0, length], [0, 100], color=FAINT, lw=1, ls="--", label="even use")
    until = min(max(now, allocation.begin_s), allocation.end_s)
    inside = (used.time_s > allocation.begin_s) & (used.time_s < until)
    times = np.concatenate([[allocation.begin_s], used.time_s[inside], [until]])
    share = np.array([100 * used.at(time) / total for time in times])
    axes.fill_between(day_array(times, allocation), share, color=IDEAL, alpha=0.2, lw=0)
    axes.plot(day_array(times, allocation), share, color=IDEAL, lw=2, label="used")
    seen = forecast(allocation, used, now)
    if now < allocation.end_s and seen.rate:
        stop = seen.exhausted_s or allocation.end_s
        axes.plot(
            [day(until), day(stop)], [share[-1], 100 * seen.at_end / total], color=IDEAL, lw=1.4,
            ls=":", label=f"forecast, {count(seen.rate)} node-hours a day",
        )  # fmt: skip
    top = max(104.0, 1.04 * float(share.max()))
    for at, rules in allocation.dates():
        # Steps of the rules: the lower the use, the more is taken.
        for i, rule in enumerate(sorted(rules, key=lambda r: r.below)):
            low = 0.0 if i == 0 else 100 * sorted(rules, key=lambda r: r.below)[i - 1].below
            axes.plot(
                [day(at)] * 2, [low, 100 * rule.below], color=ACTUAL, lw=5,
                alpha=min(1.0, 0.25 + rule.taken), solid_capstyle="butt",
                label="under-use: part of the remainder is taken" if not i and at == (
                    allocation.dates()[0][0]
                ) else None,
            )  # fmt: skip
            axes.annotate(
                f" −{100 * rule.taken:.0f} %", (day(at), 50 * rule.below + low / 2),
                xytext=(3, 0), textcoords="offset points", fontsize=7.5, va="center", color=INK,
            )  # fmt: skip
    if allocation.begin_s < now < allocation.end_s:
        axes.axvline(day(now), color=FAINT, lw=0.9, ls=(0, (2, 2)))
        axes.text(day(now), top, "now ", fontsize=8, color=FAINT, va="top", ha="right")
    axes.set_xlim(0, length)
    axes.set_ylim(0, top)
    places = _months(allocation)
    axes.set_xticks([day(at) for at, _ in places], [label for _, label in places])
    axes.set_ylabel("% of the allocation")
    name = f"{allocation.name}: " if allocation.name else ""
    axes.set_title(f"{name}{count(used.at(now))} of {count(total)} node-hours used")
    grid(axes, "both")
    made.legend(loc="outside lower center", ncols=2, fontsize=8.5, handlelength=1.8)
    return made


def day_array(times: npt.NDArray[np.float64], allocation: Allocation) -> npt.NDArray[np.float64]:
    """Days since the allocation began."""
    return np.asarray((times - allocation.begin_s) / DAY)


def _months(allocation: Allocation) -> list[tuple[float, str]]:
    """The firsts of months inside the allocation, as many as have room; days if it is short."""
    begin = datetime.datetime.fromtimestamp(allocation.begin_s, tz=datetime.UTC)
    span = (allocation.end_s - allocation.begin_s) / DAY
    if span < 60:
        every = max(1, round(span / 8))
        days = [begin + datetime.timedelta(days=i) for i in range(0, round(span), every)]
        return [(day.timestamp(), f"{day:%-d %b}") for day in days]
    found = []
    year, month = begin.year, begin.month
    while True:
        first = datetime.datetime(year, month, 1, tzinfo=datetime.UTC)
        if first.timestamp() >= allocation.end_s:
            break
        if first.timestamp() >= allocation.begin_s:
            found.append((first.timestamp(), f"{first:%b}" + (f"\n{year}" if month == 1 else "")))
        year, month = (year, month + 1) if month < 12 else (year + 1, 1)
    every = max(1, -(-len(found) // 13))
    return found[::every]
