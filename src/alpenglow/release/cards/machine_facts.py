"""What a model's card says of the machine: hardware, jobs, node-hours, energy, where time went.

Jobs come from the segment records; energy and the account of the time from the run's report
(`RUN/report/report.json`, `alpenglow report`), with the baselines that it names. Called by `card`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alpenglow.release.cards.markdown import UNKNOWN, count, day, facts, known, section, table
from alpenglow.release.record import RunRecord, segment_hours
from alpenglow_lsf.machine import MachineError, load, names

MOST_SEGMENTS = 12
"""Rows of the table of jobs; a longer chain is told by reason."""
MOST_CAUSES = 6
"""Rows of the table of idle time; the others are summed."""


def machine_section(record: RunRecord) -> str:
    """Hardware and hours, then jobs, then the account of their time."""
    fact, hours, segments = record.fact, record.node_hours(), record.segments
    estimated = sum(1 for each in segments if each.get("ended") is None or each.get("estimated"))
    note = f" ({estimated} of {len(segments)} jobs estimated: never closed)" if estimated else ""
    rows = [
        ("machine", _machine(record)),
        ("nodes", count(fact("machine", "nodes"))),
        ("ranks", count(fact("machine", "ranks"))),
        ("GPUs a node", count(fact("machine", "gpus_per_node"))),
        ("jobs", _tally(segments)),
        ("node-hours", known(hours, "{:,.2f}") + (note if hours is not None else "")),
        ("energy", energy(record)),
    ]
    return section("Machine time", facts(rows), _jobs(segments), _account(record))


def energy(record: RunRecord) -> str:
    """GPU energy in kWh as the report's samples have it, and how much of the run they cover."""
    quantity = record.report.get("summary", {}).get("energy")
    if not isinstance(quantity, Mapping) or quantity.get("value") is None:
        return UNKNOWN
    unit = {"MWh": 1e3, "kWh": 1.0}.get(str(quantity.get("unit")))
    if unit is None:
        return UNKNOWN
    return f"{quantity['value'] * unit:,.4g} kWh, of the GPUs alone ({quantity.get('baseline')})"


def _machine(record: RunRecord) -> str:
    name = record.fact("machine", "name")
    if name is None or name not in names():
        return known(name)
    try:
        machine = load(name)
    except MachineError:
        return str(name)
    if machine.emulates is not None:
        return f"{name}, a stand-in for bigger machines"
    return f"{name}: {machine.description}"


def _reason(segment: Mapping[str, Any]) -> str:
    return str(segment.get("reason") or "not closed")


def _tally(segments: list[dict[str, Any]]) -> str:
    if not segments:
        return UNKNOWN
    reasons = [_reason(segment) for segment in segments]
    return (
        f"{len(segments)} (" + ", ".join(_times(r, reasons) for r in dict.fromkeys(reasons)) + ")"
    )


def _times(reason: str, reasons: list[str]) -> str:
    return f"{reasons.count(reason)} {reason}"


def _jobs(segments: list[dict[str, Any]]) -> str:
    if not segments:
        return ""
    title = "### Jobs and interruptions\n\n"
    if len(segments) <= MOST_SEGMENTS:
        head = ("job", "began (UTC)", ">nodes", ">node-hours", ">from step", ">to step", "ended by")
        return title + table(head, map(_job, segments))
    rows = []
    reasons = [_reason(segment) for segment in segments]
    for reason in dict.fromkeys(reasons):
        mine = [segment for segment in segments if _reason(segment) == reason]
        hours = [h for h in map(segment_hours, mine) if h is not None]
        rows.append((reason, count(len(mine)), known(sum(hours) if hours else None, "{:,.2f}")))
    span = f"{len(segments)} jobs from {day(segments[0].get('started'))} to "
    ends = [segment["ended"] for segment in segments if segment.get("ended")]
    span += f"{day(max(ends, default=None))} UTC."
    return title + table(("ended by", ">jobs", ">node-hours"), rows) + f"\n\n{span}"


def _job(segment: Mapping[str, Any]) -> tuple[str, ...]:
    job = segment.get("job_id")
    name = UNKNOWN if job is None else f"{job}.{segment.get('attempt', 1)}"
    estimated = " (estimated)" if segment.get("estimated") else ""
    return (
        name,
        day(segment.get("started")),
        count(segment.get("nodes_charged")),
        known(segment_hours(segment), "{:,.2f}"),
        count(segment.get("resumed_from_step")),
        count(segment.get("last_step")),
        _reason(segment) + estimated,
    )


def _account(record: RunRecord) -> str:
    """Useful share and the largest causes of idle time, each with its baseline."""
    report = record.report
    account, summary = report.get("account", {}), report.get("summary", {})
    rows = {row["key"]: row for row in account.get("rows", []) if not row.get("part")}
    total, useful = rows.pop("charged", None), rows.pop("compute", None)
    title = "### Where the time went\n\n"
    if total is None or useful is None or "equivalents" not in total:
        return title + "Unknown: no report of the run is at hand (`alpenglow report`)."
    unit = str(report.get("run", {}).get("unit", "rank"))
    shown = sorted(rows.values(), key=lambda row: -row["share"])
    lines = [("**" + useful["label"] + "** (useful)", *_shares(useful))]
    lines += [(row["label"], *_shares(row)) for row in shown[:MOST_CAUSES]]
    if rest := shown[MOST_CAUSES:]:
        sums = {key: sum(row[key] for row in rest) for key in ("share", "equivalents")}
        lines.append((f"{len(rest)} smaller causes", *_shares(sums)))
    lines.append((total["label"], *_shares(total)))
    parts = [title + table(("", ">share of the charge", f">{unit} equivalents"), lines)]
    parts.append(_rates(summary, unit))
    baseline = account.get("baseline")
    parts.append(
        f"Charged: {known(baseline)}. An equivalent is a share of the charge times the {unit}s "
        f"charged. Report of {known(report.get('made'))}."
    )
    return "\n\n".join(part for part in parts if part)


def _shares(row: Mapping[str, Any]) -> tuple[str, str]:
    return f"{row['share']:.1%}", f"{row['equivalents']:,.2f}"


def _rates(summary: Mapping[str, Any], unit: str) -> str:
    """Throughput, MFU and idle equivalents, whichever the report has."""
    rows = []
    for key, label, form in (
        ("tokens_per_s", "throughput", "{:,.0f} tokens/s"),
        ("mfu", "MFU", "{:.1%}"),
        ("hfu", "HFU", "{:.1%}"),
        ("idle_equivalents", f"idle {unit} equivalents", "{:,.2f}"),
    ):
        quantity = summary.get(key)
        if isinstance(quantity, Mapping) and quantity.get("value") is not None:
            rows.append((label, form.format(quantity["value"]), known(quantity.get("baseline"))))
        elif key == "mfu":
            rows.append((label, UNKNOWN, "the report has none"))
    return table(("", ">value", "baseline"), rows) if rows else ""
