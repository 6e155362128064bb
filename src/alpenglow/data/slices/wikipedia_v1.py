"""Wiki markup to text as RedPajama v1 had it: by mwparserfromhell, as Hugging Face used it.

The behaviour is that of `wikipedia.py` (script version 2.0, for the dump of 20 March 2023), written
anew: an article is cut into sections; in each, links to files go, links to categories lose their
prefix, tags `ref` and `table` go, mwparserfromhell strips the rest, and `__WORDS__` of capitals go.
The title is not in the text; what is left of templates and tags is up to the parser. Its time grows
with the square of what is opened and never closed; a page on which that would take more than some
seconds is refused.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection
from typing import Any

from alpenglow.data.document import DataError

_MAGIC = re.compile("__[A-Z]*__")
_REMOVED = frozenset(("ref", "table"))
_PAIRS = (
    re.compile(r"(\{\{)|\}\}"),
    re.compile(r"(\[\[)|\]\]"),
    re.compile(r"^(\{\|)|^\|\}", re.M),
    re.compile(r"(\[)(?=https?:|//)|\]"),
    re.compile(r"(<(?!br|hr|li|p\b|dd|dt|td|tr|th)[a-z]+[^<>/]*>)|</", re.I),
)
COST = 50_000_000
"""Unclosed marks times characters of a page; the parser takes about 10 s for as much."""


class NotParsed(ValueError):
    """The parser gives up on this article."""


def clean(markup: str, media: Collection[str], category: Collection[str]) -> str:
    """Return the text of an article.

    Args:
        markup: wiki markup.
        media: prefixes of links to files, in the article's language.
        category: prefixes of links to categories.

    Raises:
        DataError: mwparserfromhell is not installed.
        NotParsed: the parser fails.
    """
    try:
        import mwparserfromhell
        from mwparserfromhell.parser import ParserError
    except ImportError:
        raise DataError(
            "wikipedia: mode = 'faithful' needs mwparserfromhell: pip install 'alpenglow[raw]'"
        ) from None
    if _unclosed(markup) * len(markup) > COST:
        raise NotParsed("too much is opened and never closed")
    is_media, is_category = _prefixes(media), _prefixes(category)
    parts: list[str] = []
    try:
        code = mwparserfromhell.parse(markup)
        for section in code.get_sections(flat=True, include_lead=True, include_headings=True):
            _links(section, is_media, is_category)
            for tag in section.ifilter_tags(
                matches=lambda tag: str(tag.tag) in _REMOVED, recursive=True
            ):
                _remove(section, tag)
            parts.append(_MAGIC.sub("", section.strip_code().strip()))
    except (ParserError, RecursionError) as error:
        raise NotParsed(str(error)) from None
    return "\n\n".join(parts)


def _unclosed(markup: str) -> int:
    """How many marks are opened and never closed."""
    worst = 0
    for pair in _PAIRS:
        depth = 0
        for match in pair.finditer(markup):
            depth = depth + 1 if match[1] else max(0, depth - 1)
        worst = max(worst, depth)
    return worst


def _prefixes(names: Collection[str]) -> re.Pattern[str]:
    return re.compile(f"^(?:{'|'.join(re.escape(name) for name in names)}):", re.I)


def _links(section: Any, is_media: re.Pattern[str], is_category: re.Pattern[str]) -> None:
    for link in section.ifilter_wikilinks(recursive=True):
        title = str(link.title)
        if is_media.match(title):
            _remove(section, link)
        elif is_category.match(title):
            link.text = is_category.sub("", link.__strip__())


def _remove(section: Any, node: Any) -> None:
    with contextlib.suppress(ValueError):  # it went with a node around it
        section.remove(node)
