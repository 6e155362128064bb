"""Batch scripts for Slurm: a JobSpec as `#SBATCH` lines and back, a whole LSF script as sbatch's.

    text = translate(Script.read(Path("jobs/pretrain_7b.lsf")), over, machine)

The body stays the same; its jsrun lines become srun lines, and a preamble sets the LSF variables
that scripts and `alpenglow_lsf.run` read.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import replace

from alpenglow_lsf.arrays import lsf_id, slurm_id
from alpenglow_lsf.dependency import Both, Condition, Expression, parse
from alpenglow_lsf.job import JobSpec
from alpenglow_lsf.machine import Machine
from alpenglow_lsf.options import OptionError
from alpenglow_lsf.script import MARK as LSF_MARK
from alpenglow_lsf.script import Script
from alpenglow_lsf.srun import SrunStep
from alpenglow_lsf.step import JobStep

MARK = "#SBATCH"

DEPENDENCIES = {"done": "afterok", "ended": "afterany", "exit": "afternotok", "started": "after"}
SWITCHES = {"-r": "--requeue", "-rn": "--no-requeue", "-x": "--exclusive", "-H": "--hold"}
WITHOUT_EFFECT = ("-N", "-B", "-jsm", "-step_cgroup", "-core_isolation")
"""Options about mail, JSM and IBM's cgroups: left out."""

PREAMBLE = r"""
export LSB_JOBID="${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}" LSB_QUEUE="$SLURM_JOB_PARTITION"
export LSB_JOBNAME="$SLURM_JOB_NAME${SLURM_ARRAY_TASK_ID:+[$SLURM_ARRAY_TASK_ID]}"
export LSB_PROJECT_NAME="${SLURM_JOB_ACCOUNT:-}" LS_SUBCWD="$SLURM_SUBMIT_DIR"
export LSB_JOBINDEX="${SLURM_ARRAY_TASK_ID:-0}" ALPENGLOW_NODES_ASKED="$SLURM_JOB_NUM_NODES"
if [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ]; then export LSB_RESTART=Y; fi
""".lstrip()
"""What a job of LSF finds in its environment, from Slurm's variables."""


class SlurmError(OptionError):
    """A job that Slurm cannot be asked for; the message is one sentence."""


def options(spec: JobSpec, machine: Machine) -> list[tuple[str, str]]:
    """Return a job as sbatch's long options with their values ("" for a switch).

    Raises:
        SlurmError: an option of bsub without a counterpart, or a queue that the machine lacks.
    """
    name, array = _array(spec.name)
    seconds = None if spec.warning_time is None else spec.warning_time * 60
    if seconds is not None and seconds > 65535:  # sbatch's manual, --signal
        raise SlurmError(
            f"sbatch: -wt {spec.warning_time} minutes: Slurm warns 1092 or less before"
        )
    found: list[tuple[str, str | None]] = [
        ("--account", spec.project),
        *_queue(spec.queue, machine),
        ("--time", None if spec.walltime is None else _clock(spec.walltime)),
        ("--nodes", None if spec.nodes is None else str(spec.nodes)),
        ("--job-name", name),
        ("--array", array),
        ("--output", _file(spec.output, array)),
        ("--error", _file(spec.error, array)),
        ("--dependency", None if spec.dependency is None else dependency(spec.dependency)),
        # Without B: the signal goes to the ranks themselves. srun hands on USR1, USR2 and TERM
        # but not URG, so a signal to the batch shell alone would stop there.
        ("--signal", None if seconds is None else f"{spec.warning_action}@{seconds}"),
        ("--chdir", spec.folder),
        ("--threads-per-core", _threads(spec.alloc_flags, machine)),
    ]
    # LSF appends to -o and replaces -oo.
    files = {flag: value for flag, value in spec.others if flag in ("-oo", "-eo")}
    found += [
        ("--output", _file(files.get("-oo"), array)),
        ("--error", _file(files.get("-eo"), array)),
    ]
    if spec.output or spec.error or files:
        found.append(("--open-mode", "truncate" if files else "append"))
    for flag, value in spec.others:
        if flag in SWITCHES:
            found.append((SWITCHES[flag], ""))
        elif flag == "-U":
            found.append(("--reservation", value))
        elif flag == "-u":
            found.append(("--mail-user", value))
        elif flag == "-Q":
            raise SlurmError(
                f"sbatch: -Q {value}: which exit codes requeue a job is the site's setting in "
                f"Slurm (RequeueExit); leave it out, and let --chain go on"
            )
        elif flag not in (*WITHOUT_EFFECT, *files):
            raise SlurmError(f"sbatch: bsub's {flag} has no counterpart in Slurm: leave it out")
    for option, text in found:
        if text is not None and not (text.isprintable() and len(text) < 4096):
            raise SlurmError(f"sbatch: {option} {text!r} holds characters that no option may have")
    return [(option, text) for option, text in found if text is not None]


def header(spec: JobSpec, machine: Machine) -> str:
    """Write a job as `#SBATCH` lines; see `options`."""
    lines = []
    for option, value in options(spec, machine):
        lines.append(f"{MARK} {option}={quoted(value)}" if value else f"{MARK} {option}")
    return "".join(f"{line}\n" for line in lines)


def parse_header(text: str) -> list[tuple[str, str]]:
    """Read the `#SBATCH` lines of a script as sbatch does; the counterpart of `header`."""
    found = []
    for line in text.splitlines():
        if line.startswith(f"{MARK} "):
            for word in _words(line[len(MARK) :]):
                option, _, value = word.partition("=")
                found.append((option, value))
    return found


def parse_job(text: str) -> JobSpec:
    """Read a JobSpec from the `#SBATCH` lines that `header` wrote.

    The queue is the partition or the quality of service that stands there.

    Raises:
        SlurmError: an option that `header` does not write.
    """
    given = dict(parse_header(text))
    back = {slurm: flag for flag, slurm in SWITCHES.items()}
    name, array = given.pop("--job-name", None), given.pop("--array", None)
    threads, mode = given.pop("--threads-per-core", None), given.pop("--open-mode", "")
    files = {flag: _lsf_file(given.pop(flag, None)) for flag in ("--output", "--error")}
    action, _, seconds = given.pop("--signal", "").partition("@")
    partition, qos = given.pop("--partition", None), given.pop("--qos", None)
    walltime = given.pop("--time", None)
    nodes = given.pop("--nodes", None)
    wait = given.pop("--dependency", None)
    account, folder = given.pop("--account", None), given.pop("--chdir", None)
    given.pop("--constraint", None)
    others: list[tuple[str, str]] = []
    if mode == "truncate":
        pairs = (("-oo", files["--output"]), ("-eo", files["--error"]))
        others += [(flag, file) for flag, file in pairs if file is not None]
        files = dict.fromkeys(files)
    for option, value in given.items():
        if option in back:
            others.append((back[option], ""))
        elif option in ("--reservation", "--mail-user"):
            others.append(("-U" if option == "--reservation" else "-u", value))
        else:
            raise SlurmError(f"sbatch: {option} is not understood here")
    return JobSpec(
        name=_lsf_name(name, array),
        project=account,
        queue=qos or partition,
        walltime=None if walltime is None else _minutes(walltime),
        nodes=None if nodes is None else int(nodes),
        alloc_flags=() if threads is None else (f"smt{threads}",),
        output=files["--output"],
        error=files["--error"],
        dependency=None if wait is None else _lsf_dependency(wait),
        warning_action=action or None,
        warning_time=int(seconds) // 60 if seconds else None,
        folder=folder,
        others=tuple(others),
    )


def translate(
    script: Script, over: JobSpec, machine: Machine, arguments: Sequence[str] = ()
) -> str:
    """Write an LSF script as one for sbatch.

    Args:
        script: the LSF script.
        over: options that go before those of the script.
        machine: a machine file with `scheduler = "slurm"`.
        arguments: words that the script shall find as $1, $2 ...

    Raises:
        OptionError: an option or a jsrun line that Slurm cannot be asked for.
    """
    spec = over.over(script.spec)
    if spec.name is None:
        spec = JobSpec(name=_default_name(script.name)).over(spec)
    first, _, rest = script.text.partition("\n")
    if not first.startswith("#!"):
        first, rest = "#!/bin/sh", script.text
    preamble = PREAMBLE + f"export ALPENGLOW_SCRIPT={shlex.quote(script.name)}\n"
    if arguments:
        preamble += f"set -- {shlex.join(arguments)}\n"
    body = "\n".join(line for line in rest.splitlines() if not line.startswith((LSF_MARK, MARK)))
    return f"{first}\n{header(spec, machine)}{preamble}{_steps(body, spec, machine, script)}\n"


_JSRUN = re.compile(r"(?<![\w./$-])(?:[\w./-]*/)?jsrun(?=\s)")


def _steps(body: str, spec: JobSpec, machine: Machine, script: Script) -> str:
    """Replace each jsrun command line, its continued lines included."""
    found, pending = [], ""
    for line in body.splitlines():
        pending += line
        if line.endswith("\\") and not line.lstrip().startswith("#"):
            pending += "\n"
            continue
        found.append(_step(pending, spec, machine, script))
        pending = ""
    return "\n".join([*found, *([pending] if pending else [])])


def _step(line: str, spec: JobSpec, machine: Machine, script: Script) -> str:
    match = _JSRUN.search(line)
    if match is None or line.lstrip().startswith("#"):
        return line
    if spec.nodes is None:
        raise SlurmError(f"{script.name}: -nnodes is missing, so jsrun cannot become srun")
    tail = line[match.end() :]
    end = re.search(r"\s(?:;|&&|\|\||\||&)(?=\s|$)|\s\d?>", tail)
    words = tail if end is None else tail[: end.start()]
    after = "" if end is None else tail[end.start() :]
    # The shell drops a backslash with the line's end; spaces keep the places of the words.
    raw = list(_WORD.finditer(words.replace("\\\n", "  ")))
    try:
        plain = [_plain(word[0]) for word in raw]
        step = JobStep.parse(plain)
        srun = SrunStep.of(step, machine.compute, spec.nodes)
    except ValueError as error:
        text = str(error)
        text = text if text.startswith("jsrun:") else f"jsrun: {text}"
        raise SlurmError(f"{script.name}: {text}") from None
    cut = len(plain) - len(step.command)
    if any(mark in word for word in plain[:cut] for mark in "$`"):
        raise SlurmError(f"{script.name}: a variable among jsrun's options cannot become srun's")
    smt = _threads(spec.alloc_flags, machine)
    if smt is not None and srun.threads_per_core == 1:
        # smt2 and smt4: a core's hardware threads are CPUs of the task.
        cpus = srun.cpus_per_task * int(smt)
        srun = replace(srun, threads_per_core=int(smt), cpus_per_task=cpus)
    options = srun.words()[: -len(step.command)]
    # The command stays as it is written: the shell still has to expand it.
    return f"{line[: match.start()]}{shlex.join(options)} {words[raw[cut].start() :]}{after}"


_WORD = re.compile(r"(?:[^\s\"'\\]|\\.|\"(?:[^\"\\]|\\.)*\"|'[^']*')+")


def _plain(word: str) -> str:
    return word if "$" in word or "`" in word else "".join(shlex.split(word))


def quoted(value: str) -> str:
    """Quote a value of an #SBATCH line: sbatch takes a backslash before any character."""
    if re.fullmatch(r"[A-Za-z0-9_.,:/@%+=?-]*", value):
        return value
    return '"' + re.sub(r'(["\\])', r"\\\1", value) + '"'


def dependency(text: str) -> str:
    """Write bsub's -w as sbatch's --dependency.

    Raises:
        OptionError: job names, exit codes, or && mixed with ||, none of which Slurm takes.
    """
    expression = parse(text)
    signs: set[bool] = set()

    def walk(node: Expression) -> list[str]:
        if isinstance(node, Both):
            signs.add(node.every)
            return walk(node.left) + walk(node.right)
        return [_condition(node, text)]

    conditions = walk(expression)
    if len(signs) > 1:
        raise SlurmError(f"sbatch: -w {text!r} mixes && and ||, which Slurm cannot")
    return ("," if signs != {False} else "?").join(conditions)


def _condition(condition: Condition, text: str) -> str:
    if condition.code is not None:
        raise SlurmError(f"sbatch: -w {text!r} asks for an exit code, which Slurm cannot")
    if not re.fullmatch(r"\d+(\[\d+\])?", condition.job):
        raise SlurmError(f"sbatch: -w {text!r} names a job; Slurm takes job numbers only")
    return f"{DEPENDENCIES[condition.kind]}:{slurm_id(condition.job)}"


def _lsf_dependency(text: str) -> str:
    kinds = {slurm: lsf for lsf, slurm in DEPENDENCIES.items()}
    pairs = [item.split(":") for item in re.split(r"[,?]", text)]
    sign = " || " if "?" in text else " && "
    return sign.join(f"{kinds[kind]}({lsf_id(job)})" for kind, job in pairs)


def _queue(asked: str | None, machine: Machine) -> list[tuple[str, str | None]]:
    """What a queue of the machine file is to Slurm; without a name, the default queue's words."""
    name = machine.queue_name(asked)
    queue = machine.queue(name)
    if queue is None:
        if asked is None:
            return []
        known = ", ".join(q.name for q in machine.target.queues)
        raise SlurmError(f"sbatch: {machine.target.name} has no queue {name}; known: {known}")
    plain = queue.partition is None and queue.qos is None
    partition = asked if plain else queue.partition
    return [("--partition", partition), ("--qos", queue.qos), ("--constraint", queue.constraint)]


def _threads(flags: Sequence[str], machine: Machine) -> str | None:
    """Hardware threads a core: smt4 asks for four, and gets what the machine has."""
    asked = [int(flag[3:]) for flag in flags if flag.lower().startswith("smt")]
    most = machine.compute.smt
    return str(min(max(asked), most)) if asked and most > 1 else None


def _array(name: str | None) -> tuple[str | None, str | None]:
    match = re.fullmatch(r"([^\[\]]*)\[([0-9,:-]+)\](%\d+)?", name or "")
    if match is None:
        if name is not None and "[" in name:
            raise SlurmError(f"sbatch: -J {name}: write name[first-last]%limit")
        return name, None
    return match[1] or "array", match[2] + (match[3] or "")


def _lsf_name(name: str | None, array: str | None) -> str | None:
    if array is None:
        return name
    indices, percent, limit = array.partition("%")
    return f"{name}[{indices}]{percent}{limit}"


def _file(name: str | None, array: str | None) -> str | None:
    """Write a file name: %J and %I (0 outside arrays) are LSF's, any other % is itself."""
    if name is None:
        return None
    job = "%A" if array else "%j"
    words = {"%J": job, "%I": "%a" if array else "0"}
    return re.sub(r"%[JI]|%", lambda match: words.get(match[0], "%%"), name)


def _lsf_file(name: str | None) -> str | None:
    if name is None:
        return None
    words = {"%j": "%J", "%A": "%J", "%a": "%I", "%%": "%"}
    return re.sub(r"%[jAa%]", lambda match: words[match[0]], name)


def _default_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.+@-]", "_", name.rpartition("/")[2]) or "job"


def _clock(minutes: int) -> str:
    return f"{minutes // 60}:{minutes % 60:02d}:00"


def _minutes(clock: str) -> int:
    hours, minutes, _ = clock.split(":")
    return int(hours) * 60 + int(minutes)


def _words(text: str) -> list[str]:
    """Split an #SBATCH line as sbatch does: a backslash counts inside either kind of quotes."""
    found: list[str] = []
    word, quote, begun = "", "", False
    characters = iter(text)
    for character in characters:
        if character == "\\":
            word += next(characters, "")
            begun = True
        elif quote:
            word, quote = (word, "") if character == quote else (word + character, quote)
        elif character in "\"'":
            quote, begun = character, True
        elif character.isspace() or character == "#":
            found += [word] if begun else []
            word, begun = "", False
            if character == "#":
                break
        else:
            word, begun = word + character, True
    return [*found, word] if begun else found
