"""A question and its answers to one text, as RedPajama v1 wrote it or without its defects."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Literal

from alpenglow.data.document import DataError
from alpenglow.data.slices.html_text import plain
from alpenglow.data.slices.stackexchange_table import Post


def ranked(answers: Sequence[Post], mode: Literal["fixed", "faithful"]) -> list[Post]:
    """Order answers best first; of equal ones the earlier first.

    `faithful`: by the score as a string, 9 before 102, as RedPajama v1 did
    (data_prep/stack_exchange/post_processing.py of branch rp_v1).

    Raises:
        ValueError: a score that is no number; not if faithful.
    """
    if mode == "faithful":
        return sorted(answers, key=lambda post: post.score, reverse=True)
    return sorted(answers, key=lambda post: (-int(post.score or 0), post.number))


class Writer:
    """Writes `Q: title body` and a line `A: ...` for each answer, in the order given.

    Args:
        mode: `faithful` takes the title for HTML as well, so that `List<int>` loses its `<int>`.

    Raises:
        DataError: BeautifulSoup is not installed, which `faithful` needs.
    """

    def __init__(self, mode: Literal["fixed", "faithful"]) -> None:
        self._faithful = mode == "faithful"
        self._convert = _by_soup() if self._faithful else plain

    def text(self, question: Post, answers: Sequence[Post]) -> str:
        """Return the text of a question and its answers."""
        if self._faithful:
            first = self._convert(f"{question.title} {question.body}")
        else:
            first = f"{question.title} {self._convert(question.body)}"
        return "\n".join([f"Q: {first}", *(f"A: {self._convert(post.body)}" for post in answers)])


def _by_soup() -> Callable[[str], str]:
    try:
        import lxml  # noqa: F401
        from bs4 import BeautifulSoup
    except ImportError:
        raise DataError(
            "stackexchange: mode faithful needs BeautifulSoup and lxml: pip install "
            "'alpenglow[raw]'"
        ) from None

    def convert(markup: str) -> str:
        for opening, closing in (("<li>", "</li>"), ("<ol>", "</ol>")):
            markup = markup.replace(opening, "\n*").replace(closing, "")
        with warnings.catch_warnings():
            # It warns of a post that looks like an address or a file's name.
            warnings.simplefilter("ignore")
            return str(BeautifulSoup(markup, "lxml").get_text())

    return convert
