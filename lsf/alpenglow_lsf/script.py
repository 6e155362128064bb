"""Batch scripts: `#BSUB` lines into a JobSpec, and back.

script = Script.read(Path("jobs/pretrain_7b.lsf"))
script.spec.nodes         # 512
script.steps()            # its jsrun lines
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from alpenglow_lsf.geometry import GeometryError
from alpenglow_lsf.job import OPTIONS, JobSpec, parse_job
from alpenglow_lsf.options import OptionError, parse_words
from alpenglow_lsf.step import JobStep, find_step

MARK = "#BSUB"
_REDIRECTION = re.compile(r"(\d*|&)(>>?|<)(&\d*-?|[\w./$%{}-]*)")


class ScriptError(OptionError):
    """A script that cannot be submitted; the message names file and line in one sentence."""

    def __init__(self, message: str, rule: str = "script", line: int | None = None) -> None:
        super().__init__(message, rule)
        self.line = line


@dataclass(frozen=True)
class Script:
    """A batch script."""

    text: str
    spec: JobSpec
    lines: tuple[tuple[int, str], ...]
    """(line number, option) of each #BSUB option."""
    name: str = "script"
    """Used in messages: the path, or `standard input`."""

    @classmethod
    def read(cls, path: Path) -> Script:
        """Read a script file.

        Raises:
            ScriptError: no such file, not text, or #BSUB lines that LSF would not take.
        """
        try:
            text = path.read_bytes().decode("utf-8")  # line ends stay as they are
        except FileNotFoundError:
            raise ScriptError(f"bsub: no script {path}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise ScriptError(f"bsub: {path} cannot be read as a script: {error}") from None
        return cls.parse(text, str(path))

    @classmethod
    def parse(cls, text: str, name: str = "script") -> Script:
        """Read a script's text; see `read`."""
        words: list[str] = []
        lines: list[tuple[int, str]] = []
        for number, line in enumerate(text.splitlines(), start=1):
            if not line.startswith(MARK) or line[len(MARK) :][:1] not in ("", " ", "\t"):
                continue
            try:
                own = shlex.split(line[len(MARK) :])
                parsed, rest = parse_job_line(own)
            except (OptionError, ValueError) as error:
                rule = getattr(error, "rule", "option")
                raise ScriptError(f"{name}:{number}: {error}", rule, number) from None
            if rest:
                raise ScriptError(
                    f"{name}:{number}: bsub: {rest[0]!r} is no option", "option", number
                )
            lines += [(number, option) for option in parsed]
            words += own
        try:
            spec, _ = parse_job(words)
        except OptionError as error:
            named = [n for n, option in lines if f" {option} " in f" {error} "]
            at = named[-1] if named else None
            where = name if at is None else f"{name}:{at}"
            raise ScriptError(f"{where}: {error}", error.rule, at) from None
        return cls(text, spec, tuple(lines), name)

    def line(self, option: str) -> int | None:
        """Line number of an option; None where the script lacks it."""
        return next((n for n, name in self.lines if name == option), None)

    def steps(self) -> list[tuple[int, JobStep]]:
        """Read the jsrun command lines that stand literally in the script.

        Returns:
            (line number, step); a line that only shell variables make lawful is left out.

        Raises:
            ScriptError: a jsrun line with an option or a set that jsrun would refuse.
        """
        found = []
        for number, words in self.commands():
            starts = [i for i, word in enumerate(words) if word.rpartition("/")[2] == "jsrun"]
            if not starts:
                continue
            ends = [i for i, word in enumerate(words) if word in (";", "&", "&&", "||", "|")]
            ends += [i for i, word in enumerate(words) if _REDIRECTION.fullmatch(word)]
            end = min((i for i in ends if i > starts[0]), default=len(words))
            try:
                step = find_step(words[starts[0] : end])
            except (OptionError, GeometryError) as error:
                if any("$" in word for word in words[starts[0] : end]):
                    continue  # only the shell knows what the words become; jsrun checks them
                rule = "geometry" if isinstance(error, GeometryError) else "jsrun"
                message = f"{self.name}:{number}: {_as_jsrun(error)}"
                raise ScriptError(message, rule, number) from None
            if step is not None:
                found.append((number, step))
        return found

    def commands(self) -> list[tuple[int, list[str]]]:
        """Split the body into (line number, words) a command line; continued lines are joined.

        `;`, `&`, `&&`, `||` and `|` are words of their own; a line that opens a quote which a later
        one closes is left out, as are here-documents' contents.
        """
        commands = []
        pending, begun, until = "", 0, None
        for number, line in enumerate(self.text.splitlines(), start=1):
            if until is not None:
                until = None if line.strip() == until else until
                continue
            if not pending:
                begun = number
                if line.lstrip().startswith("#"):
                    continue
            if line.endswith("\\"):
                pending += line[:-1] + " "
                continue
            lexer = shlex.shlex(pending + line, posix=True, punctuation_chars=";&|")
            lexer.whitespace_split = True
            pending = ""
            try:
                words = _redirections(list(lexer))
            except ValueError:  # a quote that a later line closes: no jsrun line of ours
                continue
            if words:
                commands.append((begun, words))
            heredoc = [w for w in words if w.startswith("<<") and not w.startswith("<<<")]
            if heredoc:
                after = words[words.index(heredoc[0]) + 1 :]
                until = heredoc[0].lstrip("<-") or (after[0] if after else None)
        return commands


def _redirections(words: list[str]) -> list[str]:
    """Join `2>` `&` `1` and `&` `>file`, which the lexer takes apart, so that no `&` is left."""
    joined: list[str] = []
    for word in words:
        before = joined[-1] if joined else ""
        if (
            (word == "&" and before.endswith((">", "<")))
            or (before.endswith((">&", "<&")) and word.rstrip("-").isdigit())
            or (before == "&" and word.startswith(">"))
        ):
            joined[-1] = before + word
        else:
            joined.append(word)
    return joined


def parse_job_line(words: list[str]) -> tuple[list[str], list[str]]:
    """Return the option names on one #BSUB line and what follows them.

    Raises:
        OptionError: an option that LSF does not take.
    """
    found, rest = parse_words(words, OPTIONS, "bsub")
    return [option.name for option, _ in found], rest


def render(spec: JobSpec, body: str = "", shell: str = "/bin/bash") -> str:
    """Write a script that `Script.parse` reads back to the same JobSpec."""
    lines = [f"#!{shell}"]
    for option, value in spec.options():
        lines.append(f"{MARK} {option} {shlex.quote(value)}" if value else f"{MARK} {option}")
    return "\n".join(lines) + "\n" + body


def _as_jsrun(error: ValueError) -> str:
    text = str(error)
    return text if text.startswith("jsrun:") else f"jsrun: {text}"
