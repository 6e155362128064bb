"""Licences: told from a licence file's text or a file's own SPDX line, and compared with a rule.

Names are SPDX's (spdx.org/licenses). A licence file is told by sentences that the licence cannot
lack; one that holds several licences gives all of them, joined by AND, for all apply.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from alpenglow.data.slices.github_endings import language

UNKNOWN = "not recognised"
"""Of a licence file that holds none of these."""

_KINDS = (
    "mit|x11|bsd|0bsd|apache|asl|a?gpl|lgpl|lesser|lib|mpl|epl|eupl|isc|zlib|boost|bsl|cc|psf|"
    "python|artistic|unlicense|wtfpl|ofl"
)
_ENDING = r"(?:\.(?:txt|md|rst|markdown|html))?"
_PLAIN = re.compile(rf"(?:un)?(?:licen[cs]e|copying){_ENDING}", re.I)
_NAME = re.compile(rf"(?:un)?(?:licen[cs]e|copying)(?:[-_.](?:{_KINDS})[^/]*)?{_ENDING}", re.I)
_SPDX = re.compile(r"SPDX-License-Identifier:[ \t]*([A-Za-z0-9][^\n\r]*)")
_COMPOUND = re.compile(" (?:AND|OR) ")
_END = re.compile(r"\s*(?:\*/|-->|#\}|\*\)|[\"'`;]).*$")
HEAD = 4000
"""Characters at the head of a file that may hold its SPDX line."""

_TITLE = 400
"""Characters at the head of a licence text that hold its title."""

_TITLES = (
    (r"gnu affero general public licen[cs]e.{0,20}version 3", "AGPL-3.0"),
    (r"gnu lesser general public licen[cs]e.{0,20}version 3", "LGPL-3.0"),
    (r"gnu lesser general public licen[cs]e.{0,20}version 2 1", "LGPL-2.1"),
    (r"gnu library general public licen[cs]e.{0,20}version 2", "LGPL-2.0"),
    (r"gnu general public licen[cs]e.{0,20}version 3", "GPL-3.0"),
    (r"gnu general public licen[cs]e.{0,20}version 2", "GPL-2.0"),
    (r"gnu free documentation licen[cs]e", "GFDL"),
    (r"mozilla public licen[cs]e.{0,10}version 1 1", "MPL-1.1"),
    (r"mozilla public licen[cs]e.{0,10}version 2 0", "MPL-2.0"),
    (r"eclipse public licen[cs]e.{0,8}v(?:ersion)? ?1 0", "EPL-1.0"),
    (r"eclipse public licen[cs]e.{0,8}v(?:ersion)? ?2 0", "EPL-2.0"),
    (r"the artistic licen[cs]e 2 0", "Artistic-2.0"),
    (r"cc0 1 0 universal", "CC0-1.0"),
    (r"attribution sharealike 4 0 international", "CC-BY-SA-4.0"),
    (r"attribution noncommercial\S* .{0,20}4 0 international", "CC-BY-NC-4.0"),
    (r"attribution 4 0 international", "CC-BY-4.0"),
)
_SENTENCES = (
    (r"apache licen[cs]e,? version 2 0", "Apache-2.0"),
    (r"terms of the mozilla public licen[cs]e v(?:ersion)? 2 0", "MPL-2.0"),
    (r"boost software licen[cs]e version 1 0", "BSL-1.0"),
    (r"python software foundation licen[cs]e version 2", "PSF-2.0"),
    (r"this is free and unencumbered software released into the public domain", "Unlicense"),
    (r"do what the fuck you want to public licen[cs]e", "WTFPL"),
    (r"altered source versions must be plainly marked as such", "Zlib"),
    (r"commons clause", "LicenseRef-Commons-Clause"),
    (r"business source licen[cs]e", "BUSL-1.1"),
    (r"server side public licen[cs]e", "SSPL-1.0"),
    (r"the software shall be used for good not evil", "JSON"),
    (r"all rights reserved no part|proprietary and confidential", "LicenseRef-Proprietary"),
)


def is_licence_file(name: str) -> bool:
    """Whether a file of this name, without folders, holds a licence.

    `LICENSE-MIT` does; `license.py` and `license-rules.rst` do not.
    """
    if not _NAME.fullmatch(name):
        return False
    return language(name) in ("", "Markdown", "reStructuredText", "HTML")


def of_file(text: str) -> str:
    """Tell the licence of a repository from its LICENSE or COPYING.

    Returns:
        An SPDX name; several joined by AND; `UNKNOWN`.
    """
    own = of_header(text)
    if own:
        return own
    words = re.sub(r"[^a-z0-9]+", " ", text.lower())
    found = [name for pattern, name in _TITLES if re.search(pattern, words[:_TITLE])][:1]
    # The GNU texts and Creative Commons' speak of other licences; what follows a title does not.
    if not found:
        found = [name for pattern, name in _SENTENCES if re.search(pattern, words)]
        found += _grants(words)
    return " AND ".join(sorted(set(found))) or UNKNOWN


def _grants(words: str) -> list[str]:
    """Tell the licences that have no title: the MIT, ISC and BSD families."""
    found = []
    if "permission is hereby granted free of charge to any person obtaining a copy" in words:
        keeps = "and this permission notice shall be included in all copies" in words
        keeps = keeps or re.search("permission notice .{0,60}shall be included", words) is not None
        found.append("MIT" if keeps else "MIT-0")
    use = re.search(
        "permission to use copy modify (?:and )?(?:or )?distribute this software .{0,200}granted"
        "( provided that the above copyright notice (?:and this permission notice )?)?",
        words,
    )
    if use:
        # The stack of licences of Python ends with one of this family.
        terms = use[1] or ""
        name = "ISC" if "permission notice" in terms else "HPND" if terms else "0BSD"
        found += [] if "python software foundation" in words else [name]
    if "redistribution and use in source and binary forms" in words:
        if "all advertising materials mentioning features" in words:
            found.append("BSD-4-Clause")
        elif re.search("endorse or promote products", words):
            found.append("BSD-3-Clause")
        else:
            found.append("BSD-2-Clause")
    return found


def of_header(text: str) -> str:
    """Return what a file's own SPDX-License-Identifier says, empty without one."""
    found = _SPDX.search(text, 0, HEAD)
    return _END.sub("", found[1]).strip() if found else ""


def of_folder(files: Mapping[str, str]) -> str | None:
    """Tell the licence from all licence files of one folder: name -> text; None without a file.

    A file named just LICENSE or COPYING decides, all of them if there are several. With nothing
    but LICENSE-MIT and LICENSE-APACHE, the custom of Rust, one may choose: OR. So it is where the
    plain file only says that one may choose either.
    """
    plain = [text for name, text in files.items() if _PLAIN.fullmatch(name)]
    found = {of_file(text) for text in plain}
    others = {of_file(text) for name, text in files.items() if not _PLAIN.fullmatch(name)}
    chosen = found == {UNKNOWN} and others and re.search(r"\beither\b", plain[0])
    if plain and not chosen:
        return _joined(found, " AND ")
    return _joined(others, " OR ") or None


def _joined(expressions: set[str], word: str) -> str:
    if len(expressions) == 1:
        return next(iter(expressions))
    return word.join(f"({e})" if _COMPOUND.search(e) else e for e in sorted(expressions))


_TOKEN = re.compile(r"\(|\)|\bAND\b|\bOR\b", re.I)


def permitted(expression: str, prefixes: Sequence[str]) -> bool:
    """Whether a licence expression can be met by licences that begin with one of the prefixes.

    `A OR B` needs one of the two, `A AND B` both; `WITH` an exception changes nothing. Capitals do
    not count: RedPajama's query was `LIKE 'mit%'` on names in small letters.
    """
    tokens, at = [], 0
    for found in _TOKEN.finditer(expression):
        tokens += [expression[at : found.start()].strip(), found[0].upper()]
        at = found.end()
    tokens = [token for token in (*tokens, expression[at:].strip()) if token]
    lowered = tuple(prefix.lower() for prefix in prefixes)
    value, rest = _alternatives(tokens, lowered)
    return value and not rest


def _alternatives(tokens: list[str], prefixes: tuple[str, ...]) -> tuple[bool, list[str]]:
    value, rest = _together(tokens, prefixes)
    while rest and rest[0] == "OR":
        other, rest = _together(rest[1:], prefixes)
        value = value or other
    return value, rest


def _together(tokens: list[str], prefixes: tuple[str, ...]) -> tuple[bool, list[str]]:
    value, rest = _one(tokens, prefixes)
    while rest and rest[0] == "AND":
        other, rest = _one(rest[1:], prefixes)
        value = value and other
    return value, rest


def _one(tokens: list[str], prefixes: tuple[str, ...]) -> tuple[bool, list[str]]:
    if not tokens or tokens[0] in (")", "AND", "OR"):
        return False, []
    if tokens[0] == "(":
        value, rest = _alternatives(tokens[1:], prefixes)
        return (value, rest[1:]) if rest and rest[0] == ")" else (False, [])
    return tokens[0].lower().removeprefix("the ").startswith(prefixes), tokens[1:]
