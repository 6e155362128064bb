"""A Slurm of one's own: controller and four nodes on this computer, in a folder, for one session.

Needs root (slurmd starts tasks as their users) and Debian's slurm-wlm and munge.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import slurm_accounting

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "scancel", "scontrol", "sinfo")

CONFIGURATION = """\
ClusterName=alpenglow
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A requeued job starts when its credentials have expired: soon.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
# No control groups, no binding of cores: any computer will do.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
{accounting}
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
KillWait=10
SchedulerParameters=sched_interval=2,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=DEFAULT CPUs=8 RealMemory=1000
{nodes}
PartitionName=DEFAULT Nodes=n1,n2 MaxTime=60 State=UP OverSubscribe=EXCLUSIVE
PartitionName=batch Default=YES PriorityTier=2 PreemptMode=OFF
PartitionName=killable PriorityTier=1
PartitionName=spare PriorityTier=1 PreemptMode=CANCEL GraceTime=2
# What must meet its time limit does so here, beside the other tests.
PartitionName=long Nodes=n3,n4 PriorityTier=2 PreemptMode=OFF
"""
ACCOUNTING = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={port}
AccountingStoragePass={folder}/munge.socket
"""
NO_ACCOUNTING = "AccountingStorageType=accounting_storage/none"
NODES = ("n1", "n2", "n3", "n4")
STOPPED = ("slurmd", "slurmctld", "slurmdbd", "mariadbd", "munged")
"""Daemons in the order in which they are stopped."""


def absent() -> str | None:
    """Say why Slurm cannot run here; None where it can."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=search_path()) is None]
    if missing:
        return f"no {missing[0]} here: install slurm-wlm and munge, or run `nox -s slurm` as root"
    return None if os.geteuid() == 0 else "Slurm's daemons need root here"


def search_path() -> str:
    """Where the programs are: daemons lie outside a user's PATH."""
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


class Cluster:
    """The daemons of one Slurm."""

    def __init__(self, folder: Path) -> None:
        """Name the folder; it must be short, since sockets lie in it."""
        self.folder = folder
        self.refused_accounting = slurm_accounting.absent(search_path())
        """Why there is no sacct here; None where there is."""
        self._environ = {**os.environ, "PATH": search_path(), **self.variables}
        self._up = False
        self._started: list[tuple[str, subprocess.Popen[bytes]]] = []

    @property
    def variables(self) -> dict[str, str]:
        """The variables with which Slurm's commands find this cluster."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": search_path()}

    def start(self) -> None:
        """Start munged, slurmdbd where it is installed, slurmctld and the nodes' slurmd.

        Raises:
            RuntimeError: the nodes did not come up; the message has the end of the logs.
        """
        folder = self.folder
        folder.chmod(0o755)
        (folder / "state").mkdir()
        (folder / "spool").mkdir()
        key = folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        port, accounts, *node_ports = _free_ports(2 + len(NODES))
        kept = self.refused_accounting is None
        accounting = ACCOUNTING.format(port=accounts, folder=folder) if kept else NO_ACCOUNTING
        host = socket.gethostname().partition(".")[0]
        place = f"NodeHostname={host} NodeAddr=127.0.0.1"
        ports = zip(NODES, node_ports, strict=True)
        nodes = [f"NodeName={name} {place} Port={own}" for name, own in ports]
        (folder / "slurm.conf").write_text(
            CONFIGURATION.format(
                host=host, port=port, folder=folder, accounting=accounting,
                nodes="\n".join(nodes),
            )
        )  # fmt: skip
        names = ("key-file", "socket", "pid-file", "log-file", "seed-file")
        munge = [f"--{name}={folder}/munge.{name.partition('-')[0]}" for name in names]
        munged = ["munged", "--foreground", "--force", *munge]
        self._start(munged, (folder / "munge.socket").exists)
        if kept:
            self._environ |= slurm_accounting.variables(folder)
            slurm_accounting.start(folder, accounts, self._environ, self._start)
        for words in (["slurmctld", "-D", "-c"], *(["slurmd", "-D", "-N", n] for n in NODES)):
            self._start(words, lambda: True)
        self._until_idle()
        self._up = True

    def forget(self, first_job: int) -> None:
        """Start the controller anew without any memory of its jobs.

        Args:
            first_job: the next job's id, above all that were given: accounts keep the old ones.
        """
        self._until_idle()
        self._stop(["slurmctld"])
        with (self.folder / "slurm.conf").open("a") as configuration:
            configuration.write(f"FirstJobId={first_job}\n")
        self._start(["slurmctld", "-D", "-c"], lambda: True)
        self._until_idle()

    def stop(self) -> None:
        """End all jobs and daemons."""
        if self._up:
            words = ["scancel", "--user=root"]
            with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):
                subprocess.run(words, env=self._environ, check=False, timeout=30)
                self._until_idle()
        self._stop([name for name, _ in reversed(self._started)])

    def _start(self, words: list[str], holds: Callable[[], bool]) -> None:
        with (self.folder / "daemons.out").open("ab") as output:
            process = subprocess.Popen(
                words, env=self._environ, stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self._started.append((words[0], process))
        _until(holds, self.folder)

    def _stop(self, names: list[str]) -> None:
        ending = [(name, process) for name, process in self._started if name in names]
        # The database goes last: slurmdbd still writes what the controller has told it.
        for name, process in sorted(ending, key=lambda pair: STOPPED.index(pair[0])):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            self._started.remove((name, process))

    def _until_idle(self) -> None:
        _until(lambda: _idle(self._environ) == len(NODES), self.folder)


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Cluster]:
    """Start a cluster in a folder; stop it at the end.

    Raises:
        RuntimeError: see `Cluster.start`.
    """
    cluster = Cluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def _idle(environ: dict[str, str]) -> int:
    done = subprocess.run(
        ["sinfo", "--noheader", "--Node", "--format=%N=%T"],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    # A node is named once for each of its partitions.
    return sum(word.endswith("=idle") for word in set(done.stdout.split()))


def _until(holds: Callable[[], bool], folder: Path, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            logs = [*sorted(folder.glob("*.log")), folder / "daemons.out"]
            said = "".join(path.read_text(errors="replace")[-1500:] for path in logs)
            raise RuntimeError(f"Slurm did not come up in {seconds:.0f} s:\n{said}")
        time.sleep(0.2)


def _free_ports(count: int) -> list[int]:
    # Below the range of outgoing connections: another's could take a port before its daemon does.
    found: list[int] = []
    for port in random.sample(range(10000, 30000), 50):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError(f"of 50 ports no {count} are free")
