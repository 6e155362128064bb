"""The spool: the local scheduler's folder, one JSON file a job.

ID is 101, or 101[3] for an element of a job array.

SPOOL/ID.json        the job's record, replaced whole at each change
SPOOL/ID.events      its history, a JSON object a line (what bhist shows)
SPOOL/ID.lock        held (flock) by the job's supervisor: a free lock means it is gone
SPOOL/ID.script      the script as it was submitted
SPOOL/ID.hosts       LSB_DJOB_HOSTFILE
SPOOL/ID.signals     requests of bkill and brequeue, a name a line
SPOOL/settings.toml  optional: seconds_per_minute (60), jobs_at_once (from the machine file)
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import time
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alpenglow_lsf.arrays import key_of, parse_id
from alpenglow_lsf.files import read_json, write_json, write_text
from alpenglow_lsf.machine import StandIn
from alpenglow_lsf.scheduler import JobState, JobStatus, SchedulerError

FIRST_ID = 101


@dataclass(frozen=True)
class JobRecord:
    """A job as the spool keeps it; times in unix seconds, sizes in the words of bsub."""

    job_id: int
    name: str
    user: str
    host: str
    """Host of submission."""
    machine: str
    folder: str
    """Where the job starts: where bsub was called, or -cwd."""
    command: tuple[str, ...]
    """What runs: the shell and the script's copy, or a command."""
    script: str | None
    """The script's own path."""
    options: Mapping[str, str]
    """bsub's options as they count for this job."""
    output: str
    error: str | None
    walltime_s: float | None
    warning: tuple[str, float] | None
    """Signal and seconds before the walltime."""
    nodes: int
    hosts: tuple[str, ...]
    queue: str
    project: str
    submitted: float
    state: str = JobState.PENDING.value
    reason: str = ""
    started: float | None = None
    ended: float | None = None
    exit_code: int | None = None
    process: int | None = None
    """Process id of the job's script."""
    index: int = 0
    """Index of an element of a job array; 0 outside arrays."""
    limit: int | None = None
    """How many elements of its array may run at once."""
    attempt: int = 1
    """Counts the runs of a job that was requeued."""
    position: float = 0.0
    """Place in the queue: a time of submission, or of being put at the end."""

    @property
    def key(self) -> str:
        """The id as LSF writes it: `101`, or `101[3]` for an element of an array."""
        return key_of(self.job_id, self.index)

    @property
    def title(self) -> str:
        """The job's name; an element's has its index in brackets."""
        return f"{self.name}[{self.index}]" if self.index else self.name

    @property
    def order(self) -> tuple[float, int, int]:
        """Sorts jobs into the order in which they are started."""
        return (self.position, self.job_id, self.index)

    @property
    def status(self) -> JobStatus:
        """The record in the words of every scheduler."""
        return JobStatus(
            job_id=self.key,
            state=JobState(self.state),
            name=self.title,
            queue=self.queue,
            project=self.project,
            submitted=self.submitted,
            started=self.started,
            ended=self.ended,
            exit_code=self.exit_code,
            reason=self.reason,
            output=Path(self.folder, self.output),
            error=None if self.error is None else Path(self.folder, self.error),
            walltime_s=self.walltime_s,
            dependency=self.options.get("-w", ""),
        )


@dataclass(frozen=True)
class Settings:
    """What may be set for a spool; tests shorten the minute."""

    seconds_per_minute: float
    jobs_at_once: int


class Spool:
    """A spool folder; made on first use, readable by its owner only."""

    def __init__(self, folder: Path, stand_in: StandIn) -> None:
        self.folder = folder
        self._stand_in = stand_in
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise SchedulerError(
                f"spool folder {folder} cannot be made: {error.strerror}"
            ) from None

    @classmethod
    def of(cls, stand_in: StandIn, environ: Mapping[str, str] | None = None) -> Spool:
        """Return the spool of ALPENGLOW_SPOOL, or else the one that the machine file names."""
        env = os.environ if environ is None else environ
        named = env.get("ALPENGLOW_SPOOL")
        if not named:
            root = env.get("ALPENGLOW_ROOT") or str(Path(__file__).resolve().parents[2])
            named = stand_in.spool.replace("$ALPENGLOW_ROOT", root)
        return cls(Path(os.path.expandvars(named)).absolute(), stand_in)

    @property
    def settings(self) -> Settings:
        """The spool's settings."""
        values: dict[str, Any] = {}
        with suppress(OSError):
            try:
                values = tomllib.loads((self.folder / "settings.toml").read_text())
            except tomllib.TOMLDecodeError as error:
                raise SchedulerError(f"{self.folder / 'settings.toml'}: {error}") from None
        return Settings(
            float(values.get("seconds_per_minute", 60.0)),
            int(values.get("jobs_at_once", self._stand_in.jobs_at_once)),
        )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the spool: ids, starts and changes by others than the supervisor happen inside."""
        with (self.folder / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def new_id(self) -> int:
        """Return the next job id; only inside `locked`."""
        counter = self.folder / "next"
        text = counter.read_text() if counter.exists() else ""
        taken = [job_id for job_id, _ in self._keys()]
        job_id = max([int(text) if text.strip().isdigit() else FIRST_ID, *(i + 1 for i in taken)])
        write_text(counter, str(job_id + 1))
        return job_id

    def path(self, key: str, kind: str) -> Path:
        """Path of one of a job's files: json, events, lock, script, hosts, signals."""
        return self.folder / f"{key}.{kind}"

    def write(self, record: JobRecord) -> None:
        """Write a job's record."""
        write_json(self.path(record.key, "json"), dataclasses.asdict(record))

    def note(self, key: str, text: str, moment: float | None = None) -> None:
        """Add an event to a job's history."""
        line = json.dumps({"time": time.time() if moment is None else moment, "text": text})
        with self.path(key, "events").open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def history(self, key: str) -> list[tuple[float, str]]:
        """Read a job's history: (unix seconds, what happened), oldest first."""
        found = []
        with suppress(OSError):
            for line in self.path(key, "events").read_text(encoding="utf-8").splitlines():
                with suppress(ValueError, KeyError, TypeError):
                    event = json.loads(line)
                    found.append((float(event["time"]), str(event["text"])))
        return found

    def read(self, key: str) -> JobRecord | None:
        """Read a job's record; a job whose supervisor is gone counts as lost."""
        record = self._read(key)
        if record is None or JobState(record.state).ended or self._supervised(key):
            return record
        with self.locked():
            # Read again: the supervisor may have written its last word before it let the lock go.
            record = self._read(key)
            if record is None or JobState(record.state).ended:
                return record
            lost = dataclasses.replace(
                record,
                state=JobState.FAILED.value,
                reason="lost: its supervisor was killed or the computer restarted",
                ended=self._last_sign(record),
            )
            self.write(lost)
            self.note(key, f"Exited; {lost.reason}", lost.ended)
            return lost

    def find(self, text: str) -> list[JobRecord]:
        """Read the jobs that an id of a command line names.

        Args:
            text: `101` (a job, or all elements of an array), `101[3]` or `101[1-3,7]`.
        """
        named = parse_id(text)
        if named is None:
            return []
        job_id, indices = named
        keys = [(i, index) for i, index in self._keys() if i == job_id]
        if indices is not None:
            keys = [(i, index) for i, index in keys if index in indices]
        return [record for i, index in keys if (record := self.read(key_of(i, index))) is not None]

    def jobs(self) -> list[JobRecord]:
        """All jobs, oldest first."""
        return [r for i, index in self._keys() if (r := self.read(key_of(i, index))) is not None]

    def records(self) -> list[JobRecord]:
        """All jobs as written, oldest first, without looking for lost ones; fit for `locked`."""
        return [r for i, index in self._keys() if (r := self._read(key_of(i, index))) is not None]

    def hold(self, key: str) -> int:
        """Take a job's lock and return its descriptor, which the supervisor inherits."""
        descriptor = os.open(self.path(key, "lock"), os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return descriptor

    def request(self, key: str, signal: str) -> None:
        """Leave a request for a job's supervisor: a signal's name, `bkill` or `brequeue`."""
        with self.path(key, "signals").open("a") as file:
            file.write(signal + "\n")

    def _keys(self) -> list[tuple[int, int]]:
        """(id, index) of all jobs, oldest first."""
        found = []
        for path in self.folder.glob("*.json"):
            named = parse_id(path.stem)
            if named is not None:
                found.append((named[0], (named[1] or (0,))[0]))
        return sorted(found)

    def _supervised(self, key: str) -> bool:
        try:
            descriptor = os.open(self.path(key, "lock"), os.O_RDWR)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def _last_sign(self, record: JobRecord) -> float:
        """When a lost job was last seen: its output file's last change, or else its start."""
        with suppress(OSError):
            return Path(record.folder, record.output).stat().st_mtime
        return record.started or record.submitted

    def _read(self, key: str) -> JobRecord | None:
        values = read_json(self.path(key, "json"))
        if values is None:
            return None
        warning = values.get("warning")
        return JobRecord(
            **{
                **values,
                "command": tuple(values["command"]),
                "hosts": tuple(values["hosts"]),
                "warning": None if warning is None else (str(warning[0]), float(warning[1])),
            }
        )


def jobs_before(
    job: JobRecord, running: list[JobRecord], waiting: list[JobRecord]
) -> list[str] | None:
    """Say which jobs hold or will take a slot before a job.

    Args:
        job: a pending job.
        running: the running jobs.
        waiting: the pending jobs that wait for nothing but a slot, `job` among them.

    Returns:
        Their keys; None where the limit of the job's array holds it.
    """
    counts = Counter(r.job_id for r in running)
    before = [r.key for r in running]
    for other in sorted(waiting, key=lambda r: r.order):
        full = other.limit is not None and counts[other.job_id] >= other.limit
        if other.key == job.key:
            return None if full else before
        if not full:
            counts[other.job_id] += 1
            before.append(other.key)
    return before
