"""Posts of a site on disk, in the order of questions: what joins answers and questions.

Answers come anywhere in a dump, Stack Overflow's has 60 million posts, and neither fits a worker's
memory. Posts go into a private table of SQLite (part of Python) with the question's number as the
first of its key, and come back question by question. SQLite makes the file for `connect("")` in
the folder that TMPDIR names, deletes its name at once and so leaves nothing behind, even if killed.
It takes about as much room as Posts.xml. What is in memory is its cache and one batch.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType

from alpenglow.data.document import DataError

CACHE = 32_000_000
"""Bytes of the table that are held in memory."""
BATCH = 8_000_000
"""Bytes of posts that are sorted and written at once: neighbours go to the same page."""


@dataclass(frozen=True)
class Post:
    """A question or an answer."""

    question: int
    """Number of the question that it belongs to; its own if it is one."""
    number: int
    is_answer: bool
    score: str
    """As the dump has it."""
    owner: str
    """OwnerUserId, empty for people who are gone."""
    created: str
    licence: str
    title: str
    body: str


class PostTable:
    """Takes posts in any order and gives them back by question.

    Raises:
        DataError: there is no room for the table.
    """

    def __init__(self) -> None:
        self._batch: list[tuple[int, int, int, int, str, str, str, str, str, str]] = []
        self._size = 0
        self._count = 0
        self._connection = sqlite3.connect("", isolation_level=None)
        cache = f"cache_size={-CACHE // 1000}"
        for setting in ("journal_mode=OFF", "synchronous=OFF", "page_size=16384", cache):
            self._connection.execute(f"PRAGMA {setting}")
        # Its place in the file keeps two posts of one Id apart.
        self._connection.execute(
            "CREATE TABLE post (question INTEGER, is_answer INTEGER, place INTEGER, number INTEGER,"
            " score TEXT, owner TEXT, created TEXT, licence TEXT, title TEXT, body TEXT,"
            " PRIMARY KEY (question, is_answer, place)) WITHOUT ROWID"
        )
        self._connection.execute("BEGIN")

    def add(self, post: Post) -> None:
        """Take a post."""
        self._count += 1
        self._batch.append(
            (post.question, int(post.is_answer), self._count, post.number, post.score, post.owner,
             post.created, post.licence, post.title, post.body)
        )  # fmt: skip
        self._size += len(post.title) + len(post.body) + 100
        if self._size >= BATCH:
            self._write()

    def _write(self) -> None:
        try:
            self._connection.executemany(
                "INSERT INTO post VALUES (?,?,?,?,?,?,?,?,?,?)", sorted(self._batch)
            )
        except sqlite3.Error as error:
            raise _no_room(error) from None
        self._batch, self._size = [], 0

    def questions(self) -> Iterator[tuple[int, Iterator[Post]]]:
        """Yield each question's number with its posts: itself, if it is there, then its answers.

        Answers come in the order of the file.
        """
        self._write()
        try:
            found = self._connection.execute(
                "SELECT question, number, is_answer, score, owner, created, licence, title, body"
                " FROM post ORDER BY question, is_answer, place"
            )
            for number, posts in itertools.groupby(found, key=lambda row: int(row[0])):
                yield number, (_post(*row) for row in posts)
        except sqlite3.Error as error:
            raise _no_room(error) from None

    def __enter__(self) -> PostTable:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Delete the table."""
        self._connection.close()


def _post(question: int, number: int, is_answer: int, *words: str) -> Post:
    return Post(question, number, bool(is_answer), *words)


def _no_room(error: Exception) -> DataError:
    return DataError(
        f"stackexchange: its table of posts cannot be written or read ({error}); it needs about "
        "the size of Posts.xml in the folder that TMPDIR names"
    )
