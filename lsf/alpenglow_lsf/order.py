"""What the command line of a segment's parent asks for; see run.py."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from alpenglow_lsf.arrays import own_id
from alpenglow_lsf.chain import GRACE, RESTARTS, Policy, check_script
from alpenglow_lsf.script import Script

ABOUT = "The parent of a job step on the launch node: deadline, signals, segment record, chain."


class RunError(RuntimeError):
    """A segment that cannot start; the message is one sentence."""


@dataclass(frozen=True)
class Order:
    """What the command line asks for."""

    run: Path
    activity: str
    then: tuple[Path, ...]
    command: tuple[str, ...]
    chain: tuple[Path, Script] | None = None
    """The script of this job, where the run is a chain."""
    policy: Policy = field(default_factory=Policy)


def parse(argv: Sequence[str]) -> Order:
    """Read the command line.

    Raises:
        RunError: no command, or a script of --then that does not exist.
    """
    words = list(argv)
    cut = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(prog="alpenglow_lsf.run", description=ABOUT, add_help=True)
    parser.add_argument("--run", type=Path, required=True, help="run directory")
    parser.add_argument("--activity", required=True, help="what this segment does, one word")
    parser.add_argument("--then", type=Path, action="append", default=[], help="next script")
    parser.add_argument(
        "--chain", type=Path, nargs="?", const=Path(), metavar="SCRIPT",
        help="submit SCRIPT, which is this job's own, as the next segment",
    )  # fmt: skip
    parser.add_argument(
        "--restarts", type=_count, default=RESTARTS, metavar="N",
        help="segments of a chain that may fail (default %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--grace", type=_count, default=GRACE, metavar="N",
        help="segments in a row that may gain no checkpoint (default %(default)s)",
    )  # fmt: skip
    given = parser.parse_args(words[:cut])
    command = tuple(words[cut + 1 :])
    if not command:
        raise RunError("no command: write `-- jsrun ...` at the end")
    if not given.activity.replace("_", "").replace("-", "").isalnum():
        raise RunError(f"--activity {given.activity!r} should be one word")
    for script in given.then:
        if not script.is_file():
            raise RunError(f"--then {script}: no such script")
    chain = None if given.chain is None else _own_script(given.chain, str(given.run))
    return Order(
        run=given.run.absolute(),
        activity=given.activity,
        then=tuple(given.then),
        command=command,
        chain=chain,
        policy=Policy(given.restarts, given.grace),
    )


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} should be a whole number, 0 or more")
    return int(text)


def _own_script(given: Path, run: str) -> tuple[Path, Script]:
    """Read the script of this job: the scheduler names it, or else the command line."""
    element = own_id(os.environ) or ""
    if "[" in element:
        raise RunError(
            f"--chain: {element} is an element of an array, and its next segment would be the "
            f"whole array again: submit a job of its own for each run"
        )
    told = os.environ.get("ALPENGLOW_SCRIPT")
    if not told and given == Path():
        raise RunError("--chain: nobody says which script this job is: write --chain SCRIPT")
    path = Path(told) if told else given
    return path, check_script(path, run)
