"""What the command line of a pre-flight asks for; see preflight.py. Needs no torch."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

MODULE = "alpenglow_profiling.preflight"


class OrderError(ValueError):
    """A command line that makes no sense; the message is one sentence."""


@dataclass(frozen=True)
class Order:
    """What to measure and what to do with it."""

    run: Path | None = None
    factor: float = 1.5
    """A node is slow where a rate of the median node is this many times its own."""
    spare: int = 0
    """Nodes that are always left out: the missing and failing ones first, then the slowest."""
    shrink: tuple[int, ...] = ()
    """Smaller node counts that the command can run on, too, the largest first."""
    timeout_s: float = 120.0
    """How long a node has to report."""
    command: tuple[str, ...] = ()
    """What each rank becomes; empty means nothing."""

    def __post_init__(self) -> None:
        if self.spare < 0 or not self.factor > 1:
            raise OrderError("--spare must not be negative, and --factor more than 1")
        if not self.timeout_s > 0:
            raise OrderError(f"--timeout {self.timeout_s:g} should be more than 0 s")

    @classmethod
    def parse(cls, words: Sequence[str]) -> Order:
        """Read the words after the module's name.

        Raises:
            OrderError: an unknown option, or a value that makes no sense.
        """
        own, command = list(words), []
        if "--" in own:
            at = own.index("--")
            own, command = own[:at], own[at + 1 :]
        given = _parser().parse_args(own)
        return cls(given.run, given.factor, given.spare, given.shrink, given.timeout,
                   tuple(command))  # fmt: skip

    @classmethod
    def find(cls, command: Sequence[str]) -> Order | None:
        """Read the pre-flight in a rank's command; None where there is none.

        Raises:
            OrderError: as `parse` does.
        """
        words = list(command)
        return cls.parse(words[words.index(MODULE) + 1 :]) if MODULE in words else None


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise OrderError(message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog=f"python -m {MODULE}")
    parser.add_argument("--run", type=Path, help="run directory; default $ALPENGLOW_RUN")
    parser.add_argument("--factor", type=float, default=1.5, help="how much slower is bad (1.5)")
    parser.add_argument("--spare", type=int, default=0, help="nodes to leave out (0)")
    parser.add_argument(
        "--shrink", type=_counts, default=(), metavar="N,N",
        help="smaller node counts that will do where spare nodes do not suffice",
    )  # fmt: skip
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds to wait for a node")
    return parser


def _counts(text: str) -> tuple[int, ...]:
    words = text.split(",")
    if not all(word.isascii() and word.isdigit() and int(word) > 0 for word in words):
        raise argparse.ArgumentTypeError(f"{text!r} should be node counts such as 384,256")
    return tuple(sorted({int(word) for word in words}, reverse=True))
