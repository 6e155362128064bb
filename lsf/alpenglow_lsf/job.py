"""JobSpec: what a batch job asks of the scheduler, and bsub's option table.

The same table reads the `#BSUB` lines of a script and bsub's command line; an option that is not
in it is refused. Options that no other room needs to understand are carried along in `others`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields

from alpenglow_lsf.options import Option, OptionError, parse_words

OPTIONS = (
    Option("-P", "project"),
    Option("-q", "queue"),
    Option("-W", "[hours:]minutes"),
    Option("-nnodes", "number of nodes"),
    Option("-alloc_flags", '"flag flag ..."'),
    Option("-J", "job name"),
    Option("-o", "output file"),
    Option("-e", "error file"),
    Option("-oo", "output file"),
    Option("-eo", "error file"),
    Option("-w", "dependency expression"),
    Option("-wa", "signal"),
    Option("-wt", "[hours:]minutes"),
    Option("-cwd", "folder"),
    Option("-N"),
    Option("-B"),
    Option("-u", "mail address"),
    Option("-r"),
    Option("-rn"),
    Option("-env", "variables", emulated=False),
    Option("-L", "login shell", emulated=False),
    Option("-G", "user group"),
    Option("-U", "reservation"),
    Option("-core_isolation", "level"),
    Option("-step_cgroup", "y or n"),
    Option("-jsm", "y, n or d"),
    Option("-csm", "y", emulated=False),
    Option("-n", "slots", emulated=False),
    Option("-R", "resource requirement", emulated=False),
    Option("-ln_slots", "slots", emulated=False),
    Option("-ln_mem", "memory", emulated=False),
    Option("-cn_cu", "compute units", emulated=False),
    Option("-cn_mem", "memory", emulated=False),
    Option("-Q", "exit codes"),
    Option("-b", "begin time", emulated=False),
    Option("-i", "input file", emulated=False),
    Option("-x", emulated=False),
    Option("-H", emulated=False),
    Option("-K", emulated=False),
    Option("-I", emulated=False),
    Option("-Ip", emulated=False),
    Option("-Is", emulated=False),
)
"""bsub's options that IBM and OLCF document; the local scheduler refuses those not emulated."""

SIGNALS = ("HUP", "INT", "QUIT", "ABRT", "USR1", "USR2", "TERM", "URG", "CONT", "KILL", "ALRM")
"""Names that -wa and `bkill -s` take, without SIG."""

ALLOC_FLAGS = (
    "smt1", "smt2", "smt4", "gpumps", "gpudefault", "nvme", "maximizegpfs", "spectral",
)  # fmt: skip
"""Values of -alloc_flags in OLCF's guide."""

_NAME = re.compile(r"[A-Za-z0-9_.+@%\[\]:,-]+")


class JobError(OptionError):
    """A job that contradicts itself; the message is one sentence for the user."""


@dataclass(frozen=True)
class JobSpec:
    """A batch job; absent fields are None and leave the choice to the scheduler."""

    name: str | None = None
    project: str | None = None
    queue: str | None = None
    walltime: int | None = None
    """-W in minutes."""
    nodes: int | None = None
    alloc_flags: tuple[str, ...] = ()
    output: str | None = None
    error: str | None = None
    dependency: str | None = None
    warning_action: str | None = None
    """-wa: signal sent before the walltime, without SIG."""
    warning_time: int | None = None
    """-wt: minutes before the walltime."""
    folder: str | None = None
    """-cwd."""
    others: tuple[tuple[str, str], ...] = ()
    """Further options in order, with their values ("" for a switch)."""

    def __post_init__(self) -> None:
        for option, value in self.options():
            # A line break would end the #BSUB line and give the rest to the shell.
            if not value.isprintable():
                raise JobError(
                    f"bsub: {option} {value!r} holds a character that is not text", "name"
                )
        if (self.warning_action is None) != (self.warning_time is None):
            there, missing = ("-wa", "-wt") if self.warning_time is None else ("-wt", "-wa")
            raise JobError(f"bsub: {there} needs {missing} beside it", "warning")
        if self.warning_action is not None and self.warning_action not in SIGNALS:
            raise JobError(
                f"bsub: -wa {self.warning_action}: choose from {', '.join(SIGNALS)}", "warning"
            )
        if (self.warning_time or 0) >= (self.walltime or float("inf")):
            raise JobError(
                f"bsub: -wt {self.warning_time} minutes is not before the end of "
                f"-W {self.walltime} minutes",
                "warning",
            )
        for flag, text in (("-J", self.name), ("-q", self.queue), ("-P", self.project)):
            if text is not None and not _NAME.fullmatch(text):
                raise JobError(
                    f"bsub: {flag} {text!r}: use letters, digits and _ . - + @ only", "name"
                )
        for flag in self.alloc_flags:
            if flag.lower() not in ALLOC_FLAGS:
                raise JobError(
                    f"bsub: -alloc_flags {flag}: choose from {' '.join(ALLOC_FLAGS)}", "alloc_flags"
                )
        modes = sorted({f.lower() for f in self.alloc_flags if f.lower().startswith("smt")})
        if len(modes) > 1:
            raise JobError(
                f"bsub: -alloc_flags names {' and '.join(modes)}; keep one", "alloc_flags"
            )

    @property
    def smt(self) -> int | None:
        """Hardware threads a core that -alloc_flags asks for; None leaves the site's default."""
        modes = [f for f in self.alloc_flags if f.lower().startswith("smt")]
        return int(modes[0][3:]) if modes else None

    def over(self, below: JobSpec) -> JobSpec:
        """Lay this job's options over another's, as a command line over a script's lines."""
        values = {}
        for field in fields(self):
            mine = getattr(self, field.name)
            values[field.name] = getattr(below, field.name) if mine in (None, ()) else mine
        own = {option for option, _ in self.others}
        kept = tuple(pair for pair in below.others if pair[0] not in own)
        return JobSpec(**{**values, "others": kept + self.others})

    def options(self) -> list[tuple[str, str]]:
        """Return the job as bsub options with their values ("" for a switch)."""
        found: list[tuple[str, str | None]] = [
            ("-P", self.project),
            ("-q", self.queue),
            ("-W", None if self.walltime is None else format_minutes(self.walltime)),
            ("-nnodes", None if self.nodes is None else str(self.nodes)),
            ("-alloc_flags", " ".join(self.alloc_flags) or None),
            ("-J", self.name),
            ("-o", self.output),
            ("-e", self.error),
            ("-w", self.dependency),
            ("-wa", self.warning_action),
            ("-wt", None if self.warning_time is None else format_minutes(self.warning_time)),
            ("-cwd", self.folder),
        ]
        return [(name, value) for name, value in found if value is not None] + [*self.others]


def parse_job(argv: Sequence[str], program: str = "bsub") -> tuple[JobSpec, list[str]]:
    """Read bsub options up to the first word that is none.

    Returns:
        The job, and the words that follow (script or command with its arguments).

    Raises:
        OptionError: an option or a value that LSF does not take.
    """
    found, rest = parse_words(argv, OPTIONS, program)
    given = {option.name: value for option, value in found}
    carried = {"-P", "-q", "-W", "-nnodes", "-alloc_flags", "-J", "-o", "-e", "-w", "-wa", "-wt"}
    for plain, overwriting in (("-o", "-oo"), ("-e", "-eo")):
        if plain in given and overwriting in given:
            raise JobError(f"{program}: {plain} and {overwriting} both name a file; keep one")
    nodes = given.get("-nnodes")
    if nodes is not None and not (nodes.isascii() and nodes.isdigit() and int(nodes) > 0):
        raise JobError(f"{program}: -nnodes {nodes} should be a whole number, 1 or more", "nodes")
    return (
        JobSpec(
            name=given.get("-J"),
            project=given.get("-P"),
            queue=given.get("-q"),
            walltime=_minutes(given.get("-W"), "-W", program),
            nodes=None if nodes is None else int(nodes),
            alloc_flags=tuple(given.get("-alloc_flags", "").split()),
            output=given.get("-o"),
            error=given.get("-e"),
            dependency=given.get("-w"),
            warning_action=given.get("-wa"),
            warning_time=_minutes(given.get("-wt"), "-wt", program),
            folder=given.get("-cwd"),
            others=tuple((o.name, v) for o, v in found if o.name not in {*carried, "-cwd"}),
        ),
        rest,
    )


def format_minutes(minutes: int) -> str:
    """Write minutes as LSF takes them, hours:minutes."""
    return f"{minutes // 60}:{minutes % 60:02d}"


def _minutes(text: str | None, option: str, program: str) -> int | None:
    if text is None:
        return None
    rule = "walltime" if option == "-W" else "warning"
    parts = text.split(":")
    if len(parts) == 3:
        raise JobError(f"{program}: {option} {text} has seconds; LSF takes [hours:]minutes", rule)
    if len(parts) > 3 or not all(p.isascii() and p.isdigit() for p in parts):
        raise JobError(f"{program}: {option} {text} should be [hours:]minutes", rule)
    hours, minutes = (int(parts[0]), int(parts[1])) if len(parts) == 2 else (0, int(parts[0]))
    if len(parts) == 2 and minutes > 59:
        raise JobError(f"{program}: {option} {text} has {minutes} minutes in an hour", rule)
    if hours * 60 + minutes < 1:
        raise JobError(f"{program}: {option} {text} should be a minute or more", rule)
    return hours * 60 + minutes
