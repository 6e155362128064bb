"""The spool: the local scheduler's folder, one JSON file a job.

SPOOL/ID.json        the job's record, replaced whole at each change
SPOOL/ID.lock        held (flock) by the job's supervisor: a free lock means it is gone
SPOOL/ID.script      the script as it was submitted
SPOOL/ID.hosts       LSB_DJOB_HOSTFILE
SPOOL/ID.signals     bkill's requests, a name a line
SPOOL/settings.toml  optional: seconds_per_minute (60), jobs_at_once (from the machine file)
"""

from __future__ import annotations

import dataclasses
import fcntl
import os
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

    @property
    def status(self) -> JobStatus:
        """The record in the words of every scheduler."""
        return JobStatus(
            job_id=str(self.job_id),
            state=JobState(self.state),
            name=self.name,
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
        taken = [int(p.stem) for p in self.folder.glob("*.json") if p.stem.isdigit()]
        job_id = max([int(text) if text.strip().isdigit() else FIRST_ID, *(i + 1 for i in taken)])
        write_text(counter, str(job_id + 1))
        return job_id

    def path(self, job_id: int, kind: str) -> Path:
        """Path of one of a job's files: json, lock, script, hosts, signals."""
        return self.folder / f"{job_id}.{kind}"

    def write(self, record: JobRecord) -> None:
        """Write a job's record."""
        write_json(self.path(record.job_id, "json"), dataclasses.asdict(record))

    def read(self, job_id: int | str) -> JobRecord | None:
        """Read a job's record; a job whose supervisor is gone counts as lost."""
        if not str(job_id).isdigit():
            return None
        record = self._read(int(job_id))
        if record is None or JobState(record.state).ended or self._supervised(record.job_id):
            return record
        with self.locked():
            # Read again: the supervisor may have written its last word before it let the lock go.
            record = self._read(int(job_id))
            if record is None or JobState(record.state).ended:
                return record
            lost = dataclasses.replace(
                record,
                state=JobState.FAILED.value,
                reason="lost: its supervisor was killed or the computer restarted",
                ended=self._last_sign(record),
            )
            self.write(lost)
            return lost

    def jobs(self) -> list[JobRecord]:
        """All jobs, oldest first."""
        ids = sorted(int(p.stem) for p in self.folder.glob("*.json") if p.stem.isdigit())
        return [record for i in ids if (record := self.read(i)) is not None]

    def records(self) -> list[JobRecord]:
        """All jobs as written, oldest first, without looking for lost ones; fit for `locked`."""
        ids = sorted(int(p.stem) for p in self.folder.glob("*.json") if p.stem.isdigit())
        return [record for i in ids if (record := self._read(i)) is not None]

    def hold(self, job_id: int) -> int:
        """Take a job's lock and return its descriptor, which the supervisor inherits."""
        descriptor = os.open(self.path(job_id, "lock"), os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return descriptor

    def request(self, job_id: int, signal: str) -> None:
        """Leave a request for a job's supervisor: a signal's name, or `bkill`."""
        with self.path(job_id, "signals").open("a") as file:
            file.write(signal + "\n")

    def _supervised(self, job_id: int) -> bool:
        try:
            descriptor = os.open(self.path(job_id, "lock"), os.O_RDWR)
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

    def _read(self, job_id: int) -> JobRecord | None:
        values = read_json(self.path(job_id, "json"))
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
