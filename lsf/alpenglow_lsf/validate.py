"""Findings: what a scheduler, jsrun or a site's policy would refuse in a job, said before it waits.

    for finding in check_script(Path("jobs/pretrain_7b.lsf"), machine):
        print(finding)

bsub's stand-in runs this at submission: what LSF, jsrun or the site's bins refuse. What goes wrong
later (a missing file, work on the launch node, ...) is in alpenglow_lsf.review.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from alpenglow_lsf.geometry import GeometryError
from alpenglow_lsf.job import JobSpec, format_minutes
from alpenglow_lsf.machine import Bin, Machine
from alpenglow_lsf.options import OptionError
from alpenglow_lsf.script import Script, ScriptError
from alpenglow_lsf.step import JobStep

EXPERT = ("-n", "-R")


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a job."""

    rule: str
    """Stable name of the rule: bin, walltime, queue, nodes, nnodes, script, option, jsrun ...;
    RULES of alpenglow_lsf.review and of alpenglow.jobs list the others."""
    where: str
    """File and line, or the command line."""
    message: str
    cure: str
    refuses: bool = True
    """False for a warning: the job runs, but perhaps not as meant."""

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" + (f"; {self.cure}" if self.cure else "")


def check_script(path: Path, machine: Machine, over: JobSpec | None = None) -> list[Finding]:
    """Check a script file, with the options of a command line laid over it."""
    try:
        script = Script.read(path)
    except ScriptError as error:
        return [unreadable(error, str(path))]
    return check(script, machine, over)


def unreadable(error: ScriptError, name: str) -> Finding:
    """Make a finding of a script that cannot be read."""
    where = name if error.line is None else f"{name}:{error.line}"
    message, _, cure = str(error).removeprefix(f"{where}: ").rpartition("; ")
    return Finding(error.rule, where, message or cure, cure if message else "")


def check(script: Script, machine: Machine, over: JobSpec | None = None) -> list[Finding]:
    """Check a script that was read already; see `check_script`."""
    try:
        spec = script.spec if over is None else over.over(script.spec)
    except OptionError as error:
        return [Finding(error.rule, script.name, str(error), "")]
    found = check_job(spec, machine, script)
    try:
        steps = script.steps()
    except ScriptError as error:
        return [*found, unreadable(error, script.name)]
    for line, step in steps:
        found += check_step(step, machine, spec.nodes, f"{script.name}:{line}", spec.smt)
    return found


def check_job(spec: JobSpec, machine: Machine, script: Script | None = None) -> list[Finding]:
    """Check nodes, walltime, queue and options that exclude each other."""

    def where(option: str) -> str:
        line = None if script is None else script.line(option)
        name = "bsub" if script is None else script.name
        return name if line is None else f"{name}:{line}"

    found = []
    given = {option for option, _ in spec.others}
    expert = [option for option in EXPERT if option in given]
    if spec.nodes is not None and expert:
        found.append(
            Finding(
                "nnodes",
                where(expert[0]),
                f"-nnodes {spec.nodes} excludes {expert[0]}",
                "keep -nnodes, or all of expert mode (-csm y -n -R)",
            )
        )
    if spec.nodes is None and not expert:
        found.append(
            Finding("nodes", where("-nnodes"), "-nnodes is missing", "say how many nodes to use")
        )
    if spec.walltime is None:
        found.append(Finding("walltime", where("-W"), "-W is missing", "say [hours:]minutes"))
    return found + list(_check_bin(spec, machine, where("-q"), where("-nnodes"), where("-W")))


def check_step(
    step: JobStep, machine: Machine, nodes: int | None, where: str, smt: int | None = None
) -> list[Finding]:
    """Check one jsrun line on `nodes` nodes in SMT mode `smt` (None: the machine's own)."""
    if nodes is None:
        return []
    try:
        step.request.fit(machine.compute, nodes, smt)
    except GeometryError as error:
        name = machine.target.name
        return [Finding("geometry", where, f"jsrun: {error}", f"see a node of {name}")]
    return [
        Finding("geometry", where, f"jsrun: {text}", "", refuses=False)
        for text in step.request.warnings(machine.compute)
    ]


def _check_bin(
    spec: JobSpec, machine: Machine, at_queue: str, at_nodes: str, at_walltime: str
) -> Iterable[Finding]:
    target = machine.target
    name = machine.queue_name(spec.queue)
    queue = machine.queue(name)
    if queue is None:
        known = ", ".join(q.name for q in target.queues)
        yield Finding("queue", at_queue, f"{target.name} has no queue {name}", f"known: {known}")
        return
    if spec.nodes is None:
        return
    found = queue.bin(spec.nodes)
    if found is None:
        most = max(b.nodes[1] for b in queue.bins)
        yield Finding(
            "nodes",
            at_nodes,
            f"-nnodes {spec.nodes} is more than queue {name} of {target.name} takes"
            if spec.nodes > most
            else f"-nnodes {spec.nodes} lies in no bin of {target.name}'s queue {name}",
            f"at most {most}",
        )
    elif spec.walltime is not None and spec.walltime > found.hours * 60:
        yield Finding(
            "bin",
            at_walltime,
            f"-W {format_minutes(spec.walltime)} is more than {found.hours:g} h, the limit of "
            f"{target.name}'s queue {name} for {found.nodes[0]}-{found.nodes[1]} nodes",
            _cure(spec.walltime, queue.bins),
        )


def _cure(walltime: int, bins: tuple[Bin, ...]) -> str:
    enough = [b.nodes[0] for b in bins if b.hours * 60 >= walltime]
    if not enough:
        return f"ask for {max(b.hours for b in bins):g} h or less and continue in a chain"
    return f"ask for less, or for {min(enough)} nodes or more"
