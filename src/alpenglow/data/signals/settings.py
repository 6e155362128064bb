"""What the signals of a recipe are computed with: the `[signals]` table."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType

import xxhash

from alpenglow.data.document import DataError
from alpenglow.data.signals.characters import normalised
from alpenglow.data.signals.hashes import HashSet
from alpenglow.data.signals.stop_words import ENGLISH, GOPHER
from alpenglow.data.signals.tokens import StopWords
from alpenglow.data.signals.words import phrase_hashes, word_hashes

FORMAT = 1
"""Raised when this code computes other columns from the same settings."""


@dataclass(frozen=True)
class SignalSettings:
    """Lists of words are files of UTF-8 text with one entry a line; lines with # are comments."""

    language: str = "en"
    """Of the stop words; any but `en` needs a file of them."""
    stop_words: Path | None = None
    """Stop words in small letters."""
    bad_words: Path | None = None
    """Words, or words with spaces between, that `rps_doc_ldnoobw_words` counts; none is shipped.
    RedPajama v2 used the list of the project LDNOOBW."""
    blocked_domains: Path | None = None
    """Domains, each alone or with the number of its category behind white space, or a JSON object
    of domain -> number as RedPajama v2 made of UT1's lists: `rps_doc_ut1_blacklist`,
    `blocked_domain`."""
    lines: bool = True
    """Store the columns of lines (`rps_lines_*`): about as many bytes as a third of the text."""
    repetition: bool = True
    """Compute the signals of repeated words; they take about half of the time."""

    def __post_init__(self) -> None:
        if self.language != "en" and self.stop_words is None:
            raise ValueError(
                f"language = {self.language!r} needs stop_words = 'FILE': one word a line"
            )

    @property
    def hash(self) -> str:
        """Return 16 hex digits that change with a setting or with what a file holds.

        Raises:
            DataError: a file cannot be read.
        """
        tables = asdict(self)
        for name in ("stop_words", "bad_words", "blocked_domains"):
            path = getattr(self, name)
            if path is not None:
                tables[name] = xxhash.xxh3_128_hexdigest(_read(path))
        text = json.dumps([FORMAT, tables], sort_keys=True)
        return xxhash.xxh3_64_hexdigest(text.encode())

    @property
    def lists(self) -> Lists:
        """Read the files; once a process, unless they change.

        Raises:
            DataError: a file cannot be read or understood.
        """
        return _lists(self, tuple(_stamp(path) for path in self._files if path is not None))

    @property
    def _files(self) -> tuple[Path | None, ...]:
        return self.stop_words, self.bad_words, self.blocked_domains


@dataclass(frozen=True)
class Lists:
    """Word lists as whole arrays of hashes are looked up in them."""

    stop_words: StopWords
    gopher: Mapping[bool, HashSet]
    """Stop words of which Gopher asks for two (its eight, or those of the file): hashes in texts
    that Python had to normalise, and in the others."""
    phrases: Mapping[bool, Mapping[int, HashSet]] | None = None
    """Bad words likewise: number of words -> hashes of entries with so many."""
    domains: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))


@functools.lru_cache(maxsize=8)
def _lists(settings: SignalSettings, _stamps: tuple[tuple[int, int], ...]) -> Lists:
    words = entries(settings.stop_words) if settings.stop_words else list(ENGLISH)
    if not words:
        raise DataError(f"{settings.stop_words}: no stop word is in it; write one a line")
    common = words if settings.stop_words else GOPHER
    single = [word for word in common if len(normalised(word).split()) == 1]
    phrases = None
    if settings.bad_words is not None:
        sizes: dict[int, list[str]] = {}
        for entry in entries(settings.bad_words):
            parts = normalised(entry).split()
            if parts:
                sizes.setdefault(len(parts), []).extend(parts)
        phrases = {
            rewritten: {
                size: HashSet(phrase_hashes(word_hashes(parts, rewritten), size)[::size])
                for size, parts in sizes.items()
            }
            for rewritten in (False, True)
        }
    domains = _domains(settings.blocked_domains) if settings.blocked_domains else {}
    return Lists(
        StopWords(words),
        {rewritten: HashSet(word_hashes(single, rewritten)) for rewritten in (False, True)},
        phrases,
        domains,
    )


def entries(path: Path) -> list[str]:
    """Read a list with one entry a line.

    Raises:
        DataError: it cannot be read, or is not UTF-8.
    """
    try:
        lines = _read(path).decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def _domains(path: Path) -> dict[str, float]:
    if path.suffix == ".json":
        try:
            table = json.loads(_read(path))
            return {str(name).lower(): float(number) for name, number in table.items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise DataError(f"{path}: not a JSON object of domain -> number ({error})") from None
    found = {}
    for entry in entries(path):
        name, _, number = entry.partition(" ") if " " in entry else entry.partition("\t")
        try:
            found[name.lower()] = float(number or 0)
        except ValueError:
            raise DataError(
                f"{path}: {entry!r} is not a domain, or a domain and the number of its category"
            ) from None
    return found


def _stamp(path: Path) -> tuple[int, int]:
    """When a file was written and how long it is: a list of domains is too long to hash a batch."""
    try:
        found = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    return found.st_mtime_ns, found.st_size


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
