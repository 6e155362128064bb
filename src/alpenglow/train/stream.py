"""Print the hash of a stretch of a recipe's token stream; no GPU and no launcher needed.

    python -m alpenglow.train.stream jobs/pretrain_7b.toml --samples 0:4096
    python -m alpenglow.train.stream jobs/pretrain_7b.toml --samples 0:4096 --ranks 1,64,127
    python -m alpenglow.train.stream jobs/pretrain_7b.toml --samples 0:256 --validation

Two runs whose hashes agree train on the same tokens in the same order. With --ranks the samples go
through the batches of so many data-parallel replicas and are put back in order, a line for each.
Exit code 0, or 1 after one sentence.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from alpenglow.config import ConfigError
from alpenglow.data.catalogue import Catalogue, CatalogueError
from alpenglow.data.loader import Loader
from alpenglow.data.shards import ShardError
from alpenglow.data.stream import stream_hash
from alpenglow.data.windows import OrderError
from alpenglow.train.__main__ import read_recipe
from alpenglow.train.batches import order_of
from alpenglow_lsf.machine import MachineError, current


def main(arguments: Sequence[str] | None = None) -> int:
    """Print hashes; see the module."""
    parser = argparse.ArgumentParser(
        prog="python -m alpenglow.train.stream", description="Hash a stretch of the token stream."
    )
    parser.add_argument("recipe", type=Path, help="TOML recipe, such as jobs/pretrain_7b.toml")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="dotted.key=value")
    parser.add_argument("--samples", required=True, metavar="A:B", help="from A up to before B")
    parser.add_argument("--ranks", default="", metavar="N,...", help="data-parallel replicas")
    parser.add_argument("--validation", action="store_true", help="the stream that is held out")
    options = parser.parse_intermixed_args(arguments)
    try:
        begin, _, end = options.samples.partition(":")
        stretch = _number("--samples", begin), _number("--samples", end)
        replicas = [_number("--ranks", text) for text in filter(None, options.ranks.split(","))]
        machine = current() if os.environ.get("ALPENGLOW_MACHINE") else None
        recipe = read_recipe(options.recipe, machine, options.overrides)
        catalogue = Catalogue.load(recipe.data.catalogue)
        order = order_of(recipe, catalogue)
        loader = Loader(order.validation() if options.validation else order, catalogue)
        lines = [f"samples {options.samples}  {stream_hash(loader, *stretch)}"]
        for number in replicas:
            batch = recipe.batch.global_batch_size
            share = max(1, batch // max(1, number))
            found = stream_hash(loader, *stretch, replicas=number, global_batch=share * number)
            lines.append(f"samples {options.samples}  {found}  {number} x {share} a step")
    except (CatalogueError, ConfigError, MachineError, OrderError, ShardError, ValueError) as error:
        sys.stderr.write(f"stream: {error}\n")
        return 1
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _number(option: str, text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise ConfigError(f"{option}: {text!r} is not a whole number from 0 up")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
