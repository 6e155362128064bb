"""Books slice: plain text, a book a file, in folders such as PG-19's.

PG-19 (github.com/google-deepmind/pg19) has train/, validation/ and test/ of ID.txt, and
metadata.csv with ID, title, date of publication and address. `fixed` reads train/ alone, since the
other two are a benchmark's, and takes off Project Gutenberg's own text; `faithful` reads all three
as they stand, as RedPajama v1 did (data_prep/book of branch rp_v1). Not repeated: by its README's
commands v1 wrote those two over the last part of train/, 602 books, whose order is not published.

Books3 is refused by its name: its dataset card calls it "defunct" for reasons of copyright.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from alpenglow.data.document import DataError, Document, Input, InputAbsent, Unit, cap, pack
from alpenglow.data.recipe import SliceRecipe
from alpenglow.data.slices import books_metadata, gutenberg, rules
from alpenglow.data.slices.source import Source, up_to, whole_files

NAME = "books"
NEEDS = "it reads a folder of .txt files, a book a file, such as PG-19's (never books3)"
SPLITS = ("train", "validation", "test")
_BOOKS3 = re.compile(r"(?<!note)(?<!work)books[-_. ]?3(?!\d)", re.I)


@dataclass(frozen=True)
class Rules:
    """What `[slices.books.rules]` may say."""

    splits: tuple[str, ...] | None = None
    """Of PG-19's train, validation and test; `["train"]` unless given, all when faithful."""

    def __post_init__(self) -> None:
        for split in self.splits or ():
            if split not in SPLITS:
                raise ValueError(f"splits: {split!r} is none of {', '.join(SPLITS)}")


def units(config: Source) -> list[Unit]:
    """List books, packed into units; see `slices` for the shape.

    Raises:
        InputAbsent: there is no .txt file, or none in the splits that are asked for.
        DataError: something in the input is named books3.
    """
    _refuse_books3(config.root)
    found = config.files((".txt",), NEEDS)
    chosen = rules(NAME, config.recipe, Rules).splits
    if chosen is None:
        chosen = SPLITS if config.recipe.mode == "faithful" else ("train",)
    if any(item.source.startswith("train/") for item in found):
        left_out = tuple(f"{split}/" for split in SPLITS if split not in chosen)
        found = [item for item in found if not item.source.startswith(left_out)]
        if not found:
            raise InputAbsent(f"{NAME}: {config.root} has no {' or '.join(chosen)}/; {NEEDS}")
    dated = [_with_metadata(item) for item in cap(found, config.recipe.max_bytes)]
    return pack(NAME, dated, config.unit_bytes)


def _refuse_books3(root: Path) -> None:
    # Also under another name that points there, and in an archive that nobody unpacked yet.
    for path in (root, root.resolve()):
        _refuse(path.parts, path)
    for folder, folders, names in os.walk(root):
        _refuse([*folders, *names], Path(folder))


def _refuse(names: list[str] | tuple[str, ...], place: Path) -> None:
    for name in names:
        if _BOOKS3.search(name):
            raise DataError(
                f"{NAME}: {place} has {name}: books3 was withdrawn for reasons of copyright and "
                "is never read; take it out of the input"
            )


def _with_metadata(item: Input) -> Input:
    """Let the unit change when the metadata beside its book does."""
    table = books_metadata.beside(Path(item.path))
    if table is None:
        return item
    return replace(item, changed=max(item.changed, table.stat().st_mtime_ns))


def read(unit: Unit, recipe: SliceRecipe) -> Iterator[Document]:
    """Yield each book.

    Raises:
        DataError: the metadata beside it is no table.
    """
    return up_to(_books(unit, recipe), unit.limit)


def _books(unit: Unit, recipe: SliceRecipe) -> Iterator[Document]:
    for item, book in zip(unit.inputs, whole_files(unit), strict=True):
        facts = books_metadata.of(Path(item.path))
        if book.fault:
            yield book
        elif recipe.mode == "faithful":
            yield _described(book, facts)
        else:
            text, header = gutenberg.strip(book.text)
            removed = book.bytes - len(text.encode("utf-8", "surrogatepass"))
            trimmed = {gutenberg.RULE: removed} if removed else {}
            stripped = replace(book, text=text, trimmed=trimmed)
            yield _described(stripped, header | facts)


def _described(book: Document, facts: dict[str, str]) -> Document:
    metadata = {key: facts[key] for key in ("title", "author", "year") if facts.get(key)}
    licence = facts.get("licence") or book.licence
    url = facts.get("url", "")
    timestamp = facts.get("year", "")
    return replace(book, metadata=metadata, licence=licence, url=url, timestamp=timestamp)
