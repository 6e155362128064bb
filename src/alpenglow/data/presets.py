"""Published filters as rules over columns of signals: names that a recipe's `presets` lists.

Sources of the thresholds:

- RedPajama v1: data_prep/github/github_run_filter.py and data_prep/cc of its repository, branch
  rp_v1 (cc_net's own defaults where it changes none);
- Gopher: Rae et al. 2021 (arXiv 2112.11446), section A.1.1 and Table A1;
- C4: Raffel et al. 2020 (JMLR 21-140), section 2.2, with the numbers of its builder (c4_utils.py
  of TensorFlow Datasets: 3 sentences of lines with 5 words, where the paper says 5 and 3); single
  lines are removed where the text is made (`slices.c4`), here stands what removes a page;
- FineWeb: Penedo et al. 2024 (arXiv 2406.17557), section 3.6; it runs after Gopher's and C4's.

The names of rules are the reasons that the ledger shows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

from alpenglow.data.rule import Rule


def below(value: float) -> float:
    """Return the largest number under one: papers drop at their threshold, rules keep at theirs."""
    return math.nextafter(value, -math.inf)


def above(value: float) -> float:
    """Return the smallest number over one."""
    return math.nextafter(value, math.inf)


BASIC = (
    Rule("too short", "characters", least=100),
    Rule("too long", "characters", most=2_000_000),
    Rule("binary", "binary", most=0),
    Rule("not Unicode", "not_unicode", most=0),
    # RedPajama v1's share for GitHub, here for every slice.
    Rule("few letters and digits", "alphanumeric_share", least=0.25),
)

PROSE = (Rule("not prose", "prose_line_share", least=0.2),)
"""Word lists, tables of contents and logs of single words have few lines of four words."""

CODE = (
    # RedPajama v1, github_run_filter.py.
    Rule("a long line", "longest_line", most=1000),
    Rule("long lines", "mean_line_length", most=100),
)

REDPAJAMA_GITHUB = (
    Rule("redpajama: empty", "characters", least=1),
    Rule("redpajama: a long line", "longest_line", most=1000),
    Rule("redpajama: long lines", "mean_line_length", most=100),
    Rule("redpajama: few letters and digits", "alphanumeric_share", least=0.25),
    Rule("redpajama: few letters a token", "letters_per_token", least=1.5),
)

REDPAJAMA_COMMONCRAWL = (
    # cc_net: min_len, lang_threshold; RedPajama keeps head and middle, and a probability of 0.25.
    Rule("redpajama: too short", "ccnet_original_length", least=300),
    Rule("redpajama: language not sure", "ccnet_language_score", least=0.5),
    Rule("redpajama: perplexity", "ccnet_bucket", most=1),
    Rule("redpajama: unlike Wikipedia's references", "rps_doc_ml_wikiref_score", least=0.25),
)

GOPHER = (
    Rule("gopher: few words", "rps_doc_word_count", least=50),
    Rule("gopher: many words", "rps_doc_word_count", most=100_000),
    Rule("gopher: short words", "rps_doc_mean_word_length", least=3),
    Rule("gopher: long words", "rps_doc_mean_word_length", most=10),
    Rule("gopher: many hash signs", "hash_symbols_per_word", most=0.1),
    Rule("gopher: many ellipses", "ellipses_per_word", most=0.1),
    Rule("gopher: mostly bullet points", "bullet_line_share", most=0.9),
    Rule("gopher: lines cut by an ellipsis", "rps_doc_frac_lines_end_with_ellipsis", most=0.3),
    Rule("gopher: words without letters", "alphabetic_word_share", least=0.8),
    Rule("gopher: few stop words", "stop_words", least=2),
    # Table A1.
    Rule("gopher: repeated lines", "duplicate_line_share", most=0.30),
    Rule("gopher: repeated paragraphs", "duplicate_paragraph_share", most=0.30),
    Rule("gopher: text in repeated lines", "duplicate_line_characters", most=0.20),
    Rule("gopher: text in repeated paragraphs", "duplicate_paragraph_characters", most=0.20),
    *(
        Rule(f"gopher: one run of {size} words", f"rps_doc_frac_chars_top_{size}gram", most=most)
        for size, most in ((2, 0.20), (3, 0.18), (4, 0.16))
    ),
    *(
        Rule(
            f"gopher: repeated runs of {size} words",
            f"rps_doc_frac_chars_dupe_{size}grams",
            most=most,
        )
        for size, most in ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10))
    ),
)

C4 = (
    Rule("c4: few sentences", "c4_sentences", least=3),
    Rule("c4: lorem ipsum", "rps_doc_lorem_ipsum", most=0),
    Rule("c4: curly bracket", "curly_brackets", most=0),
    Rule("c4: bad words", "rps_doc_ldnoobw_words", most=0, optional=True),
)

FINEWEB = (
    # The paper drops at its thresholds. Its code cuts text in repeated lines at 0.01; this is the
    # paper's 0.1. Lines over words is in the code alone (fineweb_quality_filter.py of datatrove).
    Rule("fineweb: lines without an end mark", "terminal_line_share", least=above(0.12)),
    Rule("fineweb: text in repeated lines", "duplicate_line_characters_of_lines", most=below(0.1)),
    Rule("fineweb: short lines", "short_line_share", most=below(0.67)),
    Rule("fineweb: a list", "newlines_per_word", most=0.3),
)

TOXICITY = (
    # One word in fifty: a page about such words stays. No paper's number; set your own.
    Rule("toxicity: bad words", "bad_words_per_word", most=0.02, optional=True),
    Rule("toxicity: blocked domain", "blocked_domain", most=0, optional=True),
    Rule("toxicity: classifier", "rps_doc_ml_toxicity_score", most=0.5, optional=True),
)

PRESETS: Mapping[str, tuple[Rule, ...]] = MappingProxyType(
    {
        "basic": BASIC,
        "prose": PROSE,
        "code": CODE,
        "c4": C4,
        "gopher": GOPHER,
        "fineweb": FINEWEB,
        "redpajama_commoncrawl": REDPAJAMA_COMMONCRAWL,
        "redpajama_github": REDPAJAMA_GITHUB,
        "toxicity": TOXICITY,
    }
)
