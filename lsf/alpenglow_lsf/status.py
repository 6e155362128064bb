"""The story of a run: its segments, why each ended, what they cost, and when the run will end.

    python -m alpenglow_lsf.status runs/pretrain_7b
    python -m alpenglow_lsf.status runs/pretrain_7b --json

Everything is read from the run directory; the scheduler is only asked about jobs that wait or
run. The forecast takes the last segments' pace and queueing, failures and restarts included.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from alpenglow_lsf.chain import FOR_OTHERS
from alpenglow_lsf.files import read_json
from alpenglow_lsf.machine import MachineError, current
from alpenglow_lsf.scheduler import JobStatus, SchedulerError
from alpenglow_lsf.scheduler import current as current_scheduler
from alpenglow_lsf.segment import durable_step, gained, read_segments

RECENT = 10
"""Segments that a forecast looks back on."""
NAMED = 8
"""Nodes that were left out are named up to this many a segment."""
COLUMNS = ("segment", "started", "hours", "nodes", "node-h", "steps", "gained", "ended because")

Ask = Callable[[str], JobStatus | None]


class StatusError(RuntimeError):
    """Nothing to tell of; the message is one sentence."""


def main(argv: Sequence[str] | None = None) -> int:
    """Tell how a run stands; 0, or 1 where there is no run."""
    parser = argparse.ArgumentParser(prog="alpenglow jobs status", description=ABOUT)
    parser.add_argument("run", type=Path, help="run directory")
    parser.add_argument("--json", action="store_true", help="the same as one JSON object")
    try:
        given = parser.parse_args(sys.argv[1:] if argv is None else argv)
    except SystemExit as stop:  # argparse has said what there is to say
        return int(stop.code or 0)
    try:
        found = status(given.run, _asker(), time.time())
    except StatusError as error:
        sys.stderr.write(f"alpenglow_lsf.status: {error}\n")
        return 1
    text = json.dumps(found, indent=1) + "\n" if given.json else render(found)
    sys.stdout.write(text)
    return 0


ABOUT = "The story of a run: segments, why each ended, node-hours, and a forecast of its end."


def status(run: Path, ask: Ask, now: float) -> dict[str, Any]:
    """Gather what is known of a run.

    Args:
        run: the run directory.
        ask: the scheduler's word on a job; None where it has none.
        now: unix seconds, the end of segments that are still running.

    Raises:
        StatusError: no segment has left a record there.
    """
    records = read_segments(run)
    if not records:
        raise StatusError(f"{run} has no segment records: is it a run directory?")
    segments = [_segment(record, now) for record in records]
    activity = records[-1].get("activity")
    own = [s for s in segments if s["activity"] == activity]
    progress = read_json(run / "progress.json") or {}
    total = progress.get("total") if progress.get("activity") == activity else None
    durable = durable_step(run) or max((s["durable"] or 0 for s in own), default=0)
    complete = any(s["reason"] == "complete" for s in own)
    return {
        "run": str(run),
        "activity": activity,
        "complete": complete,
        "stop": (run / "STOP").exists(),
        "step": max((s["last_step"] or 0 for s in own), default=0),
        "durable_step": durable,
        "total_steps": total,
        "node_hours": sum(s["node_hours"] for s in segments),
        "segments": segments,
        "waiting": _waiting(records, ask),
        "forecast": None if complete else forecast(own, durable, total, now),
    }


def _segment(record: Mapping[str, Any], now: float) -> dict[str, Any]:
    started = record.get("started")
    last = record.get("ended") or now
    seconds = 0.0 if started is None else max(0.0, last - started)
    # The charge rule of the machine file is named in the record; nodes x elapsed is the only one.
    nodes = record.get("nodes_charged") or record.get("nodes_asked") or 0
    return {
        "segment": f"{record['job_id']}.{record['attempt']}",
        "job_id": str(record["job_id"]),
        "activity": record.get("activity"),
        "submitted": record.get("submitted"),
        "started": started,
        "ended": record.get("ended"),
        "seconds": seconds,
        "walltime_s": record.get("walltime_s"),
        "nodes": nodes,
        "nodes_used": record.get("nodes_used"),
        "left_out": list(record.get("left_out") or ()),
        "node_hours": nodes * seconds / 3600.0,
        "resumed_from": record.get("resumed_from_step"),
        "last_step": record.get("last_step"),
        "durable": record.get("last_durable_checkpoint"),
        "gained": gained(record),
        "save_s": record.get("save_s"),
        "reason": record.get("reason"),
        "why": record.get("reason_text"),
        "estimated": bool(record.get("estimated")),
        "exit_code": record.get("exit_code"),
    }


def forecast(
    segments: Sequence[Mapping[str, Any]], durable: int, total: int | None, now: float
) -> dict[str, Any] | None:
    """Forecast the end of a run from its last segments; None without a total or without progress.

    Args:
        segments: of one activity, in the order of their start.
        durable: step of the newest checkpoint.
        total: steps of the whole run.
        now: unix seconds.
    """
    recent = [s for s in segments if s["reason"] not in FOR_OTHERS][-RECENT:]
    steps = sum(_advanced(s) for s in recent)
    seconds = sum(s["seconds"] for s in recent)
    if total is None or steps <= 0 or seconds <= 0:
        return None
    running = bool(recent) and recent[-1]["ended"] is None
    at = durable
    if running:
        at = max(at, recent[-1]["last_step"] or 0)
    left = max(0, total - at)
    pace = seconds / steps
    work = left * pace
    whole = [s for s in recent if s["ended"] is not None]
    length = _length(whole)
    rest = 0.0
    if running and recent[-1]["walltime_s"]:
        rest = max(0.0, recent[-1]["walltime_s"] - recent[-1]["seconds"])
        length = length or recent[-1]["walltime_s"]
    elif running:
        rest = work
    # The segment that runs takes its rest; whole ones follow.
    more = math.ceil(max(0.0, work - rest) / length) if length else 0
    waits = [w for s in recent if (w := _wait(s, segments)) is not None]
    wait = sum(waits) / len(waits) if waits else 0.0
    nodes = recent[-1]["nodes"]
    return {
        "steps": left,
        "seconds_per_step": pace,
        "segments": more,
        "node_hours": nodes * work / 3600.0,
        "queue_s": wait,
        "end": now + work + more * wait,
    }


def _advanced(segment: Mapping[str, Any]) -> int:
    """Steps that count: those safe in a checkpoint, or all so far while it runs."""
    if segment["ended"] is None:
        return max(0, (segment["last_step"] or 0) - (segment["resumed_from"] or 0))
    return int(segment["gained"])


def _length(segments: Sequence[Mapping[str, Any]]) -> float:
    """Seconds of a segment that used its walltime; the mean of all where none did."""
    used = [s["seconds"] for s in segments if s["reason"] in ("more to do", "walltime")]
    every = used or [s["seconds"] for s in segments]
    return sum(every) / len(every) if every else 0.0


def _wait(segment: Mapping[str, Any], segments: Sequence[Mapping[str, Any]]) -> float | None:
    """Seconds in the queue; a chained job starts to wait when the one before it has ended."""
    if segment["started"] is None:
        return None
    before = [s["ended"] for s in segments if (s["ended"] or math.inf) <= segment["started"]]
    since = max([t for t in (segment["submitted"], *before[-1:]) if t is not None], default=None)
    return None if since is None else max(0.0, segment["started"] - since)


def _waiting(records: Sequence[Mapping[str, Any]], ask: Ask) -> list[dict[str, Any]]:
    """Jobs that the run's segments have submitted and that have not ended, as far as is known."""
    found: list[dict[str, Any]] = []
    started = {str(record["job_id"]) for record in records}
    for record in records:
        successor = record.get("successor") or {}
        jobs = [(str(t.get("job_id")), t.get("script")) for t in record.get("then") or []]
        follower = None
        if successor.get("standing") == "submitted":
            follower = str(successor["job_id"])
            jobs.append((str(successor["job_id"]), successor.get("script")))
        for job_id, script in jobs:
            told = ask(job_id)
            if told is not None and not told.state.ended:
                word, why = told.state.value, told.reason
            elif told is not None or job_id in started or job_id != follower:
                continue  # it has run, or has long been forgotten
            else:
                word, why = "?", "the scheduler does not know this job (any more)"
            if job_id not in started:
                found.append({"job_id": job_id, "script": script, "state": word, "why": why})
    return found


def render(found: Mapping[str, Any]) -> str:
    """Write the story as plain text, columns aligned."""
    rows = [COLUMNS]
    for s in found["segments"]:
        steps = "" if s["last_step"] is None else f"{s['resumed_from'] or 0}-{s['last_step']}"
        mark = "~" if s["estimated"] else ""
        rows.append(
            (
                s["segment"],
                _date(s["started"]),
                f"{mark}{_amount(s['seconds'] / 3600)}",
                str(s["nodes"]),
                f"{mark}{_amount(s['node_hours'])}",
                steps,
                str(s["gained"]),
                _because(s),
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    left = (0, 1, 5, 7)
    lines = [
        "  ".join(
            cell.ljust(w) if i in left else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    total = found["total_steps"]
    of = f" of {total:g}" if total else ""
    share = f" ({found['durable_step'] / total:.0%})" if total else ""
    state = "complete" if found["complete"] else f"safe up to step {found['durable_step']}{of}"
    count = len(found["segments"])
    many = "1 segment" if count == 1 else f"{count} segments"
    lines += [
        "",
        f"run       {found['run']}: {state}{'' if found['complete'] else share}",
        f"spent     {_amount(found['node_hours'])} node-hours in {many}",
    ]
    for s in found["segments"]:
        if s["left_out"]:
            names = ", ".join(s["left_out"][:NAMED]) + (", ..." if s["left_out"][NAMED:] else "")
            lines.append(f"left out  {names} of segment {s['segment']}, which used the other nodes")
    if any(s["estimated"] for s in found["segments"]):
        lines.append("          ~ estimated: the end is the last sign of life")
    coming = found["forecast"]
    if coming is not None:
        per = coming["seconds_per_step"]
        pace = f"{3600 / per:,.1f} steps an hour" if per > 1 else f"{1 / per:,.1f} steps a second"
        lines.append(
            f"forecast  {coming['steps']} steps left at {pace} (restarts and losses included): "
            f"{coming['segments']} more segments, {_amount(coming['node_hours'])} node-hours, "
            f"end {_date(coming['end'])} with {coming['queue_s'] / 3600:.1f} h in the queue each"
        )
    elif not found["complete"]:
        lines.append("forecast  none: no checkpoint gained yet, or no total known")
    for job in found["waiting"]:
        lines.append(f"waiting   job {job['job_id']} {job['script']}: {job['state']} {job['why']}")
    if found["stop"]:
        lines.append("stop      a file STOP is in the run directory: nothing starts until it goes")
    return "\n".join(lines) + "\n"


def _because(segment: Mapping[str, Any]) -> str:
    if segment["ended"] is None and segment["reason"] is None:
        return "still open"
    why = segment["why"] or ""
    return f"{segment['reason']}: {why}" if why else str(segment["reason"])


def _amount(hours: float) -> str:
    return f"{hours:,.1f}" if hours >= 10 else f"{hours:.2f}" if hours >= 0.1 else f"{hours:.4f}"


def _date(moment: float | None) -> str:
    if moment is None:
        return "-"
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(moment))


def _asker() -> Ask:
    """Ask this machine's scheduler; a run may also be looked at where there is none."""

    def nobody(_: str) -> JobStatus | None:
        return None

    try:
        scheduler = current_scheduler(current())
    except (MachineError, SchedulerError):
        return nobody

    def ask(job_id: str) -> JobStatus | None:
        try:
            return scheduler.status(job_id)
        except SchedulerError:
            return None

    return ask


if __name__ == "__main__":
    sys.exit(main())
