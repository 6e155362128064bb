"""srun: the step of a jsrun line as one srun line, and back.

Slurm has no resource sets. What a set says is told a task and a node instead: a set of one task
gives each task its own cores and GPUs; a set of many tasks lets them share all GPUs of the node,
as jsrun shows them all to each task of the set, and the local rank picks the device.

    step = SrunStep.of(JobStep.parse(words), node, nodes=512)
    step.words()        # ("srun", "--nodes=512", ...)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

from alpenglow_lsf.geometry import GeometryError, Place, ResourceSet, place
from alpenglow_lsf.machine import Machine, Node
from alpenglow_lsf.options import Option, OptionError, number, parse_short_long
from alpenglow_lsf.step import JobStep
from alpenglow_lsf.step import find_step as find_jsrun

OPTIONS = (
    Option("-N", "number of nodes", "--nodes"),
    Option("-n", "number of tasks", "--ntasks"),
    Option("--ntasks-per-node", "tasks a node"),
    Option("-c", "CPUs a task", "--cpus-per-task"),
    Option("--threads-per-core", "hardware threads"),
    Option("--gpus-per-task", "GPUs a task"),
    Option("--gpus-per-node", "GPUs a node"),
    Option("--gpu-bind", "binding"),
    Option("--cpu-bind", "binding"),
    Option("-m", "order of ranks", "--distribution"),
    Option("-K", "0 or 1", "--kill-on-bad-exit"),
    Option("-o", "file", "--output"),
    Option("-e", "file", "--error"),
    Option("-i", "file", "--input"),
    Option("-l", "", "--label"),
    Option("-D", "folder", "--chdir"),
)
"""srun's options that `words` writes; others are refused, never guessed."""


@dataclass(frozen=True)
class SrunStep:
    """One srun line."""

    nodes: int
    tasks_per_node: int
    command: tuple[str, ...]
    cpus_per_task: int = 1
    threads_per_core: int | None = None
    """How many hardware threads of a core count as CPUs; None on machines with one."""
    gpus_per_task: int = 0
    gpus_per_node: int = 0
    cpu_bind: str = "cores"
    """none, cores or threads."""
    distribution: str = "block"
    """block, cyclic or plane=K."""
    exit_on_error: bool = True
    stdout: str | None = None
    stderr: str | None = None
    stdin: str | None = None
    label: bool = False
    folder: str | None = None

    @classmethod
    def of(cls, step: JobStep, node: Node, nodes: int) -> SrunStep:
        """Translate a jsrun line for `nodes` nodes of a machine.

        Args:
            step: the jsrun line.
            node: the machine's compute node.
            nodes: nodes of the job.

        Raises:
            GeometryError: the nodes do not hold it, or Slurm cannot spread it so.
            OptionError: an option of jsrun that srun has no word for.
        """
        request = step.request
        if step.not_emulated:
            raise OptionError(f"jsrun: {step.not_emulated[0]} has no counterpart in srun")
        sets, per_host = request.fit(node, nodes)
        per_host = min(per_host, sets)
        if sets % per_host:
            raise GeometryError(
                f"-n {sets} sets fill hosts of {per_host} unevenly, which srun cannot ask for"
            )
        own = request.tasks == 1
        by_thread = request.bind.startswith("packed:smt")
        cpus = request.threads()
        # ALPENGLOW_ needs no variables of jsrun's -E in the parent: env sets them for the ranks.
        variables = [f"{name}={value}" for name, value in step.environment]
        return cls(
            nodes=sets // per_host,
            tasks_per_node=per_host * request.tasks,
            command=(*(["env", *variables] if variables else []), *step.command),
            cpus_per_task=cpus,
            threads_per_core=(node.smt if by_thread else 1) if node.smt > 1 else None,
            gpus_per_task=request.gpus if own else 0,
            gpus_per_node=0 if own else request.gpus * per_host,
            cpu_bind=_cpu_bind(request, own, by_thread),
            distribution=_distribution(request, per_host),
            exit_on_error=step.exit_on_error,
            stdout=step.stdout,
            stderr=step.stderr,
            stdin=step.stdin,
            label=step.prepended,
            folder=step.folder,
        )

    @classmethod
    def parse(cls, argv: Sequence[str]) -> SrunStep:
        """Read the words after `srun`, as `words` writes them.

        Raises:
            OptionError: an option or a value that `words` does not write, or no command.
        """
        found, command = parse_short_long(argv, OPTIONS, "srun")
        given = {option.long or option.name: value for option, value in found}
        if not command:
            raise OptionError("srun: no command to run after the options")
        for name in ("--nodes", "--ntasks", "--ntasks-per-node"):
            if name not in given:
                raise OptionError(f"srun: {name} is missing")

        def count(name: str, least: int = 1) -> int:
            return number(given[name], name, "srun", least)

        nodes, per_node = count("--nodes"), count("--ntasks-per-node")
        if count("--ntasks") != nodes * per_node:
            raise OptionError(
                f"srun: --ntasks={given['--ntasks']} is not --nodes={nodes} x "
                f"--ntasks-per-node={per_node}"
            )
        threads = "--threads-per-core"
        return cls(
            nodes=nodes,
            tasks_per_node=per_node,
            command=tuple(command),
            cpus_per_task=count("--cpus-per-task") if "--cpus-per-task" in given else 1,
            threads_per_core=count(threads) if threads in given else None,
            gpus_per_task=count("--gpus-per-task", 0) if "--gpus-per-task" in given else 0,
            gpus_per_node=count("--gpus-per-node", 0) if "--gpus-per-node" in given else 0,
            cpu_bind=given.get("--cpu-bind", "cores"),
            distribution=given.get("--distribution", "block"),
            exit_on_error=given.get("--kill-on-bad-exit", "1") == "1",
            stdout=_literal(given.get("--output")),
            stderr=_literal(given.get("--error")),
            stdin=_literal(given.get("--input")),
            label="--label" in given,
            folder=given.get("--chdir"),
        )

    def words(self) -> tuple[str, ...]:
        """Return the whole command line; nothing in it is quoted, it is for no shell."""
        found: list[tuple[str, object]] = [
            ("--nodes", self.nodes),
            ("--ntasks", self.nodes * self.tasks_per_node),
            ("--ntasks-per-node", self.tasks_per_node),
            ("--cpus-per-task", self.cpus_per_task),
            ("--threads-per-core", self.threads_per_core),
            ("--gpus-per-task", self.gpus_per_task or None),
            ("--gpus-per-node", self.gpus_per_node or None),
            # Shared GPUs stay visible to every task: NCCL's peer access needs to see them.
            ("--gpu-bind", "none" if self.gpus_per_node else None),
            ("--cpu-bind", self.cpu_bind),
            ("--distribution", self.distribution),
            ("--kill-on-bad-exit", int(self.exit_on_error)),
            ("--output", _escaped(self.stdout)),
            ("--error", _escaped(self.stderr)),
            ("--input", _escaped(self.stdin)),
            ("--chdir", self.folder),
        ]
        options = [f"{name}={value}" for name, value in found if value is not None]
        return ("srun", *options, *(["--label"] if self.label else []), *self.command)

    def places(self, machine: Machine, nodes: int) -> list[Place]:
        """Place the ranks on `nodes` nodes; see `JobStep.places`.

        Raises:
            GeometryError: the job has fewer nodes than the step asks for.
        """
        if self.nodes > nodes:
            raise GeometryError(f"srun --nodes={self.nodes}, but the job has {nodes} nodes")
        per = self.tasks_per_node
        width = int(self.distribution.partition("=")[2] or 1)
        if self.distribution == "block":
            return place(
                ResourceSet(per_host=1, tasks=per, bind="none"), machine.compute, self.nodes
            )
        plane = f"plane:{min(width, per)}"
        request = ResourceSet(per_host=1, tasks=per, bind="none", distribution=plane)
        return place(request, machine.compute, self.nodes)


def find_step(command: Sequence[str]) -> JobStep | SrunStep | None:
    """Read a command as a job step; None where it starts with neither jsrun nor srun."""
    if command and PurePath(command[0]).name == "srun":
        return SrunStep.parse(command[1:])
    return find_jsrun(command)


def _cpu_bind(request: ResourceSet, own: bool, by_thread: bool) -> str:
    if request.bind == "none" or (request.bind == "rs" and not own):
        return "none"  # tasks that share a set's cores: Slurm knows no such set
    return "threads" if by_thread else "cores"


def _distribution(request: ResourceSet, per_host: int) -> str:
    if request.plane >= request.tasks:
        return "block"
    if request.tasks % request.plane:
        raise GeometryError(
            f"-d {request.distribution} deals -a {request.tasks} tasks out unevenly, which srun "
            f"cannot ask for"
        )
    width = request.plane * per_host
    return "cyclic" if width == 1 else f"plane={width}"


def _escaped(name: str | None) -> str | None:
    """Keep a percent sign literal: in file names of srun it begins a replacement."""
    return None if name is None else name.replace("%", "%%")


def _literal(name: str | None) -> str | None:
    return None if name is None else name.replace("%%", "%")
