"""Templates whose text is one of their arguments, by their names in the English Wikipedia.

Wikipedias in other languages share many of these names. Everything else that a template prints is
in the template's own page, which a dump's articles do not hold.
"""

from __future__ import annotations

import re

LONGEST = 2_000
"""Characters of a template that is looked into."""

_FIRST = frozenset(
    ("nowrap", "nobr", "nobreak", "small", "smaller", "big", "larger", "nobold", "noitalic", "mvar",
     "var", "em", "strong", "abbr", "tooltip", "sic", "formatnum", "number", "as of", "start date",
     "smallcaps", "sc", "sc2", "math", "uc", "ucfirst", "lc", "lcfirst", "linktext", "visible anchor",
     "vanchor", "center", "quote", "blockquote", "cquote", "wikt-lang", "ill", "interlanguage link",
     "not a typo", "nihongo", "flag", "flagcountry", "val", "nihongo", "flag", "flagcountry", "val", "proper name", "keypress", "key", "code", "samp", "kbd", "angle bracket", "bdi")
)  # fmt: skip
_SECOND = frozenset(
    ("lang", "langue", "transl", "transliteration", "script", "lang-x", "color", "wt")
)
_LANGUAGE = re.compile(r"lang-[a-z]{2,3}(?:-[a-z]+)*", re.A)
_CONVERT = frozenset(("convert", "cvt", "conv"))
_CIRCA = frozenset(("circa", "c.", "ca.", "ca"))
_NUMBER = re.compile(r"[\d.,/ +−-]+")
_NAMED = re.compile(r"\s*[\w -]{1,30}=")
_BETWEEN = {"to": " to ", "-": "–", "–": "–", "and": " and ", "by": " by ", "x": " × ", "×": " × ",
            "or": " or "}  # fmt: skip


def text_of(template: str) -> str:
    """Return the text that a template prints, of those known here; else none.

    Args:
        template: what is between the braces; templates inside are replaced already.
    """
    if len(template) > LONGEST:
        return ""
    name, *arguments = _split(template)
    name = " ".join(name.replace("_", " ").split()).lower()
    if ":" in name:  # {{formatnum:1234}}
        name, _, first = name.partition(":")
        arguments.insert(0, first)
    plain = [part for part in arguments if not _NAMED.match(part)]
    if name in _FIRST or _LANGUAGE.fullmatch(name):
        return plain[0].strip() if plain else ""
    if name in _SECOND:
        return plain[1].strip() if len(plain) > 1 else ""
    if name in _CONVERT:
        return _converted([part.strip() for part in plain])
    if name in _CIRCA:
        return f"c. {plain[0].strip()}" if plain else ""
    if name in ("frac", "sfrac") and 1 < len(plain) < 4:
        whole = f"{plain[0].strip()} " if len(plain) == 3 else ""
        return f"{whole}{plain[-2].strip()}/{plain[-1].strip()}"
    return {"!": "|", "ndash": "–", "mdash": "—", "spaced ndash": " – ", "snd": " – ", "nbsp": " ",
            "=": "=", "'": "'", "en dash": "–", "em dash": "—", "·": " · "}.get(name, "")  # fmt: skip


def _converted(arguments: list[str]) -> str:
    """`{{convert|5|to|6|km}}`: numbers and the unit in front, as written."""
    text = ""
    for argument in arguments:
        if _NUMBER.fullmatch(argument):
            text += argument
        elif argument in _BETWEEN and text:
            text += _BETWEEN[argument]
        else:
            return f"{text} {argument}" if text else ""
    return text


def _split(template: str) -> list[str]:
    """Cut at the bars that are not inside a link."""
    if "[[" not in template:
        return template.split("|")
    parts, depth = [""], 0
    for piece in re.split(r"(\[\[|\]\]|\|)", template):
        depth += (piece == "[[") - (piece == "]]")
        if piece == "|" and depth <= 0:
            parts.append("")
        else:
            parts[-1] += piece
    return parts
