"""The same signals in plain Python, one document after another: slow, and easy to read.

Tests compare `compute` with this, value by value, and `alpenglow.data.bench_signals` its speed.
Nothing here is shared with the columns but the lists of words.
"""

from __future__ import annotations

import itertools
import math
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

Values = dict[str, float]

_TOKEN = re.compile(r"\w+|[^\w\s]+")
_SENTENCE = re.compile(r"\b[^.!?]+[.!?]*")
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_BULLETS = tuple("\u2022\u2023\u25b6\u25c0\u25e6\u25a0\u25a1\u25aa\u25ab\u2013")
_STOPS = tuple(".!?\"'\u201d\u2019\u2026\u3002\uff01\uff1f\u0964\u061f\u06d4\u300d\u300f\u00bb")
_POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies",
           "use cookies")  # fmt: skip


def document(text: str, stop_words: Sequence[str], common: Sequence[str]) -> Values:
    """Return the signals of a text.

    Args:
        text: of a document.
        stop_words: of the language.
        common: stop words that Gopher asks for.
    """
    words = normalised(text).split()
    tokens = _TOKEN.findall(text)
    return {
        **_words(text, words, common),
        **_repetition(words),
        **_tokens(text, tokens, frozenset(stop_words), len(words)),
        **_lines(text),
        **_duplicates(text),
        "ccnet_length": len(text),
        "ccnet_nlines": text.count("\n") + (text != ""),
    }


def normalised(text: str) -> str:
    """Return a text in small letters without ASCII punctuation, NFD, white space as one space."""
    text = " ".join(text.translate(_PUNCTUATION).lower().split())
    return unicodedata.normalize("NFD", text)


def _share(part: float, whole: float, empty: float = 0.0) -> float:
    return part / whole if whole else empty


def _words(text: str, words: list[str], common: Sequence[str]) -> Values:
    whole = normalised(text)
    counts = Counter(words)
    return {
        "rps_doc_word_count": len(words),
        "rps_doc_mean_word_length": _share(sum(map(len, words)), len(words), math.nan),
        "rps_doc_lorem_ipsum": _share(len(re.findall("lorem ipsum", whole)), len(whole)),
        "stop_words": len(set(common) & set(words)),
        "rps_doc_frac_unique_words": _share(len(counts), len(words), math.nan),
        "rps_doc_unigram_entropy": -sum(
            count / len(words) * math.log(count / len(words)) for count in counts.values()
        )
        if words
        else math.nan,
    }


def _repetition(words: list[str]) -> Values:
    found: Values = {}
    characters = sum(map(len, words))
    for size in range(2, 11):
        runs = list(zip(*(words[begin:] for begin in range(size)), strict=False))
        counts = Counter(runs)
        if size <= 4:
            run, count = counts.most_common(1)[0] if counts else ((), 0)
            top = sum(map(len, run)) * count / characters if count > 1 else 0.0
            found[f"rps_doc_frac_chars_top_{size}gram"] = top
        else:
            inside = [False] * len(words)
            for begin, run in enumerate(runs):
                if counts[run] > 1:
                    inside[begin : begin + size] = [True] * size
            found[f"rps_doc_frac_chars_dupe_{size}grams"] = _share(
                sum(len(word) for word, repeated in zip(words, inside, strict=True) if repeated),
                characters,
            )
    return found


def _tokens(text: str, tokens: list[str], stop_words: frozenset[str], words: int) -> Values:
    size, count = len(text), len(tokens)
    curly = text.count("{") + text.count("}")
    ellipses = text.count("...") + text.count("\u2026")
    chunks = text.split()
    return {
        "characters": size,
        "alphanumeric_share": _share(sum(map(str.isalnum, text)), size),
        "alphabetic_characters": sum(map(str.isalpha, text)),
        "binary": "\0" in text,
        "not_unicode": any("\ud800" <= character <= "\udfff" for character in text),
        "curly_brackets": curly,
        "rps_doc_curly_bracket": _share(curly, size),
        "rps_doc_num_sentences": len(_SENTENCE.findall(text)),
        "rps_doc_symbol_to_word_ratio": _share(ellipses + text.count("#"), count, math.nan),
        "rps_doc_frac_all_caps_words": _share(sum(map(str.isupper, tokens)), count, math.nan),
        "rps_doc_frac_no_alph_words": _share(
            sum(re.search("[a-zA-Z]", token) is None for token in tokens), count, math.nan
        ),
        "rps_doc_stop_word_fraction": _share(sum(token in stop_words for token in tokens), count),
        "alphabetic_word_share": _share(
            sum(any(map(str.isalpha, chunk)) for chunk in chunks), len(chunks), math.nan
        ),
        "hash_symbols_per_word": text.count("#") / max(words, 1),
        "ellipses_per_word": ellipses / max(words, 1),
        "newlines_per_word": _share(text.count("\n"), count, math.nan),
    }


def _lines(text: str) -> Values:
    lines = _LINE.findall(text)
    inked = [line for line in lines if line.strip()]
    split = text.splitlines()
    filled = [line for line in split if line.strip()]
    kept = [line for line in lines if _kept_by_c4(line)]
    return {
        "rps_doc_frac_lines_end_with_ellipsis": _share(
            sum(line.rstrip().endswith(("...", "\u2026")) for line in lines), len(lines), math.nan
        ),
        "prose_line_share": _share(sum(len(line.split()) >= 4 for line in filled), len(filled)),
        "longest_line": max(map(len, split), default=0),
        "mean_line_length": _share(len(text), len(split)),
        "bullet_line_share": _share(
            sum(line.lstrip().startswith(_BULLETS) for line in inked), len(inked)
        ),
        "terminal_line_share": _share(
            sum(line.rstrip().endswith(_STOPS) for line in inked), len(inked)
        ),
        "short_line_share": _share(
            sum(len(line.removesuffix("\n")) <= 30 for line in inked), len(inked)
        ),
        "javascript_lines": sum("javascript" in _small(line) for line in lines),
        "policy_lines": sum(any(phrase in _small(line) for phrase in _POLICY) for line in lines),
        "c4_line_share": _share(len(kept), len(inked)),
        "c4_sentences": sum(
            len(_SENTENCE.findall(line.removesuffix("\n"))) for line in kept
        ),
    }  # fmt: skip


def _small(line: str) -> str:
    return line.encode("utf-8", "surrogatepass").lower().decode("utf-8", "surrogatepass")


def _kept_by_c4(line: str) -> bool:
    end = line.rstrip()
    return (
        end.endswith((".", "!", "?", '"'))
        and not end.endswith("...")
        and len(line.split()) >= 5
        and "javascript" not in _small(line)
        and not any(phrase in _small(line) for phrase in _POLICY)
    )


def _duplicates(text: str) -> Values:
    lines = text.split("\n")
    inked = [line for line in lines if line.strip()]
    paragraphs = [
        "\n".join(group)
        for filled, group in itertools.groupby(lines, lambda line: bool(line.strip()))
        if filled
    ]
    line_count, line_size = _again(inked)
    paragraph_count, paragraph_size = _again(paragraphs)
    return {
        "duplicate_line_share": _share(line_count, len(inked)),
        "duplicate_line_characters": _share(line_size, len(text)),
        "duplicate_line_characters_of_lines": _share(line_size, len(text) - text.count("\n")),
        "duplicate_paragraph_share": _share(paragraph_count, len(paragraphs)),
        "duplicate_paragraph_characters": _share(paragraph_size, len(text)),
    }


def _again(pieces: Iterable[str]) -> tuple[int, int]:
    seen: set[str] = set()
    count = size = 0
    for piece in pieces:
        if piece in seen:
            count += 1
            size += len(piece)
        seen.add(piece)
    return count, size


def lines(text: str) -> list[Values]:
    """Return RedPajama v2's signals of each line of a text."""
    found = []
    for line in _LINE.findall(text):
        whole = normalised(line)
        words = whole.split()
        found.append(
            {
                "rps_lines_ending_with_terminal_punctution_mark": line.rstrip().endswith(
                    (".", "!", "?", "\u201d")
                ),
                "rps_lines_javascript_counts": words.count("javascript"),
                "rps_lines_num_words": len(words),
                "rps_lines_numerical_chars_fraction": _share(
                    sum(map(str.isnumeric, whole)), len(whole)
                ),
                "rps_lines_start_with_bulletpoint": line.lstrip().startswith(_BULLETS),
                "rps_lines_uppercase_letter_fraction": sum(map(str.isupper, line)) / len(line),
            }
        )
    return found
