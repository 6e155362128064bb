"""Project Gutenberg's own text around a book: found by its markers, and taken off.

Three forms: since about 2000 `*** START OF THE PROJECT GUTENBERG EBOOK TITLE ***` and `*** END OF
...`; before that the "small print" at the head, closed by `*END*THE SMALL PRINT! ...*END*`, and
a last line `End of the Project Gutenberg Etext of ...`.
"""

from __future__ import annotations

import re

RULE = "Project Gutenberg"
"""Name of the rule in the account of what was trimmed."""

_START = re.compile(
    r"^[ \t]*\*{2,}[ \t]*START OF (?:THE|THIS) PROJECT GUTENBERG\b[^\n]*(?:\n[^\n]+)?\*{2,}[^\n]*$"
    r"|^[^\n]*\*END\*? ?THE SMALL PRINT[^\n]*$",
    re.M | re.I,
)
_END = re.compile(
    r"^[ \t]*\*{2,}[ \t]*END OF (?:THE|THIS) PROJECT GUTENBERG\b"
    r"|^[ \t]*End of (?:the |this )?Project Gutenberg(?:'s| etext| ebook)",
    re.M | re.I,
)
_HEAD = 60_000
"""Characters in which the beginning is looked for."""
_TAIL = 60_000
"""Characters before the end in which the end is looked for: the licence has 19,000."""
_FIELDS = {"title": "title", "author": "author"}
_FIELD = re.compile(r"^(Title|Author|Copyright Status):[ \t]*(\S[^\n]*)$", re.M | re.I)


def strip(text: str) -> tuple[str, dict[str, str]]:
    """Return a book without what Project Gutenberg put around it, and the header's facts.

    Args:
        text: the file.

    Returns:
        The book; and of `title`, `author` and `licence` what the header states.
    """
    begin, end = 0, len(text)
    header = ""
    for found in _START.finditer(text, 0, _HEAD):
        # Of small print and start, where both are there, the later.
        begin = found.end()
        header = text[:begin]
    tail = _END.search(text, max(begin, len(text) - _TAIL))
    if tail:
        end = tail.start()
    if not begin and end == len(text):
        return text, {}
    facts: dict[str, str] = {}
    for name, value in _FIELD.findall(header):
        key = name.lower()
        if key in _FIELDS:
            facts.setdefault(_FIELDS[key], value.strip())
        elif "public domain" in value.lower():
            facts["licence"] = "Public domain in the USA"
    return text[begin:end].strip("\n") + "\n", facts
