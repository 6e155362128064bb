"""Findings of the second kind: what a scheduler accepts and what goes wrong afterwards.

    for finding in review(Path("jobs/pretrain_7b.lsf"), machine):
        print(f"{finding} [{finding.rule}]")

Includes all of alpenglow_lsf.validate. Rules and where they come from: RULES.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from alpenglow_lsf.body import PARENT, Command, commands, literal
from alpenglow_lsf.geometry import GeometryError
from alpenglow_lsf.job import JobSpec
from alpenglow_lsf.machine import Machine
from alpenglow_lsf.options import OptionError
from alpenglow_lsf.picture import seat, straddles
from alpenglow_lsf.script import Script, ScriptError
from alpenglow_lsf.step import JobStep
from alpenglow_lsf.validate import Finding, check, unreadable

RULES = {
    "chain": "a queue whose policy forbids chains: -w, --chain, --then, or bsub in the script",
    "tmpdir": "TMPDIR breaks jsrun where the machine file says so",
    "launch_node": "the script's body runs on a shared launch node without GPUs",
    "launcher": "ranks started by another launcher than the machine's",
    "file": "a file that the script sources or a program that it starts does not exist",
    "recipe": "a TOML recipe on a jsrun line does not exist",
    "then": "a script that --then names does not exist",
    "output": "the folder of -o or -e does not exist, and LSF would lose the output",
    "directive": "a line that looks like an option and is a comment",
    "syntax": "what the shell itself cannot read (bash -n)",
    "script": "the file itself: empty, no #!, line ends of another system",
    "wait": "jsrun in the background without wait: the job ends at once and takes it along",
    "exec": "a command after exec never runs",
    "gpu_mode": "several ranks on one GPU need -alloc_flags gpudefault or gpumps",
    "smpi": "--smpiargs=off leaves no MPI for mpi4py",
    "threads": "OMP_NUM_THREADS is more than the cores that a rank is bound to have",
    "nvme": "the node-local disk is there only with -alloc_flags nvme",
    "master": "the first host of a sorted host file need not be rank 0's",
    "geometry": "sets, cores and GPUs (see alpenglow_lsf.geometry and alpenglow_lsf.picture)",
}
"""Name of each rule here -> what breaks it. From OLCF's guide and public scripts."""

SHELL_TIMEOUT_S = 10.0
LAUNCHERS = ("mpirun", "mpiexec", "srun", "torchrun", "deepspeed", "accelerate", "horovodrun")
WORK = ("python", "ipython", "jupyter", "dask", "nvidia-smi", "make", "pip", "conda")
HARMLESS = ("--version", "-V", "-VV")
COMMENTS_LIKE_OPTIONS = (
    "# BSUB ",
    "#BSUB:",
    "#BSUB-",
    "#bsub ",
    "#Bsub ",
    "##BSUB ",
    "#SBATCH ",
    "#PBS ",
)


@dataclass(frozen=True)
class _Job:
    """What every rule sees."""

    script: Script
    spec: JobSpec
    machine: Machine
    base: Path
    commands: list[Command]
    steps: list[tuple[int, JobStep]]

    def at(self, line: int | None) -> str:
        return self.script.name if line is None else f"{self.script.name}:{line}"

    def missing(self, word: str) -> str | None:
        """Return the path of a word that names no file; None where it does or cannot be known."""
        text = literal(word)
        if text is None:
            return None
        path = self.base / text
        return None if path.exists() else text


def review(
    path: Path, machine: Machine, over: JobSpec | None = None, base: Path | None = None
) -> list[Finding]:
    """Find all that is wrong with a script.

    Args:
        path: the script.
        machine: its `target`'s rules hold.
        over: options of a command line, which go before those of the script.
        base: folder that the job is submitted from; the current one if None.
    """
    try:
        script = Script.read(path)
    except ScriptError as error:
        return [unreadable(error, str(path))]
    return review_script(script, machine, over, base)


def review_script(
    script: Script, machine: Machine, over: JobSpec | None = None, base: Path | None = None
) -> list[Finding]:
    """Find all that is wrong with a script that was read already; see `review`."""
    found = check(script, machine, over)
    try:
        spec = script.spec if over is None else over.over(script.spec)
        steps = script.steps()
    except OptionError:
        return _in_order([*found, *_text(script, machine), *_syntax(script)])  # check() named it
    folder = Path.cwd() if base is None else base
    if spec.folder is not None and literal(spec.folder) is not None:
        folder = folder / spec.folder
    job = _Job(script, spec, machine, folder, commands(script), steps)
    found += [*_text(script, machine), *_syntax(script)]
    for rule in (*_COMMAND_RULES, *_STEP_RULES):
        found += rule(job)
    return _in_order(found)


def _in_order(found: list[Finding]) -> list[Finding]:
    def line(finding: Finding) -> int:
        number = finding.where.rpartition(":")[2]
        return int(number) if number.isdigit() else 0

    return sorted(found, key=line)


def _text(script: Script, machine: Machine) -> Iterator[Finding]:
    if "\r" in script.text:
        yield Finding("script", script.name, "lines end in CR LF", "write it with LF alone")
    if not script.text.strip():
        yield Finding("script", script.name, "the script is empty", "")
    elif not script.text.startswith("#!"):
        yield Finding(
            "script", f"{script.name}:1", "no #! line names a shell", "begin with #!/bin/bash"
        )
    own = "#SBATCH " if machine.target.scheduler == "slurm" else None
    marks = [m for m in COMMENTS_LIKE_OPTIONS if m != own]
    for number, line in enumerate(script.text.splitlines(), start=1):
        mark = next((m for m in marks if line.startswith(m)), None)
        if mark is not None:
            yield Finding(
                "directive",
                f"{script.name}:{number}",
                f"{mark.strip()} begins a comment, so its option has no effect",
                "write #BSUB and a space",
            )


def _syntax(script: Script) -> Iterator[Finding]:
    """Let the shell read the script without running it."""
    shell = script.text.partition("\n")[0].rpartition("/")[2].split()[:1]
    bash = shutil.which("bash")
    if shell not in (["bash"], ["sh"]) or bash is None or "\0" in script.text:
        return
    try:
        done = subprocess.run(
            [bash, "--norc", "-n"],
            input=script.text.encode(),
            capture_output=True,
            timeout=SHELL_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return  # no verdict is no finding
    if done.returncode:
        first = done.stderr.decode("utf-8", "replace").partition("\n")[0]
        found = re.search(r"line (\d+): (.*)", first)
        where = f"{script.name}:{found[1]}" if found else script.name
        yield Finding("syntax", where, found[2] if found else first, "bash -n reads no further")


def _chain(job: _Job) -> Iterator[Finding]:
    name = job.machine.queue_name(job.spec.queue)
    queue = job.machine.queue(name)
    if queue is None or queue.chains:
        return
    says = f"and queue {name} of {job.machine.target.name} forbids chains of jobs"
    cure = "use a production queue, or leave it out"
    if job.spec.dependency is not None:
        yield Finding("chain", job.at(job.script.line("-w")), f"-w makes a chain, {says}", cure)
    for command in job.commands:
        for option in ("--chain", "--then"):
            if command.has(option):
                yield Finding(
                    "chain", job.at(command.line), f"{option} makes a chain, {says}", cure
                )
        if command.program in ("bsub", "sbatch"):
            text = f"{command.program} in a job makes a chain, {says}"
            yield Finding("chain", job.at(command.line), text, cure)


def _tmpdir(job: _Job) -> Iterator[Finding]:
    if not job.machine.target.refuse_tmpdir:
        return
    cure = "leave it unset; give programs a folder of their own"
    for command in job.commands:
        if any(name == "TMPDIR" for name, _ in command.variables):
            yield Finding("tmpdir", job.at(command.line), "TMPDIR is set, which breaks jsrun", cure)
    for line, step in job.steps:
        if any(name == "TMPDIR" for name, _ in step.environment):
            yield Finding("tmpdir", job.at(line), "-E TMPDIR reaches jsrun's ranks", cure)
    for option, value in job.spec.others:
        if option == "-env" and "TMPDIR=" in value:
            yield Finding("tmpdir", job.at(job.script.line("-env")), "-env sets TMPDIR", cure)


def _launch_node(job: _Job) -> Iterator[Finding]:
    own = {"lsf": "jsrun", "slurm": "srun"}.get(job.machine.target.scheduler, "jsrun")
    for command in job.commands:
        started = command
        if command.parent is not None:
            started = Command(command.line, tuple(command.parent[1]), (), command.after)
        program = started.program
        if program in LAUNCHERS and program != own:
            yield Finding(
                "launcher",
                job.at(command.line),
                f"{program} starts no ranks on the compute nodes of {job.machine.target.name}",
                f"start them with {own}",
            )
        elif own == "jsrun" and _works(started):
            yield Finding(
                "launch_node",
                job.at(command.line),
                f"{program} would run on the launch node, which has no GPUs and is shared",
                "put jsrun before it",
            )


def _works(command: Command) -> bool:
    if not command.program.startswith(WORK) or command.parent is not None:
        return False
    return not (len(command.words) == 2 and command.words[1] in HARMLESS)


def _files(job: _Job) -> Iterator[Finding]:
    for command in job.commands:
        words = [w for w in command.words[1:] if not w.startswith("-")]
        if command.program in ("source", ".") and words:
            yield from _absent(job, "file", command.line, words[0], "sources")
        for value in command.values("--then"):
            yield from _absent(job, "then", command.line, value, "names in --then")
    for line, step in job.steps:
        for word in step.command:
            if word.endswith(".toml") and "=" not in word:
                yield from _absent(job, "recipe", line, word, "gives to the ranks")
            elif word.endswith((".py", ".sh")) and not word.startswith("-") and "=" not in word:
                yield from _absent(job, "file", line, word, "gives to the ranks")


def _absent(job: _Job, rule: str, line: int, word: str, does: str) -> Iterator[Finding]:
    path = job.missing(word)
    if path is not None:
        yield Finding(
            rule,
            job.at(line),
            f"no file {path}, which the script {does}",
            "a job starts in the folder it was submitted from",
        )


def _output(job: _Job) -> Iterator[Finding]:
    for option, value in (("-o", job.spec.output), ("-e", job.spec.error)):
        folder = literal(value.rpartition("/")[0]) if value else None
        if folder and "%" not in folder and not (job.base / folder).is_dir():
            text = f"{option} {value}: no folder {folder}, so the output would be lost"
            yield Finding("output", job.at(job.script.line(option)), text, "make it first")


def _order(job: _Job) -> Iterator[Finding]:
    waits = any(c.program == "wait" for c in job.commands)
    ended: int | None = None
    for command in job.commands:
        if command.program == "jsrun" and command.after == "&" and not waits:
            text = "jsrun runs in the background, and the script ends without waiting for it"
            yield Finding("wait", job.at(command.line), text, "add `wait`")
        if ended is not None and command.line > ended:
            text = f"exec on line {ended} replaces the script, so this never runs"
            yield Finding("exec", job.at(command.line), text, "put it before, or leave exec out")
            return
        if command.replaces and command.after == "":
            ended = command.line


def _hosts(job: _Job) -> Iterator[Finding]:
    for number, line in enumerate(job.script.text.splitlines(), start=1):
        code = line.partition("#")[0]
        if "sort" in code and "LSB_DJOB_HOSTFILE" in code and "head" in code:
            text = "the first host of a sorted host file need not be that of rank 0"
            cure = "let the ranks agree (alpenglow_lsf.ranks does)"
            yield Finding("master", job.at(number), text, cure)


def _disk(job: _Job) -> Iterator[Finding]:
    path = job.machine.compute.nvme_path
    if path is None or any(f.lower() == "nvme" for f in job.spec.alloc_flags):
        return
    for command in job.commands:
        values = [*command.words, *(value for _, value in command.variables)]
        if any(path in value for value in values):
            text = f"{path} is there only with -alloc_flags nvme"
            yield Finding("nvme", job.at(command.line), text, 'add -alloc_flags "... nvme"')
            return


def _gpu_mode(job: _Job) -> Iterator[Finding]:
    flags = {f.lower() for f in job.spec.alloc_flags}
    for line, step in job.steps:
        request = step.request
        if request.gpus and request.tasks > request.gpus and not flags & {"gpudefault", "gpumps"}:
            text = f"jsrun: -a {request.tasks} tasks share -g {request.gpus} GPUs of exclusive mode"
            cure = "add -alloc_flags gpudefault (or gpumps)"
            yield Finding("gpu_mode", job.at(line), text, cure)


def _smpi(job: _Job) -> Iterator[Finding]:
    for line, step in job.steps:
        if step.smpiargs in ("off", "none") and step.starts_mpi:
            text = f"jsrun: --smpiargs={step.smpiargs} leaves no MPI, and the command needs mpi4py"
            yield Finding("smpi", job.at(line), text, 'use --smpiargs="-disable_gpu_hooks"')


def _threads(job: _Job) -> Iterator[Finding]:
    smt = job.spec.smt or job.machine.compute.smt
    outer = [v for c in job.commands for n, v in c.variables if n == "OMP_NUM_THREADS"]
    for line, step in job.steps:
        own = [v for n, v in step.environment if n == "OMP_NUM_THREADS"]
        asked = (own or outer)[-1:]
        most = step.request.threads(smt)
        if asked and asked[0].isdigit() and int(asked[0]) > most and step.request.bind != "none":
            text = (
                f"jsrun: OMP_NUM_THREADS={asked[0]}, but -b {step.request.bind} binds a rank to "
                f"{most} hardware threads in SMT mode {smt}"
            )
            yield Finding("threads", job.at(line), text, f"set {most} or fewer")


def _seats(job: _Job) -> Iterator[Finding]:
    if job.spec.nodes is None:
        return
    node = job.machine.compute
    for line, step in job.steps:
        try:
            notes = step.request.uneven(node, job.spec.nodes)
            notes += straddles(seat(step.request, node, job.spec.smt), node)
        except GeometryError:
            continue  # check() named it
        for text in notes:
            yield Finding("geometry", job.at(line), f"jsrun: {text}", "", refuses=False)


def _parent(job: _Job) -> Iterator[Finding]:
    """What stands after `--` and is no jsrun line that could be read."""
    for command in job.commands:
        if command.parent is None:
            continue
        own, started = command.parent
        if not started:
            text = "the parent has no command after `--`"
            yield Finding("launch_node", job.at(command.line), text, "end it with `-- jsrun ...`")
        for option in ("--run", "--activity"):
            if PARENT in command.words and not command.has(option) and "--help" not in own:
                text = f"the parent of the step needs {option}"
                yield Finding("option", job.at(command.line), text, "see lsf/README.md")


_COMMAND_RULES: tuple[Callable[[_Job], Iterator[Finding]], ...] = (
    _chain, _tmpdir, _launch_node, _parent, _files, _output, _order, _hosts, _disk,
)  # fmt: skip
_STEP_RULES: tuple[Callable[[_Job], Iterator[Finding]], ...] = (
    _gpu_mode, _smpi, _threads, _seats,
)  # fmt: skip
