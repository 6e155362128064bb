"""A checkpoint made public, and everything that goes with it.

    alpenglow release convert jobs/convert.toml     or: alpenglow release jobs/convert.toml
    alpenglow release verify runs/pretrain_7b/release/huggingface
    alpenglow release push runs/pretrain_7b/release/huggingface ORGANISATION/NAME

Exit codes: 0 done, 1 it cannot be (one sentence says why), 2 wrong usage.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from alpenglow import subcommand

COMMANDS = {
    "convert": ("alpenglow.release.convert", "a checkpoint to a Hugging Face folder, by a recipe"),
    "verify": ("alpenglow.release.verify_command", "a released folder against its checkpoint"),
    "series": ("alpenglow.release.series_command", "intermediate checkpoints, by tokens or steps"),
    "card": ("alpenglow.release.card_command", "model card and data card, from what is recorded"),
    "gguf": ("alpenglow.release.gguf_command", "a released folder to a GGUF file for llama.cpp"),
    "mlc": ("alpenglow.release.mlc", "configuration and commands for MLC LLM"),
    "push": ("alpenglow.release.push_command", "upload to the Hub, or what an upload would do"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one sub-command; a recipe in its place is converted."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words and words[0].endswith(".toml"):
        words.insert(0, "convert")
    return subcommand.run("release", COMMANDS, words)


if __name__ == "__main__":
    sys.exit(main())
