"""Filters: each rule drops what it names, and nothing else."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from alpenglow.data.document import Document
from alpenglow.data.filters import Filter, alphanumeric_share, prose_share
from alpenglow.data.recipe import FilterRecipe

PROSE = "The quick brown fox jumps over the lazy dog and goes home again.\n" * 4
CODE = "def add(a: int, b: int) -> int:\n    return a + b\n" * 5


def text(content: str, **changes: Any) -> Document:
    return dataclasses.replace(Document(content, "books", "a", "CC0-1.0"), **changes)


def code(content: str, **changes: Any) -> Document:
    return dataclasses.replace(Document(content, "github", "a.py", "MIT"), **changes)


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (text(PROSE), None),
        (code(CODE), None),
        (text(PROSE, fault="binary"), "binary"),
        (text(PROSE[:99]), "too short"),
        (text(PROSE * 10_000), "too long"),
        (text(PROSE + "\0"), "binary"),
        (text(PROSE + "\ud800"), "not Unicode"),
        (text("-- .. ++ a b c\n" * 20), "few letters and digits"),
        (text("abandoned\ncolour\n" * 40), "not prose"),
        (code(CODE + "x = " + "1" * 1000), "a long line"),
        (code(("y" * 120 + "\n") * 5), "long lines"),
    ],
)
def test_rule(document: Document, reason: str | None) -> None:
    assert Filter(FilterRecipe())(document) == reason


def test_thresholds_are_kept_at_their_value() -> None:
    keep = Filter(FilterRecipe(min_characters=100))
    assert keep(text(PROSE[:100])) is None
    line = "a" * 999 + "b"
    assert keep(code("x = 1\n" * 30 + line)) is None
    assert keep(code("x = 1\n" * 30 + line + "c")) == "a long line"


def test_licences_are_a_rule_for_code_only() -> None:
    keep = Filter(FilterRecipe(licences=("mit", "Apache")))
    assert keep(code(CODE, licence="Apache-2.0 OR X")) is None
    assert keep(code(CODE, licence="GPL-2.0-only")) == "licence"
    assert keep(code(CODE, licence="not stated")) == "licence"
    assert keep(code(CODE, licence="limited use")) == "licence"
    assert keep(text(PROSE, licence="GPL-2.0-only")) is None


def test_code_is_not_judged_as_prose() -> None:
    assert prose_share(CODE) > 0
    assert Filter(FilterRecipe())(code("a = 1\nb = 2\n" * 20)) is None


def test_shares_of_nothing_are_zero() -> None:
    assert alphanumeric_share("") == 0
    assert prose_share("\n \n") == 0
