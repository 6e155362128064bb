"""The seven slices of the corpus, a module each, all of one shape.

NAME    the slice's name
NEEDS   one sentence: the raw input that it reads
Rules   optional: a frozen dataclass, what `[slices.NAME.rules]` of a recipe may say
units(config) -> list[Unit]        the raw input, cut into tasks; raises InputAbsent
read(unit, recipe) -> Iterator[Document]   one task's documents

What goes wrong in one document is a Document with a `fault`; what a rule takes out of a text is in
its `trimmed`. DataError is for input that cannot be read at all.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

from alpenglow.config import parse
from alpenglow.data.document import Document, Unit
from alpenglow.data.recipe import SliceRecipe
from alpenglow.data.slices.source import Source


class Slice(Protocol):
    """What every module of this folder offers."""

    NAME: str
    NEEDS: str

    def units(self, config: Source) -> list[Unit]:
        """List the raw input as units of work."""

    def read(self, unit: Unit, recipe: SliceRecipe) -> Iterator[Document]:
        """Turn one unit into documents."""


T = TypeVar("T")


def rules(name: str, recipe: SliceRecipe, schema: type[T]) -> T:
    """Read a slice's own settings.

    Raises:
        ConfigError: a setting that the slice does not have, or of a wrong type.
    """
    return parse(schema, recipe.rules, f"slices.{name}.rules")


def check(name: str, recipe: SliceRecipe) -> None:
    """Refuse settings that a slice does not have, before anything is read.

    Raises:
        ConfigError: one sentence, with the nearest name.
    """
    rules_of(name, recipe)


def rules_of(name: str, recipe: SliceRecipe) -> Any:
    """Read a slice's own settings, as its own `Rules`.

    Raises:
        ConfigError: a setting that the slice does not have, or of a wrong type.
    """
    return rules(name, recipe, getattr(of_name(name), "Rules", NoRules))


@dataclass(frozen=True)
class NoRules:
    """Of a slice without settings of its own."""


def of_name(name: str) -> Slice:
    """Return the module of a slice."""
    return cast(Slice, importlib.import_module(f"alpenglow.data.slices.{name}"))
