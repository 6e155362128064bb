"""Segment records: what one job did for a run, `RUN/segments/JOBID.ATTEMPT.json`.

The parent on the launch node writes the record at the start, refreshes its heartbeat and closes
it. The ranks' own fields come in `JOBID.ATTEMPT.rank0.json` and are merged. A parent that was
killed cannot close its record: the next segment does, with the end that the scheduler knows, or
else from the last heartbeat, marked estimated.
"""

from __future__ import annotations

import glob
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alpenglow_lsf.files import read_json, write_json

FORMAT = 1
FIELDS = (
    "format", "job_id", "attempt", "job_name", "activity", "script", "command", "machine",
    "project", "queue", "submitted", "started", "heartbeat", "ended", "nodes_asked", "nodes_used",
    "nodes_spare", "nodes_charged", "ranks", "hosts", "left_out", "walltime_s", "deadline",
    "charge_rule", "resumed_from_step", "last_step", "last_durable_checkpoint", "startup_s",
    "save_s", "drain_s", "guard", "data", "exit_code", "reason", "reason_text", "estimated", "then",
    "successor",
)  # fmt: skip
"""Keys of a record; times in unix seconds, None for what is not known."""

RANK0_FIELDS = (
    "resumed_from_step", "last_step", "last_durable_checkpoint", "startup_s", "save_s", "drain_s",
    "guard", "data", "heartbeat",
)  # fmt: skip
"""Keys that rank 0 contributes."""

STALE_S = 120.0
"""A lock without a sign of life for this long is abandoned; parents give one every 10 s."""


CANCELLED = "cancelled"
"""Reason of a segment that its owner ended by scancel; bkill's is `signal INT`."""
PREEMPTED = "preempted"
"""Reason of a segment that Slurm ended for another job, and did not requeue."""


class SegmentError(RuntimeError):
    """A run directory that cannot be used; the message is one sentence."""


@dataclass(frozen=True)
class Ending:
    """How a job ended, as its scheduler tells."""

    ended: float
    """Unix seconds."""
    exit_code: int | None
    reason: str
    """In the scheduler's words."""
    estimated: bool = False
    """Whether the scheduler guesses, too."""


class Segment:
    """The record of the segment that this process is the parent of."""

    def __init__(self, run: Path, fields: Mapping[str, Any]) -> None:
        """Write the first form of the record.

        Args:
            run: the run directory.
            fields: keys of FIELDS; those left out are None.
        """
        unknown = set(fields) - set(FIELDS)
        if unknown:
            raise KeyError(f"a segment record has no {', '.join(sorted(unknown))}")
        self._folder = run / "segments"
        self.fields: dict[str, Any] = dict.fromkeys(FIELDS)
        self.fields.update({"format": FORMAT, "estimated": False, "then": []})
        self.fields.update(fields)
        newest = durable_step(run)
        self._newest = newest or 0
        if self.fields["resumed_from_step"] is None:
            self.fields["resumed_from_step"] = newest  # until rank 0 says it
        if self.fields["attempt"] is None:
            self.fields["attempt"] = next_attempt(run, str(self.fields["job_id"]))
        self.write()

    @property
    def name(self) -> str:
        """JOBID.ATTEMPT."""
        return f"{self.fields['job_id']}.{self.fields['attempt']}"

    def write(self) -> None:
        """Replace the record on disk."""
        write_json(self._folder / f"{self.name}.json", self.fields)

    def beat(self) -> None:
        """Give a sign of life."""
        self.fields["heartbeat"] = time.time()
        self.write()

    def close(self, exit_code: int, reason: str, reason_text: str) -> None:
        """Write how the segment ended, with what rank 0 has contributed."""
        now = time.time()
        self.fields = merged(self._folder / f"{self.name}.json", self.fields)
        _look_for_checkpoint(self._folder.parent, self.fields, self._newest)
        self.fields.update(
            ended=now, heartbeat=now, exit_code=exit_code, reason=reason, reason_text=reason_text
        )
        self.write()


def durable_step(run: Path) -> int | None:
    """Step of the newest checkpoint: its manifest is written last of all."""
    steps = (path.parent.name for path in (run / "checkpoints").glob("step-*/manifest.json"))
    return max((int(name[5:]) for name in steps if name[5:].isdigit()), default=None)


def gained(record: Mapping[str, Any]) -> int:
    """Count the steps that a segment added to what a crash cannot take away."""
    durable = record.get("last_durable_checkpoint")
    return 0 if durable is None else max(0, durable - (record.get("resumed_from_step") or 0))


def _look_for_checkpoint(run: Path, fields: dict[str, Any], above: int) -> None:
    """Note a checkpoint newer than `above` that rank 0 was killed too early to tell of."""
    newest = durable_step(run) or 0
    known = fields.get("last_durable_checkpoint") or fields.get("resumed_from_step") or 0
    if newest > max(known, above):
        fields["last_durable_checkpoint"] = newest


def merged(path: Path, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record with rank 0's fields laid over it."""
    own = read_json(path.with_name(f"{path.stem}.rank0.json")) or {}
    both = dict(fields)
    for key in RANK0_FIELDS:
        if own.get(key) is None:
            continue
        later = key == "heartbeat" and fields.get(key) is not None
        both[key] = max(own[key], fields[key]) if later else own[key]
    return both


def read_segments(run: Path) -> list[dict[str, Any]]:
    """Read all records of a run in the order of their start; open ones with rank 0's fields."""
    found = []
    for path in (run / "segments").glob("*.json"):
        if path.stem.endswith(".rank0") or path.name.startswith("."):
            continue
        record = read_json(path)
        if record is not None and "job_id" in record:
            found.append(merged(path, record) if record.get("ended") is None else record)
    return sorted(found, key=lambda record: record.get("started") or 0.0)


def next_attempt(run: Path, job_id: str) -> int:
    """Attempt number of a job: a requeued job keeps its id, so its records are counted."""
    attempts = [
        int(path.stem.rpartition(".")[2])
        for path in (run / "segments").glob(f"{glob.escape(job_id)}.*.json")
        if path.stem.rpartition(".")[2].isdigit()
    ]
    return max(attempts, default=0) + 1


def close_lost(
    run: Path, activity: str, by: str, ask: Callable[[str], Ending | None] = lambda _: None
) -> list[str]:
    """Close the records that dead parents left open; only while holding the activity's lock.

    Args:
        run: the run directory.
        activity: whose records.
        by: name of the segment that does so; it is left open.
        ask: gives the end of a job, None where its scheduler does not know (any more).

    Returns:
        Names of the segments that were closed.
    """
    closed = []
    records = read_segments(run)
    names = [f"{record['job_id']}.{record['attempt']}" for record in records]
    newest = next((name for name in reversed(names) if name != by), None)
    for record in records:
        name = f"{record['job_id']}.{record['attempt']}"
        if record.get("ended") is not None or record.get("activity") != activity or name == by:
            continue
        # A requeued job runs again under its id: the scheduler tells of the newest attempt only.
        again = any(
            other["job_id"] == record["job_id"] and other["attempt"] > record["attempt"]
            for other in records
        )
        told = None if again else ask(str(record["job_id"]))
        if name == newest:
            _look_for_checkpoint(run, record, 0)  # no later segment can have written it
        last_sign = record.get("heartbeat") or record.get("started")
        end = last_sign if told is None else told.ended
        deadline = record.get("deadline")
        in_time = deadline is None or end is None or end < deadline
        reason = "failed" if in_time else "walltime"
        source = "its last heartbeat"
        if again:
            reason = "requeued"
        elif told is not None:
            reason = cause_of(told.reason) or reason
            source = f"its scheduler ({told.reason})" if told.reason else "its scheduler"
        record.update(
            ended=end,
            exit_code=None if told is None else told.exit_code,
            reason=reason,
            reason_text=f"its parent was killed; closed from {source} by {by}",
            estimated=told is None or told.estimated,
        )
        write_json(run / "segments" / f"{name}.json", record)
        closed.append(name)
    return closed


_CAUSES = (
    ("TERM_RUNLIMIT", "walltime"),
    ("TERM_OWNER", "signal INT"),
    ("timeout", "walltime"),
    ("TimeLimit", "walltime"),
    ("cancelled", CANCELLED),
    ("preempted", PREEMPTED),
    ("requeued", "requeued"),
)
"""Why LSF (capitals) and Slurm say that they ended a job, and our word for it."""


def cause_of(told: str) -> str | None:
    """Return our word for why a scheduler ended a job; None where it says nothing of its own."""
    return next((word for mark, word in _CAUSES if mark in told), None)


class RunLock:
    """Says which segment works on a run; one at a time for each activity."""

    def __init__(
        self, run: Path, activity: str, ended: Callable[[str], bool] = lambda _: False
    ) -> None:
        """Name the lock.

        Args:
            run: the run directory.
            activity: one word.
            ended: whether a job has ended; its lock is then taken over at once.
        """
        self._ended = ended
        self._path = run / "segments" / f"{activity}.lock"

    @contextmanager
    def held(self, job_id: str) -> Iterator[None]:
        """Hold the lock.

        Raises:
            SegmentError: another segment holds it; the message names its owner and its age.
        """
        self._take(job_id)
        try:
            yield
        finally:
            owner = read_json(self._path) or {}
            if (owner.get("host"), owner.get("process")) == (socket.gethostname(), os.getpid()):
                self._path.unlink(missing_ok=True)  # not one that was taken over meanwhile

    def beat(self) -> None:
        """Give a sign of life."""
        with suppress(OSError):
            os.utime(self._path)

    def _take(self, job_id: str) -> None:
        own = self._path.with_name(f".{self._path.name}.{socket.gethostname()}.{os.getpid()}")
        own.write_text(
            json.dumps({"job_id": job_id, "host": socket.gethostname(), "process": os.getpid()})
        )
        try:
            for _ in range(3):
                # A link fails where the name exists, also on parallel file systems.
                with suppress(FileExistsError):
                    os.link(own, self._path)
                    return
                self._remove_stale(job_id)
        finally:
            own.unlink(missing_ok=True)
        raise SegmentError(f"{self._path} keeps changing hands: another segment is starting")

    def _remove_stale(self, job_id: str) -> None:
        owner = read_json(self._path) or {}
        try:
            age = time.time() - self._path.stat().st_mtime
        except FileNotFoundError:
            return
        here = owner.get("host") == socket.gethostname()
        dead = here and not _exists(owner.get("process"))
        # A requeued job meets the lock of its own earlier attempt.
        dead = dead or age >= STALE_S or owner.get("job_id") == job_id
        # The launch node of a killed segment was another one, and its lock is still fresh.
        if not dead and not self._ended(str(owner.get("job_id"))):
            raise SegmentError(
                f"run {self._path.parent.parent} is in use by job {owner.get('job_id', '?')} on "
                f"{owner.get('host', '?')} (last sign of life {age:.0f} s ago): two jobs must not "
                f"write one run; wait for it, or bkill it"
            )
        # Renamed first: of two that find the same stale lock only one removes it.
        aside = self._path.with_name(f".{self._path.name}.stale.{os.getpid()}")
        with suppress(FileNotFoundError):
            self._path.rename(aside)
            aside.unlink()


def _exists(process: object) -> bool:
    if not isinstance(process, int):
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
