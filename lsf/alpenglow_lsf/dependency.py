"""Dependency expressions of `bsub -w`: done(1) && (ended(2) || exit(3, 85)).

A condition can be true, not yet true, or never true any more: `done()` on a job that failed leaves
its dependent pending for ever, which is said as the pending reason.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from alpenglow_lsf.options import OptionError
from alpenglow_lsf.scheduler import JobState


class DependencyError(OptionError):
    """An expression that LSF does not take; the message is one sentence."""


class Verdict(enum.Enum):
    """Whether a condition holds."""

    TRUE = enum.auto()
    NOT_YET = enum.auto()
    NEVER = enum.auto()


@dataclass(frozen=True)
class Standing:
    """What a dependency needs to know about a job."""

    state: JobState
    exit_code: int | None = None


@dataclass(frozen=True)
class Condition:
    """One `done(1)`, `exit(1, >= 2)` and so on."""

    kind: str
    job: str
    """Job id, or a job name until `resolve` has turned it into an id."""
    code: tuple[str, int] | None = None
    """For exit: comparison and exit code."""

    def judge(self, jobs: Mapping[str, Standing]) -> Verdict:
        """Judge the condition against the standing of the jobs."""
        if self.job in jobs:
            return self._judge_one(jobs[self.job])
        # An array: every one of its elements must satisfy the test (IBM, bsub -w).
        elements = [jobs[key] for key in jobs if key.startswith(f"{self.job}[")]
        verdicts = {self._judge_one(standing) for standing in elements} or {Verdict.NEVER}
        return next(v for v in (Verdict.NEVER, Verdict.NOT_YET, Verdict.TRUE) if v in verdicts)

    def _judge_one(self, standing: Standing) -> Verdict:
        state = standing.state
        if self.kind == "started":
            waits = state in (JobState.PENDING, JobState.HELD)
            return Verdict.NOT_YET if waits else Verdict.TRUE
        if not state.ended:
            return Verdict.NOT_YET
        if self.kind == "ended":
            holds = True
        elif self.kind == "done":
            holds = state is JobState.DONE
        else:
            holds = state is JobState.FAILED and self._code_fits(standing.exit_code)
        return Verdict.TRUE if holds else Verdict.NEVER

    def _code_fits(self, exit_code: int | None) -> bool:
        if self.code is None:
            return True
        operator, wanted = self.code
        return exit_code is not None and _COMPARISONS[operator](exit_code, wanted)


_COMPARISONS: Mapping[str, Callable[[int, int], bool]] = {
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    ">=": lambda a, b: a >= b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    "<": lambda a, b: a < b,
}


@dataclass(frozen=True)
class Both:
    """Two conditions joined by && (every) or || (any)."""

    every: bool
    left: Expression
    right: Expression

    def judge(self, jobs: Mapping[str, Standing]) -> Verdict:
        """Judge both sides; see `Condition.judge`."""
        verdicts = {self.left.judge(jobs), self.right.judge(jobs)}
        order = [Verdict.NEVER, Verdict.NOT_YET, Verdict.TRUE]
        return next(v for v in (order if self.every else order[::-1]) if v in verdicts)


Expression = Condition | Both

_NAME = r"[A-Za-z0-9_.@+%-]+(?:\[\d+\])?"
_TOKEN = re.compile(
    r"\s*(&&|\|\||\(|\)|,|==|!=|>=|<=|>|<|!|\"[^\"]*\"|'[^']*'"
    r"|[A-Za-z0-9_.@+%*-]+(?:\[[^\]]*\])?)"
)
_KINDS = ("done", "ended", "exit", "started")
_NOT_EMULATED = (
    "external", "post_done", "post_err", "numdone", "numended", "numexit", "numhold", "numpend",
    "numrun", "numstart",
)  # fmt: skip
"""Conditions that LSF has and the stand-in does not."""


def parse(text: str) -> Expression:
    """Read an expression.

    Raises:
        DependencyError: anything that is not one.
    """
    tokens: list[str] = []
    position = 0
    while text[position:].strip():
        match = _TOKEN.match(text, position)
        if match is None:
            raise DependencyError(
                f"bsub: -w {text!r}: {text[position:].strip()[:1]!r} is not understood"
            )
        tokens.append(match[1])
        position = match.end()
    expression = _alternatives(tokens, text)
    if tokens:
        raise DependencyError(f"bsub: -w {text!r}: {tokens[0]!r} is not understood there")
    return expression


def conditions(expression: Expression) -> list[Condition]:
    """List the conditions of an expression from left to right."""
    if isinstance(expression, Condition):
        return [expression]
    return conditions(expression.left) + conditions(expression.right)


def resolve(expression: Expression, find: Callable[[str], str | None]) -> Expression:
    """Replace job names by ids.

    Args:
        expression: as `parse` returned it.
        find: gives the id of the newest job with an id or name, None where there is none.

    Raises:
        DependencyError: a job that the scheduler does not know.
    """
    if isinstance(expression, Both):
        left, right = resolve(expression.left, find), resolve(expression.right, find)
        return Both(expression.every, left, right)
    job = find(expression.job)
    if job is None:
        raise DependencyError(
            f"bsub: -w: there is no job {expression.job}: the dependency would never be satisfied"
        )
    return Condition(expression.kind, job, expression.code)


def _alternatives(tokens: list[str], text: str) -> Expression:
    found = _sequence(tokens, text)
    while tokens and tokens[0] == "||":
        tokens.pop(0)
        found = Both(False, found, _sequence(tokens, text))
    return found


def _sequence(tokens: list[str], text: str) -> Expression:
    found = _single(tokens, text)
    while tokens and tokens[0] == "&&":
        tokens.pop(0)
        found = Both(True, found, _single(tokens, text))
    return found


def _single(tokens: list[str], text: str) -> Expression:
    word = _take(tokens, text, "a condition")
    if word == "!":
        raise DependencyError(f"bsub: -w {text!r}: ! is not emulated on this computer")
    if word == "(":
        inner = _alternatives(tokens, text)
        _expect(tokens, text, ")")
        return inner
    if tokens and tokens[0] == "(":
        if word in _NOT_EMULATED:
            raise DependencyError(f"bsub: -w {text!r}: {word}() is not emulated on this computer")
        if word not in _KINDS:
            raise DependencyError(f"bsub: -w {text!r}: {word}() is none of {', '.join(_KINDS)}")
        tokens.pop(0)
        job = _job(_take(tokens, text, "a job"), text)
        code = _code(tokens, text) if word == "exit" and tokens[:1] == [","] else None
        _expect(tokens, text, ")")
        return Condition(word, job, code)
    return Condition("done", _job(word, text))  # a bare id means done


def _code(tokens: list[str], text: str) -> tuple[str, int]:
    tokens.pop(0)
    operator = tokens.pop(0) if tokens and tokens[0] in _COMPARISONS else "=="
    number = _take(tokens, text, "an exit code")
    if not number.isdigit():
        raise DependencyError(f"bsub: -w {text!r}: {number!r} is no exit code")
    return operator, int(number)


def _job(word: str, text: str) -> str:
    name = word.strip("\"'")
    if "*" in name:
        raise DependencyError(f"bsub: -w {text!r}: {word}: * is not emulated on this computer")
    if not re.fullmatch(_NAME, name):
        raise DependencyError(f"bsub: -w {text!r}: {word!r} is no job id or name")
    return name


def _take(tokens: list[str], text: str, what: str) -> str:
    if not tokens:
        raise DependencyError(f"bsub: -w {text!r} ends where {what} should stand")
    return tokens.pop(0)


def _expect(tokens: list[str], text: str, wanted: str) -> None:
    word = _take(tokens, text, repr(wanted))
    if word != wanted:
        raise DependencyError(f"bsub: -w {text!r}: {word!r} stands where {wanted!r} should")


def render(expression: Expression) -> str:
    """Write an expression as `parse` reads it."""
    if isinstance(expression, Both):
        sign = "&&" if expression.every else "||"
        return f"({render(expression.left)} {sign} {render(expression.right)})"
    code = "" if expression.code is None else f", {expression.code[0]} {expression.code[1]}"
    return f"{expression.kind}({expression.job}{code})"
