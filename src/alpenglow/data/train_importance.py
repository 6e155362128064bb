r"""`alpenglow data train-importance`: how much likelier a text is in the target than elsewhere.

The command line:

    alpenglow data train-importance --name books --target books/ --source crawl/ \
        --output models/books.h5
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from alpenglow.data.document import DataError
from alpenglow.data.importance import PAGES, Importance
from alpenglow.data.seed_text import Seed


def main(arguments: Sequence[str] | None = None) -> int:
    """Train importance weights; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="alpenglow data train-importance",
        description="DSIR importance weights (Xie et al. 2023): hashed words and pairs of words of "
        "target and source, from .txt, .md, .jsonl, .jsonl.gz, document stores (.h5) or folders.",
    )
    parser.add_argument("--name", required=True, help="NAME of the column rps_doc_NAME_importance")
    parser.add_argument("--target", nargs="+", type=Path, required=True, metavar="SEED")
    parser.add_argument("--source", nargs="+", type=Path, required=True, metavar="SEED")
    parser.add_argument("--output", type=Path, required=True, help="the model's file")
    parser.add_argument(
        "--pages", type=int, default=PAGES, help=f"random documents of each side; default {PAGES}"
    )
    options = parser.parse_args(arguments)
    if options.pages < 1:
        parser.error("--pages should be 1 or more")
    begin = time.perf_counter()
    try:
        model = Importance.train(
            options.name, Seed(options.target), Seed(options.source), options.pages
        )
        model.save(options.output)
    except DataError as error:
        sys.stderr.write(f"train-importance: {error}\n")
        return 1
    read = {
        side: sum(file["documents"] for file in model.about[side]) for side in ("target", "source")
    }
    sys.stdout.write(
        f"{options.output}: {model.name}, {read['target']:,} documents of the target, "
        f"{read['source']:,} of the source; {time.perf_counter() - begin:.1f} s\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
