"""Raw text, shards and what is known of them.

    alpenglow data prepare jobs/prepare_data.toml     or: alpenglow data jobs/prepare_data.toml
    alpenglow data report shards
    alpenglow data remove shards --domain example.org --why "asked by its owner"

Exit codes: 0 done, 1 it cannot be (one sentence says why), 2 wrong usage; `prepare` has its own.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from alpenglow import subcommand

COMMANDS = {
    "prepare": ("alpenglow.data.pipeline", "raw text to token shards, by a recipe"),
    "report": ("alpenglow_analysis.data_report", "what was read, kept and dropped, and why"),
    "budget": ("alpenglow.data.budget_command", "thresholds that reach each slice's tokens"),
    "verify": ("alpenglow.data.verify", "read every byte of the shards, name what is damaged"),
    "find": ("alpenglow.data.find", "documents by id, address, domain, licence, source"),
    "index": ("alpenglow.data.document_index", "build the index that find and remove use"),
    "remove": ("alpenglow.data.removal_command", "blank documents in finished shards, in place"),
    "compact": ("alpenglow.data.compact", "new shards without the documents that were removed"),
    "train-lm": ("alpenglow.data.train_lm", "a language model for perplexity, from seed text"),
    "train-classifier": ("alpenglow.data.train_classifier", "a quality classifier, from examples"),
    "train-importance": ("alpenglow.data.train_importance", "importance weights, from a target"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one sub-command; a recipe in its place is prepared."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words and words[0].endswith(".toml"):
        words.insert(0, "prepare")
    return subcommand.run("data", COMMANDS, words)


if __name__ == "__main__":
    sys.exit(main())
