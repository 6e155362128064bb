"""metadata.csv beside a folder of books: ID, title, date of publication, address.

PG-19's table has no line of names; one that has may hold the columns in any order and more:
`book_id` (or `id`), `short_book_title` (`title`), `publication_date` (`year`), `url`, `author`,
`licence` (`license`, `rights`).
"""

from __future__ import annotations

import csv
import functools
import re
from pathlib import Path

from alpenglow.data.document import DataError

NAME = "metadata.csv"
_COLUMNS = {
    "book_id": "id", "_id": "id", "id": "id", "short_book_title": "title", "title": "title",
    "publication_date": "year", "year": "year", "date": "year", "url": "url", "author": "author",
    "licence": "licence", "license": "licence", "rights": "licence",
}  # fmt: skip
_PG19 = ("id", "title", "year", "url")
PUBLIC_DOMAIN_BEFORE = 1919
"""PG-19 took books published before this year, because of the law of the USA (its README)."""


def beside(book: Path) -> Path | None:
    """Return the table in the book's folder, or in the one above, as PG-19 has it."""
    for folder in (book.parent, book.parent.parent):
        if (folder / NAME).is_file():
            return folder / NAME
    return None


def of(book: Path) -> dict[str, str]:
    """Return what the table says of a book: title, year, url, author, licence.

    Raises:
        DataError: the table is not CSV in UTF-8.
    """
    table = beside(book)
    if table is None:
        return {}
    status = table.stat()
    return dict(_table(table, status.st_mtime_ns, status.st_size).get(book.stem, {}))


@functools.lru_cache(maxsize=4)
def _table(path: Path, changed: int, size: int) -> dict[str, dict[str, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path}: not a table of books ({error}); it should be CSV in UTF-8"
        ) from None
    names: tuple[str, ...] = _PG19
    if rows and rows[0][0].strip().lower() in _COLUMNS:
        names = tuple(_COLUMNS.get(name.strip().lower(), "") for name in rows[0])
        rows = rows[1:]
    found = {}
    for row in rows:
        facts = {key: value.strip() for key, value in zip(names, row, strict=False) if key}
        year = re.search(r"\d{4}", facts.get("year", ""))
        facts["year"] = year[0] if year else ""
        facts["licence"] = _licence(facts)
        found[facts.pop("id", "")] = facts
    return found


def _licence(facts: dict[str, str]) -> str:
    stated = facts.get("licence", "")
    if stated:
        return "Public domain" if stated.lower().startswith("public domain") else stated
    early = facts["year"] and int(facts["year"]) < PUBLIC_DOMAIN_BEFORE
    if early and "gutenberg.org/" in facts.get("url", ""):
        return "Public domain in the USA"
    return ""
