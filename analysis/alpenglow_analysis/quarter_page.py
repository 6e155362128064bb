"""What stands in a quarterly or close-out report: the page, and the same as JSON."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from typing import Any

from alpenglow_analysis.allocation import Allocation
from alpenglow_analysis.burn import Due, Forecast, dues, forecast
from alpenglow_analysis.facts_table import day, moment, some
from alpenglow_analysis.page import Card, Figure, Note, Page, Pairs, Section, Sentences, Table
from alpenglow_analysis.quantity import quantity
from alpenglow_analysis.quarter import Quarter, Used
from alpenglow_analysis.segment import Segment
from alpenglow_analysis.units import billions, count, hours, percent
from alpenglow_analysis.utilisation import PIECES

FORMAT, VERSION = "alpenglow-quarter", 1
SOURCE = (
    "OLCF documentation, INCITE allocation under-utilization policy: by 1 May, below 10 % used, up "
    "to 30 % of the remainder may be taken back, below 15 % up to 15 %; by 1 September, below 10 % "
    "75 %, below 33 % 50 %, below 50 % 33 %. Ask the facility for the policy of this year."
)


def quarter_page(
    found: Quarter, allocation: Allocation | None, now: float, picture: Figure | None
) -> Page:
    """Put it into words.

    Args:
        found: the runs.
        allocation: what was granted; None leaves burn, dates and forecast out.
        now: unix time of the report.
        picture: the burn curve.
    """
    name = allocation.name if allocation and allocation.name else "Allocation"
    sections = [
        Section("runs", "Run by run", [_runs(found, allocation), *_period_note(found)]),
        Section("activities", "Activity by activity", [_activities(found, allocation)]),
        Section("useful", "What the node-hours became", _pieces(found, allocation)),
    ]
    if allocation is not None:
        sections.insert(0, _burn(found, allocation, now, picture))
    if found.missing:
        lines = [text[0].upper() + text[1:] + "." for text in found.missing]
        sections.append(Section("missing", "What is missing", [Sentences(lines)]))
    sections.append(Section("method", "How it is counted", [Pairs(_method())]))
    return Page(
        title=name,
        about="where the node-hours went",
        subtitle=f"{day(found.begin_s)} to {day(found.end_s - 1)} · {some(len(found.used), 'run')} "
        f"· {some(len(found.segments), 'job')}",
        cards=_cards(found, allocation, now),
        losses=[],
        sections=sections,
        made=moment(now),
        source="Numbers come from the run directories that were named, and from nothing else: what "
        "was charged outside them is not in it.",
        missing=found.missing,
    )


def _used_shares(found: Quarter) -> tuple[float, float]:
    """Node-hours with an account, and the useful ones of them."""
    pieces = found.pieces()
    return sum(pieces.values()), pieces.get("compute", 0.0)


def _cards(found: Quarter, allocation: Allocation | None, now: float) -> list[Card]:
    segments = found.segments
    period, so_far = found.in_period(segments), found.until_end(segments)
    cards = [
        Card("Charged in the period", f"{hours(period)} node-h", f"{hours(so_far)} by its end")
    ]
    if allocation is not None:
        share = so_far / allocation.node_hours
        even = allocation.even(min(found.end_s, now)) / allocation.node_hours
        cards.append(
            Card("Of the allocation", percent(share), f"an even use would be at {percent(even)}")
        )
        seen = forecast(allocation, found.burn(), now)
        cards.append(
            Card(
                "Forecast at its end",
                percent(seen.at_end / allocation.node_hours),
                f"at {count(seen.rate)} node-hours a day, today's rate",
            )
        )
    accounted, useful = _used_shares(found)
    if accounted:
        cards.append(
            Card(
                "Useful",
                percent(useful / accounted),
                "of the node-hours of training runs: forward and backward of steps that count",
            )
        )
    largest = max(segment.nodes for segment in segments)
    cards.append(Card("Largest job", some(largest, "node"), f"of {some(len(segments), 'job')}"))
    return cards


def _burn(found: Quarter, allocation: Allocation, now: float, picture: Figure | None) -> Section:
    used = found.burn()
    seen = forecast(allocation, used, now)
    blocks: list[Any] = [] if picture is None else [picture]
    table = dues(allocation, used, now)
    if table:
        heads = [
            "date",
            "used by then",
            "may be taken back",
            "node-hours",
            "safe at node-h a day",
        ]
        blocks.append(Table(heads, [_due(row) for row in table]))
        blocks.append(Note(SOURCE))
    blocks.append(Sentences(_forecast(allocation, seen, now)))
    return Section("burn", "Burn and forecast", blocks)


def _due(row: Due) -> list[str]:
    when = day(row.at_s)
    return [
        f"{when}, forecast" if row.forecast else when,
        f"{percent(row.used)} (safe from {percent(row.safe)})",
        f"up to {percent(row.rule.taken)} of the remainder" if row.rule else "nothing",
        f"up to {hours(row.taken)}" if row.rule else "0",
        hours(row.needed) if row.forecast else "",
    ]


def _forecast(allocation: Allocation, seen: Forecast, now: float) -> list[str]:
    if now >= allocation.end_s:
        left = allocation.node_hours - seen.at_end
        return [f"The allocation has ended; {hours(left)} node-hours were not used."]
    if not seen.rate:
        return [
            "Nothing was used in the last 28 days, so there is no rate to go on by; "
            f"{hours(seen.to_use_all)} node-hours a day would use all of it by its end."
        ]
    said = [f"Today's rate is {hours(seen.rate)} node-hours a day."]
    if seen.exhausted_s is not None:
        said.append(f"At that rate the allocation is used up on {day(seen.exhausted_s)}.")
    else:
        left = allocation.node_hours - seen.at_end
        said.append(
            f"At that rate {hours(left)} node-hours ({percent(left / allocation.node_hours)}) are "
            f"left at its end; {hours(seen.to_use_all)} a day would use all of it."
        )
    return said


def _runs(found: Quarter, allocation: Allocation | None) -> Table:
    heads = ["run", "jobs", "node-h in the period", "node-h so far"]
    heads += ["of the allocation"] if allocation else []
    heads += ["useful", "steps lost", "tokens"]
    rows = [_row(found, allocation, used) for used in found.used]
    total = ["All runs", str(len(found.segments))]
    total += _hours(found, found.segments, allocation)
    accounted, useful = _used_shares(found)
    lost = sum(used.account.lost_steps for used in found.used if used.account)
    tokens = [used.tokens for used in found.used if used.tokens]
    total += [
        percent(useful / accounted) if accounted else "unknown", f"{lost:,}",
        billions(sum(tokens)) if tokens else "unknown",
    ]  # fmt: skip
    return Table(heads, [*rows, total], sum=True)


def _row(found: Quarter, allocation: Allocation | None, used: Used) -> list[str]:
    row = [used.name, str(len(used.segments)), *_hours(found, used.segments, allocation)]
    if used.account is None:
        return [*row, "unknown", "unknown", "unknown"]
    tokens = used.tokens
    return [
        *row,
        percent(used.account.share("compute")),
        f"{used.account.lost_steps:,}",
        "unknown" if tokens is None else billions(tokens),
    ]


def _hours(found: Quarter, segments: Sequence[Segment], allocation: Allocation | None) -> list[str]:
    so_far = found.until_end(segments)
    cells = [hours(found.in_period(segments)), hours(so_far)]
    return [*cells, percent(so_far / allocation.node_hours)] if allocation else cells


def _by_activity(found: Quarter) -> dict[str, list[Segment]]:
    activities: dict[str, list[Segment]] = {}
    for segment in found.segments:
        activities.setdefault(segment.activity, []).append(segment)
    return dict(sorted(activities.items(), key=lambda item: -found.until_end(item[1])))


def _activities(found: Quarter, allocation: Allocation | None) -> Table:
    heads = ["activity", "jobs", "node-h in the period", "node-h so far"]
    heads += ["of the allocation"] if allocation else []
    heads += ["largest job", "jobs that failed"]
    rows = [
        [
            name,
            str(len(segments)),
            *_hours(found, segments, allocation),
            some(max(segment.nodes for segment in segments), "node"),
            str(sum(_failed(segment) for segment in segments)),
        ]
        for name, segments in _by_activity(found).items()
    ]
    return Table(heads, rows)


def _failed(segment: Segment) -> bool:
    """Whether a job ended otherwise than it should: 0, or 85 for more to do."""
    return segment.exit_code not in (0, 85)


def _period_note(found: Quarter) -> list[Note]:
    return [
        Note(
            f"The period is {moment(found.begin_s)} to {moment(found.end_s)}; a job across its "
            "border counts in part. Useful: share of a run's own charge."
        )
    ]


def _pieces(found: Quarter, allocation: Allocation | None) -> list[Any]:
    pieces = found.pieces()
    whole = sum(pieces.values())
    if not whole:
        return []
    price = allocation.price_per_node_hour if allocation else None
    heads = ["piece", "share", "node-hours"] + (["dollars"] if price is not None else [])
    rows = []
    for key in PIECES:
        if pieces.get(key):
            row = [PIECES[key], percent(pieces[key] / whole), hours(pieces[key])]
            rows.append([*row, f"{pieces[key] * price:,.2f}"] if price is not None else row)
    row = ["All of it", percent(1), hours(whole)]
    rows.append([*row, f"{whole * price:,.2f}"] if price is not None else row)
    return [
        Table(heads, rows, sum=True),
        Note("Training runs, from their first job on; each row as in the report of a run."),
    ]


def _method() -> list[tuple[str, str]]:
    return [
        ("Charge", "nodes asked for × elapsed time of each job, failed ones too."),
        ("Burn", "the charge of each job spread evenly over its time."),
        ("Rate", "node-hours a day, mean of the last 28 days, or since the first job if shorter."),
        ("Forecast", "straight on from now at that rate, not above what was granted."),
        (
            "To be safe",
            "(highest threshold of the date × allocation − used so far) / days until then.",
        ),
    ]


def quarter_json(found: Quarter, allocation: Allocation | None, now: float) -> str:
    """The same as JSON; `format`, `version`, quantities as in report.json."""
    segments, rule = found.segments, "nodes asked for x elapsed time"
    known: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "made": _iso(now),
        "period": {"begin": _iso(found.begin_s), "end": _iso(found.end_s)},
        "charged": quantity(found.in_period(segments), "node-hours", f"in the period; {rule}"),
        "charged_so_far": quantity(
            found.until_end(segments), "node-hours", f"until the period's end; {rule}"
        ),
        "runs": [_run_json(found, used) for used in found.used],
        "activities": {
            name: {
                "jobs": len(of),
                "charged": quantity(found.in_period(of), "node-hours", "in the period"),
                "charged_so_far": quantity(
                    found.until_end(of), "node-hours", "until the period's end"
                ),
            }
            for name, of in _by_activity(found).items()
        },
        "pieces": {
            key: quantity(value, "node-hours", "training runs, from their first job on")
            for key, value in found.pieces().items()
        },
        "missing": found.missing,
    }
    if allocation is not None:
        known["allocation"] = _allocation_json(found, allocation, now)
    return json.dumps(known, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _iso(unix: float) -> str:
    return f"{datetime.datetime.fromtimestamp(unix, tz=datetime.UTC):%Y-%m-%dT%H:%M:%SZ}"


def _run_json(found: Quarter, used: Used) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": used.name,
        "jobs": len(used.segments),
        "charged": quantity(found.in_period(used.segments), "node-hours", "in the period"),
        "charged_so_far": quantity(
            found.until_end(used.segments), "node-hours", "until the period's end"
        ),
    }
    if used.account is not None:
        useful = used.account.share("compute")
        row["useful"] = quantity(useful, "share", "the run's whole charge")
        row["lost_steps"] = quantity(used.account.lost_steps, "steps", "trained again")
    if used.tokens is not None:
        row["tokens"] = quantity(used.tokens, "tokens", "steps that count")
    return row


def _allocation_json(found: Quarter, allocation: Allocation, now: float) -> dict[str, Any]:
    used = found.burn()
    seen = forecast(allocation, used, now)
    granted = "granted node-hours"
    return {
        "name": allocation.name,
        "node_hours": allocation.node_hours,
        "start": allocation.start.isoformat(),
        "until": allocation.until.isoformat(),
        "program": allocation.program,
        "used": quantity(used.at(now) / allocation.node_hours, "share", granted),
        "even_use": quantity(allocation.even(now) / allocation.node_hours, "share", granted),
        "rate": quantity(seen.rate, "node-hours/day", "mean of the last 28 days"),
        "at_end": quantity(seen.at_end / allocation.node_hours, "share", f"{granted}; forecast"),
        "exhausted": None if seen.exhausted_s is None else _iso(seen.exhausted_s),
        "under_use_dates": [
            {
                "date": _iso(row.at_s),
                "forecast": row.forecast,
                "used": quantity(row.used, "share", granted),
                "safe_from": row.safe,
                "taken": quantity(row.taken, "node-hours", "at most; of the remainder"),
                "needed": quantity(row.needed, "node-hours/day", "from now until that date"),
            }
            for row in dues(allocation, used, now)
        ],
        "source": SOURCE if allocation.program else None,
    }
