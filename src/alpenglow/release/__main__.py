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

_ROOM = "alpenglow.release"
COMMANDS = {
    "convert": (f"{_ROOM}.convert", "a checkpoint to a Hugging Face folder, by a recipe"),
    "verify": (f"{_ROOM}.verification.command", "a released folder against its checkpoint"),
    "series": (f"{_ROOM}.hub.series_command", "intermediate checkpoints, by tokens or steps"),
    "card": (f"{_ROOM}.cards.command", "model card and data card, from what is recorded"),
    "gguf": (f"{_ROOM}.gguf.command", "a released folder to GGUF files for llama.cpp"),
    "mlc": (f"{_ROOM}.gguf.mlc", "configuration and commands for MLC LLM"),
    "push": (f"{_ROOM}.hub.push_command", "upload to the Hub, or what an upload would do"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one sub-command; a recipe in its place is converted."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words and words[0].endswith(".toml"):
        words.insert(0, "convert")
    return subcommand.run("release", COMMANDS, words)


if __name__ == "__main__":
    sys.exit(main())
