"""Elastic Dask workers: batch jobs of many nodes each, which come when the queue lets them.

    with jobqueue.cluster(machine, WorkerJob(nodes=16, walltime_minutes=120), folder) as cluster:
        cluster.scale(jobs=2)
        client = Client(cluster)

dask-jobqueue's own LSFCluster writes -n, -R and -M, which Summit refuses beside -nnodes, hands the
script over by standard input, and starts its workers on the launch node. Here a job is a script
like those in jobs/: jsrun starts one worker a resource set on the compute nodes, and on a Slurm
machine `alpenglow_lsf.slurm_script` turns it into sbatch's and srun's. Many nodes a job, since a
site lets few jobs of a user wait at once.
"""

from __future__ import annotations

import asyncio
import shlex
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distributed import Security

from alpenglow.data.document import DataError
from alpenglow_lsf.job import JobSpec
from alpenglow_lsf.machine import Machine
from alpenglow_lsf.scheduler import SchedulerError, Submission, current
from alpenglow_lsf.script import render

_INTERRUPTED = signal.getsignal(signal.SIGINT)

from dask_jobqueue.core import Job, JobQueueCluster  # noqa: E402

# Importing it takes Ctrl-C for the whole process (dask_jobqueue.runner); it is given back.
with suppress(ValueError, TypeError):  # outside the main thread it was not taken
    signal.signal(signal.SIGINT, _INTERRUPTED)


@dataclass(frozen=True)
class WorkerJob:
    """One batch job of workers."""

    nodes: int = 1
    walltime_minutes: int = 60
    workers_per_node: int = 2
    """Resource sets a node: two is one a socket on a machine of two sockets."""
    cores_per_worker: int | None = None
    """Cores of a set; absent divides the node's."""
    threads_per_worker: int = 1
    project: str | None = None
    queue: str | None = None
    environment_script: str | None = None
    """Sourced by the job where ALPENGLOW_ENVIRONMENT names no other; absent is env/MACHINE.sh."""
    interface: str | None = None
    """Network interface of the workers, ib0 on Summit; absent lets Dask choose."""
    local_directory: str = "/tmp"

    def __post_init__(self) -> None:
        for name in ("nodes", "walltime_minutes", "workers_per_node", "threads_per_worker"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} should be 1 or more")


def job_script(
    scheduler: str,
    name: str,
    job: WorkerJob,
    machine: Machine,
    folder: Path,
    tls: Mapping[str, str] | None = None,
) -> str:
    """Write the script of one job of workers, in LSF's form.

    Args:
        scheduler: the address of Dask's scheduler.
        name: of the job and, followed by a rank, of its workers.
        job: its size.
        machine: where it runs.
        folder: for the jobs' output.
        tls: files of the workers' certificate by option (`tls-ca-file`, `tls-cert`, `tls-key`).

    Raises:
        GeometryError: a node does not hold so many workers.
    """
    cores = job.cores_per_worker or max(1, machine.compute.cores // job.workers_per_node)
    per_node = str(job.workers_per_node)
    jsrun = ["jsrun", "-r", per_node, "-a", "1", "-c", str(cores), "-b", "rs"]
    if machine.target.scheduler == "lsf":
        jsrun.append("--smpiargs=off")
    # Each rank takes a name of its own; without a nanny nothing forks beneath the launcher.
    worker = [sys.executable, "-m", "alpenglow.data.jobqueue", scheduler, name]
    worker += ["--nthreads", str(job.threads_per_worker), "--memory-limit", "0", "--no-nanny"]
    worker += ["--no-dashboard", "--local-directory", job.local_directory]
    worker += ["--interface", job.interface] if job.interface else []
    for option, value in (tls or {}).items():
        worker += [f"--{option}", value]
    output = str(folder / f"{name}.%J.out")
    spec = JobSpec(
        name=name,
        project=job.project,
        queue=job.queue,
        walltime=job.walltime_minutes,
        nodes=job.nodes,
        output=output,
        error=output,
    )
    source = shlex.quote(job.environment_script or f"env/{machine.target.name}.sh")
    body = f'\nsource "${{ALPENGLOW_ENVIRONMENT:-{source}}}" || exit\n\n'
    return render(spec, f"{body}exec {shlex.join(jsrun)} \\\n    {shlex.join(worker)}\n")


class ScriptJob(Job):
    """A job of workers as dask-jobqueue counts them; submitted by the machine's backend."""

    config_name = "lsf"
    job_header = ""

    def __init__(
        self,
        scheduler: str | None = None,
        name: str | None = None,
        *,
        worker_job: WorkerJob,
        machine: Machine,
        folder: Path,
        **options: Any,
    ) -> None:
        super().__init__(scheduler=scheduler, name=name, log_directory=str(folder), **options)
        self._worker_job = worker_job
        self._machine = machine
        self._folder = folder
        self._backend = current(machine)
        security = options.get("security")
        self._tls: dict[str, str] = {}
        if security is not None:
            files = security.get_tls_config_for_role("worker")
            names = {"ca_file": "tls-ca-file", "cert": "tls-cert", "key": "tls-key"}
            self._tls = {names[key]: str(files[key]) for key in names if files.get(key)}

    def job_script(self) -> str:
        """Return the script, in LSF's form on every machine."""
        return job_script(
            str(self.scheduler), str(self.name), self._worker_job, self._machine, self._folder,
            self._tls,
        )  # fmt: skip

    async def _submit_job(self, script_filename: str) -> str:
        # Kept beside the output: a queued job can then be read, and checked.
        script = self._folder / f"{self.name}.lsf"
        script.write_text(self.job_script(), encoding="utf-8")
        try:
            # In a thread: the scheduler goes on serving its workers meanwhile.
            return await asyncio.to_thread(self._backend.submit, Submission(script))
        except SchedulerError as error:
            raise DataError(f"cannot submit a job of workers: {error}") from None

    async def close(self) -> None:
        """End the job; one that has ended already needs nothing."""
        if self.job_id is not None:
            await asyncio.to_thread(self._end, str(self.job_id))

    def _end(self, job_id: str) -> None:
        status = self._backend.status(job_id)
        if status is not None and not status.state.ended:
            # It may end between the question and the order.
            with suppress(SchedulerError):
                self._backend.cancel([job_id])


class ScriptCluster(JobQueueCluster):
    """dask-jobqueue's cluster over `ScriptJob`: `scale(jobs=N)` submits and ends jobs."""

    job_cls = ScriptJob
    config_name = "lsf"


@contextmanager
def cluster(
    machine: Machine,
    job: WorkerJob,
    folder: Path,
    *,
    security: Security | None = None,
    interface: str | None = None,
) -> Iterator[ScriptCluster]:
    """Give a cluster without workers; its jobs end with the block.

    Args:
        machine: its scheduler takes the jobs.
        job: size of each job.
        folder: for scripts and output, on a file system that all nodes share.
        security: TLS, as `alpenglow.data.cluster` makes it; absent on a machine of one's own only.
        interface: network interface of the scheduler that compute nodes reach.
    """
    folder.mkdir(parents=True, exist_ok=True)
    workers = job.nodes * job.workers_per_node
    options: dict[str, Any] = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}
    if interface is not None:
        options["interface"] = interface
    elif security is None:
        options["host"] = "127.0.0.1"  # whoever reaches the scheduler can run code in it
    made = ScriptCluster(
        n_workers=0,
        # dask-jobqueue divides these among a job's workers; the script's numbers decide.
        cores=workers * job.threads_per_worker,
        processes=workers,
        memory=f"{int(machine.compute.memory_bytes * job.nodes)}B",
        protocol="tcp://" if security is None else "tls://",
        security=security,
        scheduler_options=options,
        worker_job=job,
        machine=machine,
        folder=folder.absolute(),
        job_name="dask-worker",
    )
    try:
        yield made
    finally:
        made.close()


def main(argv: list[str] | None = None) -> None:
    """Run one worker: the scheduler's address, the job's name, then options of `dask worker`."""
    from distributed.cli.dask_worker import main as dask_worker

    from alpenglow_lsf.ranks import Ranks

    scheduler, name, *rest = sys.argv[1:] if argv is None else argv
    # The names that dask-jobqueue expects: NAME-0, NAME-1 ... for the processes of a job.
    rank = Ranks.from_environment().rank
    dask_worker([scheduler, "--name", f"{name}-{rank}", *rest])


if __name__ == "__main__":
    main()
