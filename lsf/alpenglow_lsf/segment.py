"""Segment records: what one job did for a run, `RUN/segments/JOBID.ATTEMPT.json`.

The parent on the launch node writes the record at the start, refreshes its heartbeat and closes
it. The ranks' own fields come in `JOBID.ATTEMPT.rank0.json` and are merged. A parent that was
killed cannot close its record: the next segment does, from the last heartbeat, marked estimated.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from alpenglow_lsf.files import read_json, write_json

FORMAT = 1
FIELDS = (
    "format", "job_id", "attempt", "job_name", "activity", "script", "command", "machine",
    "project", "queue", "submitted", "started", "heartbeat", "ended", "nodes_asked", "nodes_used",
    "nodes_charged", "ranks", "hosts", "walltime_s", "deadline", "charge_rule",
    "resumed_from_step", "last_step", "last_durable_checkpoint", "startup_s", "save_s", "drain_s",
    "exit_code", "reason",
    "reason_text", "estimated", "then",
)  # fmt: skip
"""Keys of a record; times in unix seconds, None for what is not known."""

RANK0_FIELDS = (
    "resumed_from_step", "last_step", "last_durable_checkpoint", "startup_s", "save_s", "drain_s",
    "heartbeat",
)  # fmt: skip
"""Keys that rank 0 contributes."""

STALE_S = 120.0
"""A lock without a sign of life for this long is abandoned; parents give one every 10 s."""


class SegmentError(RuntimeError):
    """A run directory that cannot be used; the message is one sentence."""


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
        self.fields.update(
            ended=now, heartbeat=now, exit_code=exit_code, reason=reason, reason_text=reason_text
        )
        self.write()


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
        for path in (run / "segments").glob(f"{job_id}.*.json")
        if path.stem.rpartition(".")[2].isdigit()
    ]
    return max(attempts, default=0) + 1


def close_lost(run: Path, activity: str, by: str) -> list[str]:
    """Close the records that dead parents left open; only while holding the activity's lock.

    Returns:
        Names of the segments that were closed; their end is their last heartbeat.
    """
    closed = []
    for record in read_segments(run):
        name = f"{record['job_id']}.{record['attempt']}"
        if record.get("ended") is not None or record.get("activity") != activity or name == by:
            continue
        ended = record.get("heartbeat") or record.get("started")
        deadline = record.get("deadline")
        in_time = deadline is None or ended is None or ended < deadline
        record.update(
            ended=ended,
            reason="failed" if in_time else "walltime",
            reason_text=f"its parent was killed; closed from its last heartbeat by {by}",
            estimated=True,
        )
        write_json(run / "segments" / f"{name}.json", record)
        closed.append(name)
    return closed


class RunLock:
    """Says which segment works on a run; one at a time for each activity."""

    def __init__(self, run: Path, activity: str) -> None:
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
            self._path.unlink(missing_ok=True)

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
        if not dead and age < STALE_S and owner.get("job_id") != job_id:
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
