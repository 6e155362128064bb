"""What a batch script does after its options: commands, what they set, start and need.

    for command in commands(script):
        command.program, command.line, command.variables

Reads the shell's words only: of variables only `${NAME:-default}` is expanded, to its default.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath

from alpenglow_lsf.script import Script, ScriptError

SEPARATORS = (";", "&", "&&", "||", "|", ";;")
PREFIXES = ("exec", "time", "nohup", "command", "then", "do", "else", "if", "while", "!", "{", "(")
PARENT = "alpenglow_lsf.run"
PARENTS = (PARENT, "alpenglow.jobs.scaling")
"""Programs that start the jsrun line behind their `--`, and do nothing else on a launch node."""

_DEFAULT = re.compile(r"\$\{\w+:-([^${}]*)\}")
_VARIABLE = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)


@dataclass(frozen=True)
class Command:
    """One simple command."""

    line: int
    words: tuple[str, ...]
    """Program and arguments, without what stands before the program."""
    variables: tuple[tuple[str, str], ...] = ()
    """Variables that are set for the command, or by it (export, declare, a bare assignment)."""
    after: str = ""
    """The separator that follows: `&` puts the command into the background."""
    replaces: bool = False
    """Whether `exec` makes it the script's last command."""

    @property
    def program(self) -> str:
        """Name of the program without its folder; empty for a bare assignment."""
        return PurePath(self.words[0]).name if self.words else ""

    @property
    def parent(self) -> tuple[list[str], list[str]] | None:
        """For `python -m alpenglow_lsf.run` and its like: own words, and the command after `--`."""
        words = list(self.words)
        name = next((word for word in words if word in PARENTS), None)
        if not self.program.startswith("python") or name is None:
            return None
        cut = words.index("--") if "--" in words else len(words)
        return words[words.index(name) + 1 : cut], words[cut + 1 :]

    def values(self, option: str) -> list[str]:
        """Values of an option of the parent (`--run DIR` or `--run=DIR`)."""
        own = self.parent[0] if self.parent is not None else []
        found = [own[i + 1] for i, w in enumerate(own[:-1]) if w == option]
        return found + [w.partition("=")[2] for w in own if w.startswith(f"{option}=")]

    def has(self, option: str) -> bool:
        """Say whether an option of the parent is given."""
        own = self.parent[0] if self.parent is not None else []
        return any(w == option or w.startswith(f"{option}=") for w in own)


def commands(script: Script) -> list[Command]:
    """Split a script into simple commands."""
    found = []
    for line, words in script.commands():
        for part, separator in _parts(words):
            command = _command(line, part, separator)
            if command.words or command.variables:
                found.append(command)
    return found


def literal(word: str) -> str | None:
    """Return a word as the shell would see it; None where only a variable says what it is."""
    text = _DEFAULT.sub(r"\1", word)
    return None if "$" in text or "`" in text or "*" in text else text


def exported(script: Script) -> dict[str, str]:
    """Variables that the script exports to everything after, as written."""
    found: dict[str, str] = {}
    own: dict[str, str] = {}
    for command in commands(script):
        own.update(command.variables if not command.words else ())
        if command.program in ("export", "declare"):
            found.update(command.variables)
            plain = [w for w in command.words[1:] if w.isidentifier()]
            found.update({name: own.get(name, "") for name in plain})
    return found


def sourced(script: Script, base: Path) -> list[tuple[str, Script]]:
    """Read the files that the script sources and that are there, by their literal path."""
    found = []
    for command in commands(script):
        if command.program in ("source", ".") and len(command.words) > 1:
            name = literal(command.words[1])
            if name is not None and (base / name).is_file():
                with suppress(ScriptError):
                    found.append((name, Script.read(base / name)))
    return found


def _parts(words: Sequence[str]) -> Iterator[tuple[list[str], str]]:
    part: list[str] = []
    for word in words:
        if word in SEPARATORS:
            yield part, word
            part = []
        else:
            part.append(word)
    yield part, ""


def _command(line: int, words: list[str], separator: str) -> Command:
    rest = list(words)
    variables: list[tuple[str, str]] = []
    replaces = False
    while rest:
        assignment = _VARIABLE.fullmatch(rest[0])
        if assignment:
            variables.append((assignment[1], assignment[2]))
        elif rest[0] in PREFIXES:
            replaces = replaces or rest[0] == "exec"
        else:
            break
        rest.pop(0)
    if rest and rest[0] in ("export", "declare", "typeset", "local", "env"):
        own = [m for w in rest[1:] if (m := _VARIABLE.fullmatch(w))]
        variables += [(m[1], m[2]) for m in own]
        if rest[0] == "env":  # the program is what follows the variables
            rest = [w for w in rest[1:] if not _VARIABLE.fullmatch(w) and not w.startswith("-")]
    if rest and rest[0].startswith((">", "<")):  # exec > file: no program
        rest, replaces = [], False
    return Command(line, tuple(rest), tuple(variables), separator, replaces)
