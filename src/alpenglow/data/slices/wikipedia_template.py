"""Templates whose text is one of their arguments, by their names in the English Wikipedia.

Wikipedias in other languages share many of these names. Everything else that a template prints is
in the template's own page, which a dump's articles do not hold.
"""

from __future__ import annotations

import re

_SIGNS = {"!": "|", "=": "=", "'": "'", "·": " · ", "nbsp": " ", "ndash": "–", "en dash": "–",
          "mdash": "—", "em dash": "—", "spaced ndash": " – ", "snd": " – "}  # fmt: skip
LONGEST = 2_000
"""Characters of a template that is looked into."""

_FIRST = frozenset(
    ("abbr", "as of", "bdi", "big", "blockquote", "center", "code", "cquote", "em", "flag",
     "flagcountry", "formatnum", "ill", "interlanguage link", "kbd", "key", "keypress", "larger",
     "lc", "lcfirst", "linktext", "math", "mvar", "nihongo", "nobold", "nobr", "nobreak",
     "noitalic", "not a typo", "nowrap", "number", "proper name", "quote", "samp", "sc", "sc2",
     "sic", "small", "smallcaps", "smaller", "start date", "strong", "tooltip", "uc", "ucfirst",
     "val", "vanchor", "var", "visible anchor", "wikt-lang")
)  # fmt: skip
_SECOND = frozenset(
    ("color", "lang", "lang-x", "langue", "script", "transl", "transliteration", "wt")
)  # fmt: skip
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
    if name in ("angbr", "angle bracket") and plain:
        return f"⟨{plain[0].strip()}⟩"
    if name in _CIRCA:
        return f"c. {plain[0].strip()}" if plain else ""
    if name in ("frac", "sfrac") and 1 < len(plain) < 4:
        whole = f"{plain[0].strip()} " if len(plain) == 3 else ""
        return f"{whole}{plain[-2].strip()}/{plain[-1].strip()}"
    return _SIGNS.get(name, "")


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
