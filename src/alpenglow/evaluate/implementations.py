"""What is scored how: the three implementations of MMLU, and GSM8K.

LLaMA 65B had .637 by HELM, .488 by the harness of early 2023 and .636 by MMLU's authors' code on
the same questions ("What's going on with the Open LLM Leaderboard?", Hugging Face, June 2023), so
each result here carries its implementation, and MMLU is by default scored in all three ways.
"""

from __future__ import annotations

from dataclasses import dataclass

SHOTS = 5
"""Solved examples in a prompt where nobody says: what MMLU's and GSM8K's results are given with."""


@dataclass(frozen=True)
class Implementation:
    """One way to score one benchmark."""

    file: str
    """Its task file, in `tasks/`."""
    about: str
    """One sentence for whoever reads the number."""


IMPLEMENTATIONS = {
    "original": Implementation(
        "mmlu_original.yaml",
        "The likeliest of the four letters A to D behind the lettered choices, as in MMLU's own "
        "code and the harness today.",
    ),
    "whole answer": Implementation(
        "mmlu_whole_answer.yaml",
        "The likeliest text of the four whole answers behind the lettered choices, as in the "
        "harness of early 2023; acc_norm is per character.",
    ),
    "helm": Implementation(
        "mmlu_helm.yaml",
        "The letter that the model generates from its whole vocabulary, as in HELM.",
    ),
}
"""MMLU's, by the names that results carry."""

HARNESS = "lm_eval"
"""The implementation of what has only the harness's own."""

BENCHMARKS = {
    "mmlu": IMPLEMENTATIONS,
    "gsm8k": {
        HARNESS: Implementation(
            "gsm8k.yaml",
            "The final number of a generated solution: behind #### (strict), or the last one of "
            "the text (flexible).",
        )
    },
}
"""Benchmarks with files of ours -> their implementations."""
