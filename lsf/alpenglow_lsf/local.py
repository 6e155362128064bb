"""The local scheduler: this computer runs batch jobs, one supervisor process for each.

    scheduler = Local(machine)
    job_id = scheduler.submit(Submission(Path("jobs/report.lsf")))

The supervisor is a session of its own, so a job survives the shell that submitted it. Jobs wait
for a free slot in the order of submission; see spool.py for the files and supervisor.py for the
signals.
"""

from __future__ import annotations

import dataclasses
import getpass
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from alpenglow_lsf import dependency
from alpenglow_lsf.arrays import parse_array
from alpenglow_lsf.files import write_text
from alpenglow_lsf.job import OPTIONS, SIGNALS, JobSpec
from alpenglow_lsf.machine import Machine, StandIn
from alpenglow_lsf.options import OptionError
from alpenglow_lsf.scheduler import JobState, JobStatus, SchedulerError, Submission, of_array
from alpenglow_lsf.script import Script
from alpenglow_lsf.spool import JobRecord, Spool
from alpenglow_lsf.validate import check

NOT_EMULATED = frozenset(option.name for option in OPTIONS if not option.emulated)


class Local:
    """Scheduler backend for a machine file with `scheduler = "local"`."""

    def __init__(self, machine: Machine) -> None:
        if machine.stand_in is None:
            raise SchedulerError(f"machine {machine.name} has no [stand_in] table")
        self._machine = machine
        self._stand_in: StandIn = machine.stand_in
        self.spool = Spool.of(machine.stand_in)

    def submit(self, submission: Submission) -> str:
        """Submit a script file; see `Scheduler.submit`."""
        try:
            script = Script.read(submission.script)
        except OptionError as error:
            raise SchedulerError(str(error)) from None
        wrong = next((f for f in check(script, self._machine, submission.over) if f.refuses), None)
        if wrong is not None:
            raise SchedulerError(f"bsub: {str(wrong).removeprefix('bsub: ')}")
        return self.submit_script(script, submission, str(submission.script))

    def submit_script(self, script: Script, submission: Submission, path: str | None) -> str:
        """Submit a script that was read already (bsub's standard input has no path)."""
        spec = submission.over.over(script.spec)
        shell = ["/bin/sh"]
        first = script.text.partition("\n")[0]
        if first.startswith("#!") and first[2:].strip():
            shell = shlex.split(first[2:])
        default = Path(path).name if path else "stdin"
        return self._submit(spec, submission, default, path, (shell, script.text))

    def submit_command(self, words: Sequence[str], submission: Submission) -> str:
        """Submit a command line instead of a script."""
        if shutil.which(words[0]) is None:
            raise SchedulerError(f"bsub: no script or command {words[0]}")
        return self._submit(submission.over, submission, Path(words[0]).name, None, list(words))

    def status(self, job_id: str) -> JobStatus | None:
        """Say how a job, or an array as a whole, stands; see `Scheduler.status`."""
        records = self.spool.find(job_id)
        if not records:
            return None
        if len(records) == 1:
            return records[0].status
        whole = of_array(str(records[0].job_id), [record.status for record in records])
        return dataclasses.replace(whole, name=records[0].name)

    def cancel(self, job_ids: Sequence[str], signal: str | None = None) -> None:
        """End jobs, or send them a signal; see `Scheduler.cancel`."""
        if signal is not None and signal not in SIGNALS:
            raise SchedulerError(f"bkill: -s {signal}: choose from {', '.join(SIGNALS)}")
        for job_id in job_ids:
            records = self.spool.find(job_id)
            if not records:
                raise SchedulerError(f"Job <{job_id}>: No matching job found")
            living = [r for r in records if not JobState(r.state).ended]
            if not living:
                raise SchedulerError(f"Job <{job_id}>: Job has already finished")
            for record in living:
                self.spool.request(record.key, signal or "bkill")

    def requeue(self, job_id: str) -> None:
        """End a running job and let it pend again under its id, as brequeue does.

        Raises:
            SchedulerError: no such job, or none that runs.
        """
        records = self.spool.find(job_id)
        if not records:
            raise SchedulerError(f"Job <{job_id}>: No matching job found")
        running = [r for r in records if r.state == JobState.RUNNING.value]
        if not running:
            raise SchedulerError(
                f"Job <{job_id}>: only a running job is requeued here; it is {records[0].state}"
            )
        for record in running:
            self.spool.request(record.key, "brequeue")

    def _submit(
        self,
        spec: JobSpec,
        submission: Submission,
        default_name: str,
        script: str | None,
        body: tuple[list[str], str] | list[str],
    ) -> str:
        refused = next((name for name, _ in spec.others if name in NOT_EMULATED), None)
        if refused is not None:
            raise SchedulerError(f"bsub: {refused} is not emulated on {self._machine.name}")
        _check_requeue(dict(spec.others).get("-Q", ""))
        try:
            array = parse_array(spec.name)
        except OptionError as refusal:
            raise SchedulerError(str(refusal)) from None
        indices = array.indices if array is not None else (0,)
        minute = self.spool.settings.seconds_per_minute
        nodes = spec.nodes or 1
        launch = f"{(*self._machine.target.reserved_hosts, 'batch')[0]}1"
        used = min(nodes, self._stand_in.nodes)
        others = dict(spec.others)
        with self.spool.locked():
            wanted = self._dependency(spec)
            job_id = self.spool.new_id()
            now = time.time()
            folder = Path(spec.folder) if spec.folder else Path.cwd()
            if isinstance(body, list):
                command = (*body, *submission.arguments)
            else:
                copy = self.spool.path(str(job_id), "script")
                write_text(copy, body[1])
                command = (*body[0], str(copy), *submission.arguments)
            unnamed = self.spool.path("%J" if array is None else "%J[%I]", "out")
            output = spec.output or others.get("-oo") or str(unnamed)
            error = spec.error or others.get("-eo")
            record = JobRecord(
                job_id=job_id,
                name=array.name if array is not None else spec.name or default_name,
                user=getpass.getuser(),
                host=socket.gethostname(),
                machine=_machine_name(self._machine),
                folder=str(folder.absolute()),
                command=command,
                script=script,
                options={**dict(spec.options()), **({"-w": wanted} if wanted else {})},
                output=output,
                error=error,
                walltime_s=None if spec.walltime is None else spec.walltime * minute,
                warning=(
                    (spec.warning_action, spec.warning_time * minute)
                    if spec.warning_action and spec.warning_time
                    else None
                ),
                nodes=nodes,
                hosts=(launch, *(f"node{i + 1}" for i in range(used))),
                queue=self._machine.queue_name(spec.queue or os.environ.get("LSB_DEFAULTQUEUE")),
                project=spec.project or os.environ.get("LSB_DEFAULTPROJECT") or "default",
                submitted=now,
                position=now,
                limit=None if array is None else array.limit,
            )
            for index in indices:
                self._add(_element(record, index), submission)
        return str(job_id)

    def _add(self, record: JobRecord, submission: Submission) -> None:
        """Write a job's record and start its supervisor, who takes over the lock."""
        descriptor = self.spool.hold(record.key)
        try:
            self.spool.write(record)
            self.spool.note(
                record.key,
                f"Submitted from host <{record.host}>, to Queue <{record.queue}>, CWD "
                f"<{record.folder}>, Output File <{record.output}>, {record.nodes} node(s) asked",
                record.submitted,
            )
            self._start_supervisor(record, descriptor, submission)
        finally:
            os.close(descriptor)

    def _dependency(self, spec: JobSpec) -> str | None:
        """Check -w and return it with ids in the place of names."""
        if spec.dependency is None:
            return None
        records = self.spool.records()

        def find(job: str) -> str | None:
            ids = {r.key for r in records} | {str(r.job_id) for r in records}
            if job in ids:
                return job
            name, _, element = job.partition("[")
            named = [r for r in records if r.name == name]
            if not named:
                return None
            found = str(named[-1].job_id) + (f"[{element}" if element else "")
            return found if found in ids else None

        try:
            expression = dependency.resolve(dependency.parse(spec.dependency), find)
        except OptionError as error:
            raise SchedulerError(str(error)) from None
        return dependency.render(expression)

    def _start_supervisor(self, record: JobRecord, descriptor: int, submission: Submission) -> None:
        root = str(Path(__file__).resolve().parents[1])
        # Not `-m`: the package may lie in a checkout that is not installed, and PYTHONPATH would
        # leak into the job.
        start = f"import sys; sys.path.insert(0, {root!r}); "
        start += "from alpenglow_lsf.supervisor import main; main()"
        with self.spool.path(str(record.job_id), "log").open("ab") as log:
            subprocess.Popen(
                [sys.executable, "-c", start, str(self.spool.folder), record.key],
                env={**os.environ, **submission.environment},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[descriptor],
                start_new_session=True,
            )


def _machine_name(machine: Machine) -> str:
    """How the supervisor, which starts in another folder, finds the machine file again."""
    named = os.environ.get("ALPENGLOW_MACHINE") or machine.name
    return str(Path(named).absolute()) if named.endswith(".toml") else named


def _element(record: JobRecord, index: int) -> JobRecord:
    """A job's record, or that of one element of its array, with %J and %I filled in."""

    def filled(name: str) -> str:
        return name.replace("%J", str(record.job_id)).replace("%I", str(index))

    return dataclasses.replace(
        record,
        index=index,
        output=filled(record.output),
        error=None if record.error is None else filled(record.error),
    )


def _check_requeue(codes: str) -> None:
    """Refuse what -Q cannot say here; EXCLUDE() needs a second host."""
    for word in codes.split():
        if "EXCLUDE" in word:
            raise SchedulerError("bsub: -Q EXCLUDE(...) is not emulated on this computer")
        if not re.fullmatch(r"all|~?\d{1,3}", word):
            raise SchedulerError(
                f'bsub: -Q {codes!r}: {word} should be an exit code; write "85 86" or "all ~1"'
            )
