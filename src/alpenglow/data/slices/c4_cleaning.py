"""C4's rules for the text of a web page: lines that are sentences stay, pages of junk go.

From Raffel et al. 2020 (arXiv 1910.10683, section 2.2) as its published builder does it
(tensorflow/datasets, `text/c4_utils.py`, clean_page), in this order for each line: no word of more
than 1,000 characters; citation marks ([1], [edit], [citation needed]) are cut out; an end mark, one
of . ? ! ", but no ellipsis; at least 5 words. A line that passes these ends the page where it holds
"lorem ipsum" or a curly bracket or, where a list is given, a bad word, and goes where it speaks of
javascript or of policies. A page keeps at least 3 sentences and had at most 190,000 characters.
Where paper and builder differ, the builder's numbers stand, since they made what was published (the
paper says 3 words a line, 5 sentences a page); a recipe may say otherwise.

Not as there: sentences are counted by a rule of our own (the builder asks NLTK's punkt model), the
language is lid.176's (the builder asks langdetect for 0.99; the scales differ, and FineWeb takes
0.65 of lid.176), and no line is compared with other pages here: the stage of paragraphs does that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from alpenglow.data.document import DataError

CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
END_MARKS = (".", "?", "!", '"')
ELLIPSIS = "..."
POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies",
          "use cookies")  # fmt: skip
_END = re.compile(r"([.!?]+)[\"'”’)\]]*(?=\s|$)")
_SHORT = (
    "mr mrs ms dr prof sr jr st vs etc e.g i.e cf fig no vol inc ltd co corp dept est approx jan"
    " feb mar apr jun jul aug sep sept oct nov dec gen col lt capt sgt rev hon u.s u.k a.m p.m"
)
_ABBREVIATIONS = frozenset(_SHORT.split())


@dataclass(frozen=True)
class Rules:
    """What `[slices.c4.rules]` may say; all but `paragraphs` is for WET texts alone."""

    language: str = "en"
    language_score: float = 0.65
    """Least score of lid.176 after cleaning."""
    words_per_line: int = 5
    sentences_per_page: int = 3
    longest_word: int = 1000
    """Characters."""
    max_characters: int = 190_000
    """Of a page before cleaning (the builder's is_valid_length)."""
    bad_words: Path | None = None
    """A word or phrase a line, UTF-8; a page with one of them goes. Absent: no such rule."""
    paragraphs: bool = False
    """Drop lines that the group has had already (alpenglow.data.paragraphs)."""
    paragraph_group: int = 1
    """Units whose lines are compared."""

    def __post_init__(self) -> None:
        if not 0 <= self.language_score <= 1:
            raise ValueError(f"language_score = {self.language_score} should lie in 0 to 1")
        for name in ("longest_word", "max_characters", "paragraph_group"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} should be 1 or more")


@dataclass(frozen=True)
class Cleaned:
    """A page after cleaning."""

    text: str
    """Of a page that goes: the lines up to what made it go, for people to read."""
    fault: str
    trimmed: Mapping[str, int]
    """Rule -> bytes taken out; with the text they are all that was read."""


class Cleaner:
    """Applies the rules to pages.

    Raises:
        DataError: the list of bad words cannot be read.
    """

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._bad_words = None if rules.bad_words is None else _pattern(rules.bad_words)

    def clean(self, page: str, size: int) -> Cleaned:
        r"""Clean one page.

        Args:
            page: its text, `\n` between lines.
            size: bytes that it was read from.
        """
        rules = self._rules
        if len(page) > rules.max_characters:
            return Cleaned(page, "longer than max_characters", {})
        kept: list[str] = []
        trimmed: dict[str, int] = {}
        sentences = 0
        for raw in page.splitlines():
            stripped = raw.strip()
            if not stripped:
                continue
            line = CITATION.sub("", stripped) if "[" in stripped else stripped
            rule = self._no_sentence(stripped, line) or self._junk(line)
            if rule.startswith("page: "):
                return Cleaned("\n".join([*kept, line]), rule.removeprefix("page: "), {})
            if rule:
                _count(trimmed, rule, stripped)
                continue
            if len(line) < len(stripped):
                trimmed["citation"] = trimmed.get("citation", 0) + _bytes(stripped) - _bytes(line)
            sentences += count_sentences(line)
            kept.append(line)
        text = "\n".join(kept).strip()
        if not text or sentences < rules.sentences_per_page:
            return Cleaned(text, "too few sentences", {})
        rest = size - _bytes(text) - sum(trimmed.values())
        if rest > 0:
            trimmed["white space"] = rest
        return Cleaned(text, "", trimmed)

    def _no_sentence(self, stripped: str, line: str) -> str:
        """Name the rule by which a line is none of prose; "" where it is."""
        rules = self._rules
        most = rules.longest_word
        if len(stripped) > most and max(map(len, stripped.split())) > most:
            return "too long word"
        if not line.endswith(END_MARKS) or line.endswith(ELLIPSIS):
            return "no end mark"
        if len(line.split()) < rules.words_per_line:
            return "too few words"
        return ""

    def _junk(self, line: str) -> str:
        """Name the rule that takes a line of prose; "page: ..." where it takes the page."""
        lowered = line.lower()
        if "lorem ipsum" in lowered:
            return "page: lorem ipsum"
        if "javascript" in lowered:
            return "javascript"
        if "{" in line:
            return "page: curly bracket"
        if any(phrase in lowered for phrase in POLICY):
            return "policy"
        if self._bad_words is not None and self._bad_words.search(f" {lowered} "):
            return "page: bad word"
        return ""


def count_sentences(line: str) -> int:
    """Count the sentences of a line, at least one where it has a word.

    A sentence ends with . ! or ? before white space or the end, not with an abbreviation or an
    initial within the line.
    """
    count, end = 0, 0
    for found in _END.finditer(line):
        if found[1] == "." and found.end() < len(line):
            # A word is not longer than 1,000 characters here; an abbreviation is far shorter.
            before = line[max(0, found.start() - 40) : found.start()].split()
            last = before[-1].lstrip("\"'(“‘[").lower() if before else ""
            if last in _ABBREVIATIONS or (len(last) == 1 and last.isalpha()):
                continue
        count, end = count + 1, found.end()
    return count + bool(line[end:].strip())


def _pattern(path: Path) -> re.Pattern[str]:
    try:
        words = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a list of words, one a line ({error})") from None
    listed = sorted({word.strip().lower() for word in words if word.strip()})
    if not listed:
        raise DataError(f"{path}: holds no word")
    return re.compile(f"[^a-z](?:{'|'.join(map(re.escape, listed))})[^a-z]")


def _count(trimmed: dict[str, int], rule: str, line: str) -> None:
    trimmed[rule] = trimmed.get(rule, 0) + _bytes(line)


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
