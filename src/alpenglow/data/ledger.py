"""The ledger: what was read, kept and dropped, by slice and reason; `shards/ledger.json`.

For every slice, kept + dropped = read, in documents and in bytes, exactly; `check` proves it.
What a rule takes out of a text (a licence header) is counted as trimmed, in bytes, beside them.
Tokens are counted where a document was tokenised: those kept, and duplicates found afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from alpenglow.data.document import DataError

FORMAT = 1


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

    def tables(self) -> dict[str, int]:
        """Return the three numbers by name."""
        return {"documents": self.documents, "bytes": self.bytes, "tokens": self.tokens}


@dataclass
class SliceLedger:
    """One slice's account."""

    read: Count = field(default_factory=Count)
    kept: Count = field(default_factory=Count)
    dropped: dict[str, Count] = field(default_factory=dict)
    trimmed: dict[str, Count] = field(default_factory=dict)
    """Rule -> documents that it shortened and bytes that it took out of their text."""
    licences: dict[str, Count] = field(default_factory=dict)
    """Of what was kept."""

    def drop(self, reason: str, documents: int, size: int, tokens: int = 0) -> None:
        """Count what was dropped for one reason."""
        self.dropped.setdefault(reason, Count()).add(documents, size, tokens)

    def trim(self, rule: str, documents: int, size: int) -> None:
        """Count what a rule took out of documents."""
        self.trimmed.setdefault(rule, Count()).add(documents, size)

    def licence(self, name: str) -> Count:
        """Return the count of a licence, opened on first use."""
        return self.licences.setdefault(name, Count())


@dataclass
class Ledger:
    """The account of all slices."""

    slices: dict[str, SliceLedger] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    """Slice -> the sentence that said why it was left out."""

    def slice(self, name: str) -> SliceLedger:
        """Return a slice's account, opened on first use."""
        return self.slices.setdefault(name, SliceLedger())

    def check(self) -> None:
        """Prove the account.

        Raises:
            DataError: kept and dropped do not add up to read: a defect of the pipeline.
        """
        for name, account in self.slices.items():
            for what in ("documents", "bytes"):
                read = getattr(account.read, what)
                kept = getattr(account.kept, what)
                dropped = sum(getattr(count, what) for count in account.dropped.values())
                trimmed = sum(count.bytes for count in account.trimmed.values())
                trimmed = trimmed if what == "bytes" else 0  # a shortened document is still one
                if kept + dropped + trimmed != read:
                    raise DataError(
                        f"ledger of {name}: kept {kept} + dropped {dropped} + trimmed {trimmed} "
                        f"{what} is not the {read} read; the shards were not put in place, please "
                        "report this"
                    )

    def tables(self, **facts: Any) -> dict[str, Any]:
        """Return the JSON form; `facts` (recipe hash, tokenizer ...) come first."""
        return {
            "format": FORMAT,
            **facts,
            "slices": {
                name: {
                    "read": account.read.tables(),
                    "kept": account.kept.tables(),
                    "dropped": _sorted(account.dropped),
                    "trimmed": _sorted(account.trimmed),
                    "licences": _sorted(account.licences),
                }
                for name, account in self.slices.items()
            },
            "skipped": self.skipped,
        }


def _sorted(counts: Mapping[str, Count]) -> dict[str, dict[str, int]]:
    return {name: counts[name].tables() for name in sorted(counts)}
