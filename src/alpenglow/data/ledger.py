"""The ledger: what was read, kept and dropped, by slice, stage and rule; `shards/ledger.json`.

A slice's documents pass stages in order: `read` (raw input to text), `paragraphs` (repeated lines),
`filters` and `duplicates`. In each, kept + dropped + trimmed = read, exactly, in documents and in
bytes, and a stage reads what the one before it kept; `check` proves it. What a rule takes out of a
text (a licence header) is trimmed: bytes, no documents. Rules of a stage apply in order and a
document is counted under the first one that it breaks, so what each rule was given and let pass
can be told: `Stage.passages`. Tokens are counted, and proved, from the first stage that reads some.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from alpenglow.data.document import DataError

FORMAT = 2
STAGES = ("read", "paragraphs", "filters", "duplicates")
"""In the order in which documents pass them."""
UNITS = ("documents", "bytes", "tokens")


@dataclass
class Count:
    """Documents, bytes of their text in UTF-8, and tokens."""

    documents: int = 0
    bytes: int = 0
    tokens: int = 0

    def add(self, documents: int, size: int, tokens: int = 0) -> None:
        """Count some more."""
        self.documents += documents
        self.bytes += size
        self.tokens += tokens

    def less(self, other: Count) -> Count:
        """Return what is left without `other`."""
        return Count(
            self.documents - other.documents, self.bytes - other.bytes, self.tokens - other.tokens
        )

    def tables(self) -> dict[str, int]:
        """Return the three numbers by name."""
        return {"documents": self.documents, "bytes": self.bytes, "tokens": self.tokens}

    @classmethod
    def of(cls, tables: Mapping[str, Any]) -> Self:
        """Read what `tables` gave."""
        return cls(*(int(tables[unit]) for unit in UNITS))

    @classmethod
    def sum(cls, counts: Iterable[Count]) -> Self:
        """Add some up."""
        total = cls()
        for count in counts:
            total.add(count.documents, count.bytes, count.tokens)
        return total


@dataclass(frozen=True)
class Passage:
    """What one rule of a stage was given, dropped and let pass."""

    rule: str
    read: Count
    dropped: Count
    kept: Count


@dataclass
class Stage:
    """One stage of a slice."""

    name: str
    read: Count = field(default_factory=Count)
    kept: Count = field(default_factory=Count)
    dropped: dict[str, Count] = field(default_factory=dict)
    """Rule or reason -> what it dropped."""
    trimmed: dict[str, Count] = field(default_factory=dict)
    """Rule -> documents that it shortened, and bytes and tokens that it took out of them."""
    rules: tuple[str, ...] = ()
    """In the order in which they apply, those that dropped nothing among them."""

    def drop(self, reason: str, documents: int, size: int, tokens: int = 0) -> None:
        """Count what was dropped for one reason."""
        self.dropped.setdefault(reason, Count()).add(documents, size, tokens)

    def trim(self, rule: str, documents: int, size: int, tokens: int = 0) -> None:
        """Count what a rule took out of documents."""
        self.trimmed.setdefault(rule, Count()).add(documents, size, tokens)

    def include(self, other: Stage) -> None:
        """Add the same stage of more documents."""
        self.rules = self.rules or other.rules
        for mine, more in ((self.read, other.read), (self.kept, other.kept)):
            mine.add(more.documents, more.bytes, more.tokens)
        for name, count in other.dropped.items():
            self.drop(name, count.documents, count.bytes, count.tokens)
        for name, count in other.trimmed.items():
            self.trim(name, count.documents, count.bytes, count.tokens)

    @property
    def reasons(self) -> tuple[str, ...]:
        """The rules in order, then other reasons by name (faults that a reader met)."""
        return (*self.rules, *sorted(set(self.dropped) - set(self.rules)))

    def passages(self) -> list[Passage]:
        """Tell, rule by rule, what came in, was dropped and went on; trims come after them."""
        found, left = [], Count.of(self.read.tables())
        for rule in self.reasons:
            dropped = self.dropped.get(rule, Count())
            after = left.less(dropped)
            found.append(Passage(rule, left, dropped, after))
            left = after
        return found

    def check(self) -> None:
        """Prove the stage.

        Raises:
            ValueError: kept, dropped and trimmed do not add up to read.
        """
        for unit in UNITS if self.read.tokens else UNITS[:2]:
            read, kept = getattr(self.read, unit), getattr(self.kept, unit)
            dropped = sum(getattr(count, unit) for count in self.dropped.values())
            trimmed = sum(getattr(count, unit) for count in self.trimmed.values())
            trimmed = 0 if unit == "documents" else trimmed  # a shortened document is still one
            if kept + dropped + trimmed != read:
                raise ValueError(
                    f"{self.name}: kept {kept} + dropped {dropped} + trimmed {trimmed} {unit} is "
                    f"not the {read} read"
                )

    def tables(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "name": self.name,
            "read": self.read.tables(),
            "kept": self.kept.tables(),
            "rules": list(self.rules),
            "dropped": {
                name: self.dropped[name].tables() for name in self.reasons if name in self.dropped
            },
            "trimmed": _sorted(self.trimmed),
        }

    @classmethod
    def of(cls, tables: Mapping[str, Any], name: str = STAGES[0]) -> Self:
        """Read what `tables` gave; format 1 has a slice's sums in this form, without a name."""
        return cls(
            str(tables.get("name", name)),
            Count.of(tables["read"]),
            Count.of(tables["kept"]),
            _counts(tables["dropped"]),
            _counts(tables.get("trimmed", {})),
            tuple(tables.get("rules", ())),
        )


@dataclass
class SliceLedger:
    """One slice's account: stages, and sums over them."""

    stages: list[Stage] = field(default_factory=list)
    licences: dict[str, Count] = field(default_factory=dict)
    """Of what was kept."""

    def stage(self, name: str) -> Stage:
        """Return a stage, opened on first use; known ones stand in the order of `STAGES`."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        stage = Stage(name)
        self.stages.append(stage)
        known = {each: index for index, each in enumerate(STAGES)}
        self.stages.sort(key=lambda each: known.get(each.name, len(known)))
        return stage

    @property
    def read(self) -> Count:
        """What the first stage was given."""
        return self.stages[0].read if self.stages else Count()

    @property
    def kept(self) -> Count:
        """What the last stage let pass."""
        return self.stages[-1].kept if self.stages else Count()

    @property
    def dropped(self) -> dict[str, Count]:
        """Reason -> what was dropped for it in all stages."""
        return _merged(stage.dropped for stage in self.stages)

    @property
    def trimmed(self) -> dict[str, Count]:
        """Rule -> documents that it shortened and bytes that it took out, in all stages."""
        return _merged(stage.trimmed for stage in self.stages)

    def licence(self, name: str) -> Count:
        """Return the count of a licence, opened on first use."""
        return self.licences.setdefault(name, Count())

    def check(self) -> None:
        """Prove every stage, and that each reads what the one before kept.

        Raises:
            ValueError: one does not add up.
        """
        for stage in self.stages:
            stage.check()
        for before, after in itertools.pairwise(self.stages):
            counted = before.read.tokens or before.kept.tokens
            for unit in UNITS if counted else UNITS[:2]:
                kept, read = getattr(before.kept, unit), getattr(after.read, unit)
                if kept != read:
                    raise ValueError(
                        f"{after.name} read {read} {unit}, but {before.name} kept {kept}"
                    )


@dataclass
class Ledger:
    """The account of all slices."""

    slices: dict[str, SliceLedger] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    """Slice -> the sentence that said why it was left out."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What else a file said that was read: recipe hash, fingerprint of the shards, tails."""

    def slice(self, name: str) -> SliceLedger:
        """Return a slice's account, opened on first use."""
        return self.slices.setdefault(name, SliceLedger())

    def check(self) -> None:
        """Prove the account.

        Raises:
            DataError: kept and dropped do not add up to read: a defect of the pipeline.
        """
        for name, account in self.slices.items():
            try:
                account.check()
            except ValueError as error:
                raise DataError(
                    f"ledger of {name}: {error}; the shards were not put in place, please report "
                    "this"
                ) from None

    def tables(self, **facts: Any) -> dict[str, Any]:
        """Return the JSON form; `facts` (recipe hash, tokenizer ...) come first."""
        return {
            "format": FORMAT,
            **self.facts,
            **facts,
            "slices": {
                name: {
                    "read": account.read.tables(),
                    "kept": account.kept.tables(),
                    "dropped": _sorted(account.dropped),
                    "trimmed": _sorted(account.trimmed),
                    "licences": _sorted(account.licences),
                    "stages": [stage.tables() for stage in account.stages],
                }
                for name, account in self.slices.items()
            },
            "skipped": self.skipped,
        }

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a ledger of this format, or of format 1: each slice as one stage.

        Raises:
            DataError: missing, cut, of a later format, or it does not add up.
        """
        try:
            tables = json.loads(path.read_text(encoding="utf-8"))
            found = tables["format"]
            if found not in (1, FORMAT):
                raise DataError(f"{path}: format {found}, this reads 1 and {FORMAT}")
            slices = {
                name: SliceLedger(
                    [Stage.of(stage) for stage in account.get("stages", [account])],
                    _counts(account["licences"]),
                )
                for name, account in tables["slices"].items()
            }
            known = ("format", "slices", "skipped")
            facts = {key: value for key, value in tables.items() if key not in known}
            ledger = cls(slices, dict(tables["skipped"]), facts)
            for name, account in ledger.slices.items():
                try:
                    account.check()
                except ValueError as error:
                    raise DataError(f"{path}: {name} does not add up: {error}") from None
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from None
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}: cut, or no ledger ({error!r})") from None
        return ledger


def _merged(tables: Iterable[Mapping[str, Count]]) -> dict[str, Count]:
    merged: dict[str, Count] = {}
    for table in tables:
        for name, count in table.items():
            merged.setdefault(name, Count()).add(count.documents, count.bytes, count.tokens)
    return merged


def _sorted(counts: Mapping[str, Count]) -> dict[str, dict[str, int]]:
    return {name: counts[name].tables() for name in sorted(counts)}


def _counts(tables: Mapping[str, Mapping[str, Any]]) -> dict[str, Count]:
    return {name: Count.of(count) for name, count in tables.items()}
