"""Strict option parsing, shared by batch scripts (`#BSUB`), bsub, bjobs, bkill and jsrun.

An option that is not in the table is refused, never guessed: a scheduler that misreads
`-alloc_flags` as `-a` runs the wrong command without a word.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass


class OptionError(ValueError):
    """An option that cannot be used; the message is one sentence for the user."""

    def __init__(self, message: str, rule: str = "option") -> None:
        super().__init__(message)
        self.rule = rule
        """Name of the rule that was broken, for findings."""


@dataclass(frozen=True)
class Option:
    """One option of a program."""

    name: str
    """As it is typed: `-W`, `-nnodes`, `-n`."""
    value: str = ""
    """What its value is called in messages; empty for a switch."""
    long: str = ""
    """Long form, `--nrs` (jsrun)."""
    emulated: bool = True
    """False for an option that the real program has and the stand-in cannot honour."""
    repeats: bool = False
    """Whether it may be given more than once."""


Parsed = list[tuple[Option, str]]


def parse_words(
    argv: Sequence[str], table: Sequence[Option], program: str
) -> tuple[Parsed, list[str]]:
    """Parse LSF's way: exact words, each value in a word of its own, up to the first other word.

    Args:
        argv: words after the program's name.
        table: the options that exist.
        program: name used in messages.

    Returns:
        Options with their values ("" for a switch) in order, and the words that follow them.

    Raises:
        OptionError: unknown, glued, repeated, or without its value.
    """
    known = {option.name: option for option in table}
    found: Parsed = []
    words = list(argv)
    while words and words[0].startswith("-") and words[0] != "-":
        word = words.pop(0)
        if word not in known:
            raise OptionError(_unknown(word, known, program))
        option = known[word]
        found.append((option, _value(option, words, program, known)))
    _refuse_repeats(found, program)
    return found, words


def parse_short_long(
    argv: Sequence[str], table: Sequence[Option], program: str
) -> tuple[Parsed, list[str]]:
    """Parse jsrun's way: `-r1`, `-r 1`, `--rs_per_host 1`, `--rs_per_host=1`; see `parse_words`."""
    short = {option.name: option for option in table if len(option.name) == 2}
    long = {o.long or o.name: o for o in table if o.long or len(o.name) > 2}
    found: Parsed = []
    words = list(argv)
    while words and words[0].startswith("-") and words[0] != "-":
        word = words.pop(0)
        if word == "--":
            break
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            if name not in long:
                raise OptionError(_unknown(name, long, program))
            option = long[name]
            if equals and not option.value:
                raise OptionError(f"{program}: {name} takes no value, but {word!r} gives one")
        else:
            name, equals, value = word[:2], word[2:], word[2:]
            if name not in short:
                raise OptionError(_unknown(word, {**short, **long}, program))
            option = short[name]
            if equals and not option.value:
                raise OptionError(f"{program}: unknown option {word}; {name} is a switch")
        if equals:
            if not value:
                raise OptionError(f"{program}: {name} needs a value ({option.value})")
            found.append((option, value))
        else:
            found.append((option, _value(option, words, program, {})))
    _refuse_repeats(found, program)
    return found, words


def number(text: str, option: str, program: str, smallest: int = 0) -> int:
    """Read a whole number of at least `smallest`.

    Raises:
        OptionError: anything else.
    """
    if not (text.isascii() and text.isdigit()) or int(text) < smallest:
        raise OptionError(
            f"{program}: {option} {text} should be a whole number, {smallest} or more"
        )
    return int(text)


def _value(option: Option, words: list[str], program: str, known: dict[str, Option]) -> str:
    if not option.value:
        return ""
    if not words or words[0] in known:
        raise OptionError(f"{program}: {option.name} needs a value ({option.value})")
    return words.pop(0)


def _unknown(word: str, known: dict[str, Option], program: str) -> str:
    same = difflib.get_close_matches(word, known, n=1, cutoff=0.85)
    if same:
        return f"{program}: unknown option {word}; did you mean {same[0]}?"
    glued = [n for n in known if word.startswith(n) and known[n].value and not n.startswith("--")]
    if glued:
        name = max(glued, key=len)
        value = word[len(name) :].lstrip("=")
        return f"{program}: unknown option {word}; if {name} is meant, write {name} {value!r} apart"
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"{program}: unknown option {word}" + (f"; did you mean {near[0]}?" if near else "")


def _refuse_repeats(found: Parsed, program: str) -> None:
    seen: set[str] = set()
    for option, _ in found:
        if option.name in seen and not option.repeats:
            cure = (
                "; put the values into one quoted string"
                if option.name == "-alloc_flags"
                else "; keep one"
            )
            rule = "alloc_flags" if option.name == "-alloc_flags" else "option"
            raise OptionError(f"{program}: {option.name} is given twice{cure}", rule)
        seen.add(option.name)
