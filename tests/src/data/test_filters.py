"""Filters: each rule drops what it names, and nothing else; a column decides, not the text."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alpenglow.data.document import Document
from alpenglow.data.filters import (
    PRESETS,
    SIGNALS,
    Bound,
    Rule,
    resolve,
    rules,
    select,
    select_all,
)
from alpenglow.data.signals import SignalSettings, compute

PROSE = "The quick brown fox jumps over the lazy dog and goes home again.\n" * 4
CODE = "def add(a: int, b: int) -> int:\n    return a + b\n" * 5
TEXT_SLICE, CODE_SLICE = ("basic", "prose"), ("basic", "code")


def reason(
    text: str, presets: Sequence[str], settings: SignalSettings | None = None, **more: float
) -> str | None:
    """The rule that drops a text, among others that no rule drops."""
    documents = [Document(one, "books", "a", "CC0-1.0") for one in (PROSE, text, CODE)]
    columns, _ = compute(documents, settings or SignalSettings(lines=False))
    columns |= {name: np.full(3, value) for name, value in more.items()}
    chosen = rules(presets, {})
    index = select(columns, chosen)[1]
    return None if index < 0 else chosen[index].name


@pytest.mark.parametrize(
    ("text", "presets", "wanted"),
    [
        (PROSE, TEXT_SLICE, None),
        (CODE, CODE_SLICE, None),
        (PROSE[:99], TEXT_SLICE, "too short"),
        (PROSE[:100], TEXT_SLICE, None),
        (PROSE * 10_000, TEXT_SLICE, "too long"),
        (PROSE + "\0", TEXT_SLICE, "binary"),
        (PROSE + "\ud800", TEXT_SLICE, "not Unicode"),
        ("-- .. ++ a b c\n" * 20, TEXT_SLICE, "few letters and digits"),
        ("abandoned\ncolour\n" * 40, TEXT_SLICE, "not prose"),
        ("abandoned\ncolour\n" * 40, CODE_SLICE, None),
        (CODE + "x = " + "1" * 1000, CODE_SLICE, "a long line"),
        (CODE * 6 + "x = " + "1" * 996, CODE_SLICE, None),
        (("y" * 120 + "\n") * 5, CODE_SLICE, "long lines"),
        (CODE, ("redpajama_github",), None),
    ],
)
def test_rule(text: str, presets: Sequence[str], wanted: str | None) -> None:
    assert reason(text, presets, letters_per_token=2.0) == wanted


WORDS = """
amber bridge candle dragon engine forest garden harbour island jungle kitchen ladder mirror needle
orchard pepper quarry ribbon saddle temple umbrella velvet window yellow zipper anchor basket copper
desert ember falcon guitar helmet insect jacket kettle lantern magnet napkin olive pencil rabbit
silver tunnel violin walnut
""".split()  # noqa: SIM905


def essay(count: int) -> str:
    """Sentences of ten words that say everything once, with stop words."""
    rng = np.random.default_rng(1)
    found = []
    for _ in range(count):
        words = rng.choice(WORDS, 8, replace=False).tolist()
        found.append("The " + " ".join(words[:4]) + " of " + " ".join(words[4:]) + ".")
    return "\n".join(found) + "\n"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (essay(30), None),
        (essay(3), "gopher: few words"),
        ("a b to be of it " * 40, "gopher: short words"),
        (essay(30).replace(" ", ""), "gopher: few words"),
        ("extraordinarily incomprehensibility the and uncharacteristically " * 40,
         "gopher: long words"),
        (essay(30).replace("The", "# # The"), "gopher: many hash signs"),
        (essay(30).replace("The", "... ... The"), "gopher: many ellipses"),
        (essay(30).replace("The", "\u2022 The"), "gopher: mostly bullet points"),
        (essay(30).replace(".\n", "...\n"), "gopher: lines cut by an ellipsis"),
        (essay(30).replace("The", "123 4567 890 The"), "gopher: words without letters"),
        (essay(30).replace("The ", "").replace("of ", ""), "gopher: few stop words"),
        (essay(30) + "a line\n" * 30, "gopher: repeated lines"),
        ((essay(4) + "\n") * 5, "gopher: repeated lines"),
        (essay(30) + "".join(f"{word} x.\n\ny z\n\n" for word in WORDS),
         "gopher: repeated lines"),
        (essay(30) + (essay(3).replace("\n", " ") + "\n") * 4, "gopher: text in repeated lines"),
        (essay(30) + "".join(f"of the of the {word}\n" for word in WORDS * 2).replace("\n", " "),
         "gopher: one run of 2 words"),
        (essay(30) + "".join(f"{word} {essay(2)[:90]}" for word in WORDS[:9]).replace("\n", " "),
         "gopher: repeated runs of 5 words"),
    ],
)  # fmt: skip
def test_gopher(text: str, wanted: str | None) -> None:
    assert reason(text, ["gopher"]) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (essay(30), None),
        (essay(2), "c4: few sentences"),
        (essay(30) + "Lorem ipsum dolor sit amet.\n", "c4: lorem ipsum"),
        (essay(30) + "if (x) { y }\n", "c4: curly bracket"),
        (essay(30).replace("amber", "darn"), "c4: bad words"),
        (essay(30).replace(".", ""), "c4: few sentences"),
        (essay(30).replace(".", " JavaScript."), "c4: few sentences"),
        (essay(30).replace(".", " use cookies."), "c4: few sentences"),
    ],
)
def test_c4(tmp_path: Path, text: str, wanted: str | None) -> None:
    words = tmp_path / "bad"
    words.write_text("darn\n")
    assert reason(text, ["c4"], SignalSettings(bad_words=words)) == wanted
    without = None if wanted == "c4: bad words" else wanted
    assert reason(text, ["c4"]) == without


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (essay(30), None),
        (essay(30).replace(".", ""), "fineweb: lines without an end mark"),
        (essay(30) + essay(30)[:400], "fineweb: text in repeated lines"),
        (essay(10) + "".join(f"{word}.\n" for word in WORDS), "fineweb: short lines"),
        (essay(12) + "".join(f"{word}.\n\n\n" for word in WORDS[:20]), "fineweb: a list"),
    ],
)
def test_fineweb(text: str, wanted: str | None) -> None:
    assert reason(text, ["fineweb"]) == wanted


def test_papers_drop_at_their_threshold_where_they_say_so() -> None:
    columns = {
        "terminal_line_share": np.array([0.12, 0.1201]),
        "duplicate_line_characters_of_lines": np.array([0.0, 0.0999]),
        "short_line_share": np.array([0.0, 0.6699]),
        "newlines_per_word": np.array([0.0, 0.3]),
    }
    chosen = rules(["fineweb"], {})
    assert select(columns, chosen).tolist() == [0, -1]
    columns["terminal_line_share"][0] = 1
    columns["duplicate_line_characters_of_lines"][0] = 0.1
    columns["short_line_share"][1] = 0.67
    assert select(columns, chosen).tolist() == [1, 2]


def test_redpajama_commoncrawl() -> None:
    columns: dict[str, Any] = {
        "ccnet_original_length": np.array([300.0, 299, 300, 300, 300, 300]),
        "ccnet_language_score": np.array([0.5, 0.5, 0.49, 0.5, 0.5, np.nan]),
        "ccnet_bucket": np.array([1, 1, 1, 2, 1, 1]),
        "rps_doc_ml_wikiref_score": np.array([0.25, 0.9, 0.9, 0.9, 0.24, 0.9]),
    }
    assert select(columns, rules(["redpajama_commoncrawl"], {})).tolist() == [-1, 0, 1, 2, 3, 1]


def test_select_all_tells_every_rule() -> None:
    columns = {"characters": np.array([1, 10**7, 500]), "x": np.array([0.0, 1.0, np.nan])}
    chosen = (Rule("short", "characters", least=100), Rule("x", "x", least=0.5, most=2),
              Rule("none", "y", most=1, optional=True))  # fmt: skip
    wanted = [[True, False, False], [True, False, True], [False, False, False]]
    assert select_all(columns, chosen).tolist() == wanted
    assert select(columns, chosen).tolist() == [0, -1, 1]
    assert select(columns, ()).tolist() == [-1, -1, -1]


def test_thresholds_replace_bounds_by_rule_and_by_column() -> None:
    by_rule = rules(["basic"], {"too short": Bound(least=7)})
    assert [rule.name for rule in by_rule] == [rule.name for rule in PRESETS["basic"]]
    assert by_rule[0] == Rule("too short", "characters", least=7)
    by_column = rules(["basic"], {"characters": Bound(least=7)})
    assert by_column == by_rule
    both = rules(["basic"], {"characters": Bound(least=7, most=8)})
    assert [(rule.least, rule.most) for rule in both[:2]] == [(7, None), (None, 8)]
    # What no rule bounds on that side becomes a rule of its own, after the others.
    own = rules(["basic"], {"alphanumeric_share": Bound(most=0.9), "tokens": Bound("5%")})
    assert own[-2:] == (
        Rule("alphanumeric_share", "alphanumeric_share", most=0.9),
        Rule("tokens", "tokens", "5%"),
    )
    assert own[:-2] == PRESETS["basic"]
    assert rules([], {"rps_doc_ml_mine_score": Bound(least=0.1)})[0].least == 0.1


def test_percentiles_are_of_the_column() -> None:
    columns = {"rps_doc_ml_mine_score": np.array([0.1, 0.2, np.nan, 0.3, 0.4, 0.5])}
    chosen = rules([], {"rps_doc_ml_mine_score": Bound(least="50%")})
    with pytest.raises(ValueError, match="is not resolved"):
        select(columns, chosen)
    resolved = resolve(chosen, columns)
    assert resolved[0].least == 0.3
    assert select(columns, resolved).tolist() == [0, 0, 0, -1, -1, -1]
    nothing = resolve(chosen, {"rps_doc_ml_mine_score": np.array([np.nan])})
    assert nothing[0].least is None


@pytest.mark.parametrize(
    ("presets", "thresholds", "message"),
    [
        (["gohper"], {}, "unknown preset 'gohper'; did you mean 'gopher'"),
        (["basic", "basic"], {}, "named twice"),
        (["basic"], {"to short": Bound(1)}, "named 'to short'; did you mean 'too short'"),
        (["basic"], {"characterz": Bound(1)}, "did you mean 'characters'"),
    ],
)
def test_unknown_names(presets: list[str], thresholds: dict[str, Bound], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rules(presets, thresholds)


@pytest.mark.parametrize(
    ("least", "most"),
    [("60", None), (None, "101%"), ("x%", None), (2.0, 1.0), (float("nan"), None)],
)
def test_bounds_that_mean_nothing(least: Any, most: Any) -> None:
    with pytest.raises(ValueError, match=r"percentile|keep nothing|bounds nothing"):
        Bound(least, most)


def test_a_column_that_is_absent() -> None:
    columns = {"longest_lines": np.zeros(1)}
    with pytest.raises(ValueError, match="needs the column 'longest_line', which is absent; the"):
        select(columns, rules(["code"], {}))


def test_every_preset_names_columns_that_there_are(tmp_path: Path) -> None:
    words = tmp_path / "list"
    words.write_text("darn\n")
    settings = SignalSettings(bad_words=words, blocked_domains=words)
    columns, _ = compute([Document(PROSE, "books", "a", "")], settings)
    of_others = {"tokens", "letters_per_token", "ccnet_bucket", "ccnet_perplexity"}
    assert set(columns) | of_others == set(SIGNALS)
    names: set[str] = set()
    for preset in PRESETS.values():
        for rule in preset:
            assert rule.signal in SIGNALS or rule.signal.startswith("rps_doc_ml_")
            assert (rule.least is None) != (rule.most is None), rule
            names.add(rule.name)
    assert len(names) == sum(map(len, PRESETS.values()))


def test_toxicity(tmp_path: Path) -> None:
    words = tmp_path / "list"
    words.write_text("darn\n")
    domains = tmp_path / "domains"
    domains.write_text("bad.example\n")
    good = Document(PROSE, "commoncrawl", "a", "", url="https://good.example/x")
    documents = [good, dataclasses.replace(good, text=PROSE + "darn " * 5),
                 dataclasses.replace(good, url="https://www.bad.example/")]  # fmt: skip
    columns, _ = compute(documents, SignalSettings(bad_words=words, blocked_domains=domains))
    chosen = rules(["toxicity"], {})
    assert select(columns, chosen).tolist() == [-1, 0, 1]
    columns["rps_doc_ml_toxicity_score"] = np.array([0.9, 0.1, 0.1])
    assert select(columns, chosen).tolist() == [2, 0, 1]
