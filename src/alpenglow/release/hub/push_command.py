"""Upload to the Hugging Face Hub, or what an upload would do.

    alpenglow release push runs/pretrain_7b/release/huggingface ORGANISATION/NAME
    alpenglow release push runs/pretrain_7b/release/series ORGANISATION/NAME --series
    alpenglow release push runs/pretrain_7b/release/data_card ORGANISATION/NAME --dataset

It always says what goes where, and the same as commands. Where a token is saved (`hf auth login`)
and the Hub answers, it sends; on a terminal it asks before. Elsewhere nothing is sent, and the
folder and the commands are ready for a machine that has both.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from alpenglow.release.cards.gguf_facts import REPORT
from alpenglow.release.error import ReleaseError
from alpenglow.release.hub.package import (
    Package,
    data_package,
    gguf_package,
    model_package,
    series_packages,
)
from alpenglow.release.hub.push import Plan, saved_token, unreachable, upload

NOTHING = "nothing was sent"


def main(arguments: Sequence[str]) -> int:
    """Push; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.series and (options.dataset or options.revision):
        parser.error("--series goes without --dataset and --revision")
    try:
        plan = Plan(options.repository, packages(options), options.private)
        _say("\n".join(plan.lines()))
        _say("as commands:\n  " + "\n  ".join(plan.commands()))
        why = _held_back(options)
        if why is not None:
            _say(f"{NOTHING}: {why}")
            return 0
        upload(plan, str(saved_token()), _say)
    except (ReleaseError, OSError) as error:
        sys.stderr.write(f"alpenglow release push: {error}\n")
        return 1
    return 0


def packages(options: argparse.Namespace) -> list[Package]:
    """What the options name.

    Raises:
        ReleaseError: it cannot be sent.
    """
    if options.series:
        return series_packages(options.folder, unverified=options.unverified)
    if options.dataset:
        return [data_package(options.folder, options.revision)]
    if (options.folder / REPORT).is_file():
        return [gguf_package(options.folder, options.revision, unverified=options.unverified)]
    return [model_package(options.folder, options.revision, unverified=options.unverified)]


def _held_back(options: argparse.Namespace) -> str | None:
    """Why nothing is to be sent; None where it is.

    Raises:
        ReleaseError: the Hub refuses the token.
    """
    if options.dry_run:
        return "--dry-run"
    token = saved_token()
    if token is None:
        return "no token is saved here; log in with `hf auth login`, then call this again"
    if (why := unreachable(token)) is not None:
        return why
    if sys.stdin.isatty() and not options.yes:
        answer = input(f"send this to {options.repository}? [y/N] ")
        if answer.strip().lower() not in ("y", "yes"):
            return "as you said"
    return None


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="alpenglow release push", description="Upload a release to the Hugging Face Hub."
    )
    parser.add_argument(
        "folder", type=Path, help="a release, its GGUF files, a series, a data card"
    )
    parser.add_argument("repository", metavar="ORGANISATION/NAME")
    parser.add_argument("--private", action="store_true", help="where the repository is new")
    parser.add_argument("--revision", metavar="NAME", help="a branch, made if there is none")
    parser.add_argument("--series", action="store_true", help="each release to a branch")
    parser.add_argument("--dataset", action="store_true", help="a data card")
    parser.add_argument(
        "--unverified", action="store_true", help="send what was not compared with its checkpoint"
    )
    sure = parser.add_mutually_exclusive_group()
    sure.add_argument("--yes", action="store_true", help="do not ask")
    sure.add_argument("--dry-run", action="store_true", help="send nothing")
    return parser
