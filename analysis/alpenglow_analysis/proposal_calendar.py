"""When the node-hours of a proposal are used: by quarters, and against under-use dates."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from alpenglow_analysis.allocation import PROGRAMS, Rule
from alpenglow_analysis.campaign_outcome import Outcome
from alpenglow_analysis.document import Block, Grid, Items, Paragraph
from alpenglow_analysis.marked import Line, Value, line, say
from alpenglow_analysis.proposal_request import Request

YEAR_DAYS = 365
PRODUCTION_DAY = 59
"""assumed: 1 March of a year that begins on 1 January, once the small jobs before it are done."""
EARLY = ("calibration", "study", "preparation", "trials")
"""Lines of the request before the production run; spread evenly over the days until then."""


@dataclass(frozen=True)
class Calendar:
    """Node-hours by day of a year of allocation."""

    request: Request
    outcome: Outcome
    begins: int = PRODUCTION_DAY
    """Day on which the production run is submitted, from 0."""

    @property
    def days(self) -> float:
        """Median days of the production run, queue included."""
        return float(np.percentile(self.outcome.days, 50))

    @property
    def ends(self) -> float:
        """Day on which it is over."""
        return self.begins + self.days

    def used(self, day: float, begins: float | None = None) -> float:
        """Node-hours used until the morning of a day, contingency left out.

        Args:
            day: from 0.
            begins: of the production run, if not as planned.
        """
        start = self.begins if begins is None else begins
        total = 0.0
        for row in self.request.rows:
            if row.contingency:
                continue
            if row.key in EARLY:
                low, high = 0.0, float(max(1, start))
            elif row.key == "production":
                low, high = start, start + self.days
            else:  # after it, within a month
                low, high = start + self.days, start + self.days + 30
            total += row.node_hours * min(1.0, max(0.0, (day - low) / (high - low)))
        return total

    def latest(self, day: int, share: float) -> int | None:
        """The last day on which the production run can begin with a share used by `day`."""
        enough = share * self.request.total
        for start in range(day, -1, -1):
            if self.used(day, start) >= enough:
                return start
        return None


def day_words(day: int) -> str:
    """A day of a common year: 1 March."""
    date = datetime.date(2023, 1, 1) + datetime.timedelta(days=day)
    return f"{date.day} {date:%B}"


def calendar_blocks(found: Calendar, program: str) -> list[Block]:
    """The quarters, and what the program's under-use dates make of them."""
    begin = Value(day_words(found.begins), "A", "assumed: small jobs take the two months before")
    end = Value(f"{found.days:.3g} days", "P", "campaign simulation, median, queue included")
    quarters = (0, 90, 181, 273, YEAR_DAYS)
    rows = []
    used = "computed: each line spread evenly over its time"
    for name, (low, high) in zip(NAMES, pairwise(quarters), strict=True):
        amount = found.used(high) - found.used(low)
        share = amount / found.request.total
        rows.append([
            line(name), line(_what(found, low, high)),
            line(Value(f"{amount:,.0f}", "P", used, amount)),
            line(Value(f"{100 * share:.1f} %", "P", "computed: of the whole request", share)),
        ])  # fmt: skip
    late = found.request.total - found.used(YEAR_DAYS)
    rows.append([
        line("Contingency" if found.ends + 30 <= YEAR_DAYS else "Contingency, and beyond the year"),
        line("when it is needed"), line(Value(f"{late:,.0f}", "P", "computed: the rest", late)),
        line(Value(f"{100 * late / found.request.total:.1f} %", "P", "computed: the rest")),
    ])  # fmt: skip
    blocks: list[Block] = [
        Paragraph(say("The year of allocation is taken to begin in January. The production run is "
                      "submitted on {begin} and takes {end} in the median.", begin=begin, end=end)),
        Grid(say("Node-hours by quarter."), ["quarter", "what", "node-hours", "share"], rows,
             wide={0: 0.17, 1: 0.45}),
    ]  # fmt: skip
    if found.ends > YEAR_DAYS:
        late_words = (
            "The production run does not end within the year: more nodes, or an allocation over "
            "two years, is what it takes."
        )
        blocks.append(Paragraph(line(late_words)))
    rules = PROGRAMS.get(program, ())
    if rules:
        blocks += _under_use(found, program, rules)
    return blocks


NAMES = ("First quarter", "Second quarter", "Third quarter", "Fourth quarter")


def _what(found: Calendar, low: int, high: int) -> str:
    parts = []
    if low < found.begins:
        parts.append("calibration, scaling study, data preparation, trial runs")
    if low < found.ends and high > found.begins:
        parts.append("the production run")
    if low < found.ends + 30 and high > found.ends:
        parts.append("evaluation, conversion, report")
    return ", ".join(parts) or "nothing planned: contingency"


def _under_use(found: Calendar, program: str, rules: tuple[Rule, ...]) -> list[Block]:
    source = (
        f"{program} under-utilisation policy as OLCF documents it (alpenglow_analysis.allocation)"
    )
    items: list[Line] = []
    days = sorted({(rule.month, rule.day) for rule in rules})
    for month, of_month in days:
        day = (datetime.date(2023, month, of_month) - datetime.date(2023, 1, 1)).days
        below = max(rule.below for rule in rules if (rule.month, rule.day) == (month, of_month))
        share = found.used(day) / found.request.total
        latest = found.latest(day, below)
        safe = "safe" if share >= below else "not safe"
        items.append(
            say("{date}: {share} used; nothing is taken back from {below} on: {safe}. {latest}",
                date=Value(day_words(day), "S", source),
                share=Value(f"{100 * share:.0f} %", "P",
                            "computed: the quarters above, at that day"),
                below=Value(f"{100 * below:.0f} %", "S", source), safe=safe,
                latest="No start of the production run would be enough."
                if latest is None
                else say("The last safe day to submit the production run: {day}.",
                         day=Value(day_words(latest), "P",
                                   "computed: the same with a later start")))
        )  # fmt: skip
    return [
        Paragraph(say("Under-use: {program} takes back what is not used by two dates.",
                      program=program)),
        Items(items),
    ]  # fmt: skip
