"""Rules that decide whether a document is kept: each gives a reason, none changes the text.

`Filter(recipe)(document)` returns the name of the first rule that the document breaks, or None.
Exact duplicates are not found here: that needs all documents, see `pipeline`.
"""

from __future__ import annotations

import re

from alpenglow.data.document import Document
from alpenglow.data.recipe import FilterRecipe

CODE = frozenset({"github"})
"""Slices whose documents are programs; the others hold prose."""


class Filter:
    """The rules of a recipe, in the order in which they are tried."""

    def __init__(self, recipe: FilterRecipe) -> None:
        self._recipe = recipe
        # At the beginning of a word: "mit" is not found in "limited".
        words = "|".join(re.escape(word) for word in recipe.licences)
        self._licences = re.compile(rf"\b(?:{words})", re.I) if words else None

    def __call__(self, document: Document) -> str | None:
        """Return the reason to drop the document; None keeps it."""
        if document.fault:
            return document.fault
        return self._any(document.text) or (
            self._code(document) if document.slice in CODE else self._prose(document.text)
        )

    def _any(self, text: str) -> str | None:
        recipe = self._recipe
        if len(text) < recipe.min_characters:
            return "too short"
        if len(text) > recipe.max_characters:
            return "too long"
        if "\0" in text:
            return "binary"
        if not _is_unicode(text):
            return "not Unicode"
        if alphanumeric_share(text) < recipe.min_alphanumeric:
            return "few letters and digits"
        return None

    def _prose(self, text: str) -> str | None:
        return "not prose" if prose_share(text) < self._recipe.min_prose_lines else None

    def _code(self, document: Document) -> str | None:
        lines = document.text.splitlines()
        if max(map(len, lines), default=0) > self._recipe.code_max_line:
            return "a long line"
        if len(document.text) > self._recipe.code_mean_line * max(1, len(lines)):
            return "long lines"
        if self._licences and not self._licences.search(document.licence):
            return "licence"
        return None


def alphanumeric_share(text: str) -> float:
    """Return letters and digits over characters, 0 for an empty text."""
    return sum(map(str.isalnum, text)) / len(text) if text else 0.0


def prose_share(text: str) -> float:
    """Return the share of non-empty lines that have four words or more, 0 if there is no line.

    Word lists, tables of contents and logs of single words have few such lines.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    return sum(len(line.split(None, 4)) >= 4 for line in lines) / len(lines) if lines else 0.0


def _is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8; JSON can hold half a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
