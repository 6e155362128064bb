"""Releases of a run's intermediate checkpoints, with a table.

    alpenglow release series runs/pretrain_7b --every 10B-tokens
    alpenglow release series runs/pretrain_7b --every 1000-steps --form revisions --repository ORG/X

For each multiple the first whole checkpoint at or after it, and the last of the run. Called again,
it goes on where it was. Which checkpoints stay on disk is the run's choice: train.keep_every.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from alpenglow.data.catalogue import CatalogueError
from alpenglow.data.shards import ShardError
from alpenglow.exchange.error import ExchangeError
from alpenglow.release.cards.command import add_publication, publication
from alpenglow.release.error import ReleaseError
from alpenglow.release.hub.series import Request, default_repository, make_series, shown
from alpenglow.release.hub.series_names import Every
from alpenglow.train.checkpoint import CheckpointError

_FAILURES = (
    CatalogueError,
    CheckpointError,
    ExchangeError,
    OSError,
    ReleaseError,
    ShardError,
)


def main(arguments: Sequence[str]) -> int:
    """Make a series; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        every = Every.parse(options.every)
        request = Request(
            run=options.run,
            every=every,
            names=options.names or every.unit,
            form=options.form,
            output=options.output or options.run / "release" / "series",
            dtype=options.dtype,
            repository=options.repository or default_repository(options.run),
            verified=options.verify,
            publication=publication(options),
        )
        outcome = make_series(request, _say)
    except _FAILURES as error:
        sys.stderr.write(f"alpenglow release series: {error}\n")
        return 1
    if outcome.missing:
        _say(f"no checkpoint for: {', '.join(shown(every, outcome.missing))}")
    _say(f"made {len(outcome.made)}, kept {len(outcome.kept)}: {request.output / 'series.md'}")
    if request.form == "revisions":
        _say(
            f'load one: from_pretrained("{request.repository}", revision="NAME", '
            f'cache_dir="{request.output}")'
        )
    return 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="alpenglow release series",
        description="Release a run's intermediate checkpoints, with a table.",
    )
    parser.add_argument("run", type=Path, help="the run directory")
    parser.add_argument("--every", required=True, help="10B-tokens, 1000-steps or all")
    parser.add_argument("--names", choices=("steps", "tokens"), help="default: as --every counts")
    parser.add_argument("--form", choices=("folders", "revisions"), default="folders")
    parser.add_argument("--output", type=Path, help="default: RUN/release/series")
    parser.add_argument("--dtype", choices=("auto", "fp32", "fp16", "bf16"), default="auto")
    parser.add_argument("--repository", metavar="ORG/NAME", help="of revisions; local/RUN")
    parser.add_argument(
        "--verify", action="store_true", help="compare each with its checkpoint, logits as well"
    )
    add_publication(parser)
    return parser
