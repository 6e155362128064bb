"""A job step: one jsrun command line, read strictly, and the places of its ranks.

step = JobStep.parse(["-r1", "-a6", "-g6", "-c42", "-b", "packed:7", "python", "-m", "x"])
step.request.fit(machine.compute, nodes=512)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePath

from alpenglow_lsf.geometry import GeometryError, Place, ResourceSet, cut, place
from alpenglow_lsf.machine import Machine
from alpenglow_lsf.options import Option, OptionError, number, parse_short_long

OPTIONS = (
    Option("-n", "number of resource sets", "--nrs"),
    Option("-r", "resource sets a host", "--rs_per_host"),
    Option("-a", "tasks a set", "--tasks_per_rs"),
    Option("-p", "tasks in all", "--np"),
    Option("-c", "cores a set", "--cpu_per_rs"),
    Option("-g", "GPUs a set", "--gpu_per_rs"),
    Option("-b", "binding", "--bind"),
    Option("-d", "order of ranks", "--launch_distribution"),
    Option("-l", "latency priority", "--latency_priority"),
    Option("-m", "memory a set", "--memory_per_rs"),
    Option("-E", "VARIABLE=value", "--env", repeats=True),
    Option("-X", "0 or 1", "--exit_on_error"),
    Option("-o", "file", "--stdio_stdout"),
    Option("-k", "file", "--stdio_stderr"),
    Option("-t", "file", "--stdio_input"),
    Option("-e", "individual, prepended or collected", "--stdio_mode"),
    Option("-M", "Spectrum MPI arguments", "--smpiargs"),
    Option("-h", "folder", "--chdir"),
    Option("-i", "", "--immediate", emulated=False),
    Option("-U", "resource file", "--use_resources", emulated=False),
    Option("--erf_input", "resource file", emulated=False),
    Option("--progress", "file", emulated=False),
)
"""jsrun's options as OLCF documents them; the stand-in refuses those that it cannot honour."""


@dataclass(frozen=True)
class JobStep:
    """What one jsrun command line asks for."""

    request: ResourceSet
    command: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()
    """-E: variables for the ranks."""
    exit_on_error: bool = True
    """-X: whether one failing rank ends the step."""
    stdout: str | None = None
    stderr: str | None = None
    stdin: str | None = None
    prepended: bool = False
    """--stdio_mode prepended: each line begins with its rank."""
    smpiargs: str = ""
    folder: str | None = None
    not_emulated: tuple[str, ...] = ()

    @classmethod
    def parse(cls, argv: Sequence[str]) -> JobStep:
        """Read the words after `jsrun`.

        Raises:
            OptionError: an option or value that jsrun does not know, or no command.
            GeometryError: a resource set that contradicts itself.
        """
        found, command = parse_short_long(argv, OPTIONS, "jsrun")
        given = {option.name: value for option, value in found}
        if not command:
            raise OptionError("jsrun: no command to run after the options")
        if "-a" in given and "-p" in given:
            raise OptionError("jsrun: -a and -p both give the number of tasks; keep one")
        numbers = {
            k: number(given[k], k, "jsrun")
            for k in ("-n", "-r", "-a", "-p", "-c", "-g")
            if k in given
        }
        sets, tasks = numbers.get("-n"), numbers.get("-a", 1)
        if "-p" in numbers:
            sets = sets if sets is not None else numbers["-p"]
            if sets == 0 or numbers["-p"] % sets:
                raise GeometryError(f"-p {numbers['-p']} tasks do not divide over -n {sets} sets")
            tasks = numbers["-p"] // sets
        request = ResourceSet(
            sets=sets,
            per_host=numbers.get("-r"),
            tasks=tasks,
            cores=numbers.get("-c", 1),
            gpus=numbers.get("-g", 0),
            bind=given.get("-b", ResourceSet.bind),
            distribution=given.get("-d", "packed"),
            latency=given.get("-l", "cpu-cpu"),
        )
        if given.get("-X", "1") not in ("0", "1"):
            raise OptionError(f"jsrun: -X {given['-X']} should be 0 or 1")
        mode = given.get("-e", "collected")
        if mode not in ("individual", "prepended", "collected"):
            raise OptionError(f"jsrun: --stdio_mode {mode}: choose individual or prepended")
        smpiargs = given.get("-M", "")
        if "-gpu" in smpiargs.split() and "-disable_gpu_hooks" in smpiargs.split():
            raise OptionError("jsrun: --smpiargs -gpu and -disable_gpu_hooks exclude each other")
        return cls(
            request=request,
            command=tuple(command),
            environment=tuple(_variable(v) for option, v in found if option.name == "-E"),
            exit_on_error=given.get("-X", "1") == "1",
            stdout=given.get("-o"),
            stderr=given.get("-k"),
            stdin=given.get("-t"),
            prepended=mode == "prepended",
            smpiargs=smpiargs,
            folder=given.get("-h"),
            not_emulated=tuple(
                option.long or option.name
                for option, value in found
                if not option.emulated or (option.name == "-e" and value == "individual")
            ),
        )

    def words(self) -> list[str]:
        """Write the step as the words after `jsrun`; `parse` reads the same step back."""
        found = self.request.words()
        for name, value in self.environment:
            found += ["-E", f"{name}={value}"]
        if not self.exit_on_error:
            found += ["-X", "0"]
        for flag, text in (("-o", self.stdout), ("-k", self.stderr), ("-t", self.stdin)):
            found += [] if text is None else [flag, text]
        found += ["-e", "prepended"] if self.prepended else []
        # With `=`, since a value such as -gpu begins like an option.
        found += [f"--smpiargs={self.smpiargs}"] if self.smpiargs else []
        found += [] if self.folder is None else ["-h", self.folder]
        return [*found, *self.command]

    @property
    def starts_mpi(self) -> bool:
        """Whether the command is `python ... -m mpi4py ...`, which needs a real MPI launcher."""
        if not PurePath(self.command[0]).name.startswith("python"):
            return False
        words = self.command[1:]
        for word, after in pairwise(words):
            if word == "-m":
                return after == "mpi4py"
            if not word.startswith("-"):
                return False
        return False

    def places(self, machine: Machine, nodes: int) -> list[Place]:
        """Place the ranks on `nodes` nodes of the machine, cut to size where it is a stand-in.

        Raises:
            GeometryError: the machine (for a stand-in the emulated one) cannot hold the step.
        """
        whole = place(self.request, machine.compute, nodes)
        if machine.stand_in is None:
            return whole
        return cut(whole, machine.stand_in.nodes, machine.stand_in.tasks_per_node)

    def asked(self, machine: Machine, nodes: int) -> tuple[int, int]:
        """Return (nodes used, ranks) on the machine itself, before any cut."""
        sets, per_host = self.request.fit(machine.compute, nodes)
        return -(-sets // per_host), sets * self.request.tasks


def find_step(command: Sequence[str]) -> JobStep | None:
    """Read a command as a job step; None where it does not start with jsrun."""
    if not command or PurePath(command[0]).name != "jsrun":
        return None
    return JobStep.parse(command[1:])


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name.isidentifier() or not equals:
        raise OptionError(f"jsrun: -E {text} should be VARIABLE=value")
    return name, value
