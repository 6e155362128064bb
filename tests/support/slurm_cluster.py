"""A Slurm of one's own: controller and two nodes on this computer, in a folder, for one session.

Needs root (slurmd starts tasks as their users) and Debian's slurm-wlm and munge.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "scancel", "scontrol", "sinfo")

CONFIGURATION = """\
ClusterName=alpenglow
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
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
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
KillWait=10
SchedulerParameters=sched_interval=2,bf_interval=2
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={first} CPUs=8 RealMemory=1000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={second} CPUs=8 RealMemory=1000
PartitionName=batch Nodes=n1,n2 Default=YES MaxTime=60 State=UP OverSubscribe=EXCLUSIVE
"""


def absent() -> str | None:
    """Say why Slurm cannot run here; None where it can."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=search_path()) is None]
    if missing:
        return f"no {missing[0]} here: install slurm-wlm and munge, or run `nox -s slurm` as root"
    return None if os.geteuid() == 0 else "Slurm's daemons need root here"


def search_path() -> str:
    """Where the programs are: daemons lie outside a user's PATH."""
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


@contextlib.contextmanager
def running(folder: Path) -> Iterator[dict[str, str]]:
    """Start munged, slurmctld and two slurmd in a folder; stop them at the end.

    Yields:
        The variables with which Slurm's commands find this cluster.

    Raises:
        RuntimeError: the nodes did not come up; the message has the end of the logs.
    """
    folder.chmod(0o755)
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    port, first, second = _free_ports(3)
    configuration = folder / "slurm.conf"
    configuration.write_text(
        CONFIGURATION.format(
            host=socket.gethostname().partition(".")[0],
            port=port,
            first=first,
            second=second,
            folder=folder,
        )
    )
    environ = {**os.environ, "PATH": search_path(), "SLURM_CONF": str(configuration)}
    munge = [f"--{name}={folder}/munge.{name.partition('-')[0]}"
             for name in ("key-file", "socket", "pid-file", "log-file", "seed-file")]  # fmt: skip
    daemons = [["munged", "--foreground", "--force", *munge], ["slurmctld", "-D", "-c"]]
    daemons += [["slurmd", "-D", "-N", node] for node in ("n1", "n2")]
    started: list[subprocess.Popen[bytes]] = []
    with (folder / "daemons.out").open("wb") as output:
        try:
            for words in daemons:
                started.append(
                    subprocess.Popen(
                        words,
                        env=environ,
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                )
                if words[0] == "munged":
                    _until((folder / "munge.socket").exists, folder)
            _until(lambda: _idle(environ) == 2, folder)
            yield {"SLURM_CONF": str(configuration), "PATH": search_path()}
            subprocess.run(
                ["scancel", "--user=root"], env=environ, check=False, capture_output=True
            )
            with contextlib.suppress(RuntimeError):
                _until(lambda: _idle(environ) == 2, folder)
        finally:
            for process in reversed(started):
                process.terminate()
            for process in reversed(started):
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def _idle(environ: dict[str, str]) -> int:
    done = subprocess.run(
        ["sinfo", "--noheader", "--Node", "--format=%T"],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    return done.stdout.split().count("idle")


def _until(holds: object, folder: Path, seconds: float = 30.0) -> None:
    assert callable(holds)
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            logs = [*sorted(folder.glob("*.log")), folder / "daemons.out"]
            said = "".join(path.read_text(errors="replace")[-1500:] for path in logs)
            raise RuntimeError(f"Slurm did not come up in {seconds:.0f} s:\n{said}")
        time.sleep(0.2)


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports
