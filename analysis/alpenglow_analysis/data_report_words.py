"""Names of slices and stages as people read them."""

from __future__ import annotations

from alpenglow.data.ledger import STAGES

SLICES = {
    "commoncrawl": "CommonCrawl",
    "c4": "C4",
    "github": "GitHub",
    "books": "Books",
    "arxiv": "arXiv",
    "wikipedia": "Wikipedia",
    "stackexchange": "StackExchange",
}
WORDS = {
    "read": "reading",
    "paragraphs": "repeated paragraphs",
    "filters": "filters",
    "duplicates": "duplicates",
}
"""Stage -> what it looks for."""
MEANINGS = {
    "read": "raw input to text; faults of single documents, and what rules of the slice take out",
    "paragraphs": "lines that an earlier document of the group had are taken out",
    "filters": "rules over the signals of a document, in order; the first that it breaks counts",
    "duplicates": "documents whose text an earlier document has",
}

__all__ = ["MEANINGS", "SLICES", "STAGES", "WORDS", "named", "stage_word"]


def named(name: str) -> str:
    """A slice's name."""
    return SLICES.get(name, name)


def stage_word(name: str) -> str:
    """A stage's name."""
    return WORDS.get(name, name)
