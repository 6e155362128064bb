"""Pretrain a model: one segment of a run.

    jsrun ... python -m alpenglow.train jobs/pretrain_7b.toml
    python -m alpenglow.train jobs/pretrain_7b.toml --run /tmp/try train.steps=20 parallel.tensor=1

Under jsrun (or its stand-in) every rank runs this; without a launcher it is the one rank of a run.
Exit code 0: the recipe is complete. 85: saved, with more to do; submit again. Else it failed, after
one sentence on stderr.
"""

from __future__ import annotations

import time

STARTED = time.time()  # before the imports, which are part of what a start costs

import argparse  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from pathlib import Path  # noqa: E402

from alpenglow.config import ConfigError, load  # noqa: E402
from alpenglow.train.environment import prepare  # noqa: E402
from alpenglow.train.failure import FAILED, end_hard, tell, tell_once  # noqa: E402
from alpenglow.train.monitors import check_monitors  # noqa: E402
from alpenglow.train.output import divert, say  # noqa: E402
from alpenglow.train.recipe import PretrainRecipe  # noqa: E402
from alpenglow.train.run_directory import RunDirectory  # noqa: E402
from alpenglow_lsf.machine import Machine, MachineError, current, names  # noqa: E402
from alpenglow_lsf.ranks import Ranks, RanksError  # noqa: E402


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one segment on this rank; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m alpenglow.train", description="Pretrain a model: one segment of a run."
    )
    parser.add_argument("recipe", type=Path, help="TOML recipe, such as jobs/pretrain_7b.toml")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="dotted.key=value")
    parser.add_argument("--run", type=Path, help="run directory; default $ALPENGLOW_RUN")
    options = parser.parse_intermixed_args(arguments)
    try:
        ranks = Ranks.from_environment()
    except RanksError as error:
        tell(str(error))
        return FAILED
    run = RunDirectory.of_environment(options.recipe, options.run)
    try:
        machine = current() if os.environ.get("ALPENGLOW_MACHINE") else None
        recipe = read_recipe(options.recipe, machine, options.overrides)
        layout = recipe.layout(ranks.world_size, machine)
        if machine is not None and (excess := recipe.refused(layout, machine)) is not None:
            raise ConfigError(excess)
        if not recipe.data.catalogue.exists():
            raise ConfigError(
                f"{recipe.data.catalogue}: no catalogue of token shards here: "
                "run bsub jobs/prepare_data.lsf first"
            )
        check_monitors(recipe.train.monitor)
        ranks.check_master()
    except (ConfigError, MachineError, RanksError) as error:
        tell_once(str(error), ranks.rank)
        return FAILED
    done = run.completed(recipe.samples_of)
    if done is not None:
        if ranks.rank == 0:
            say(f"{run.path} is complete: {done} steps are done")
        return 0
    try:
        divert()
        prepare(ranks)
        from alpenglow.train.pretrain import pretrain

        return pretrain(recipe, layout, ranks, machine, run, STARTED)
    except BaseException as error:  # peers must not wait for a rank that is gone
        end_hard(error, ranks.rank, run.errors)


def read_recipe(
    path: Path, machine: Machine | None, overrides: Sequence[str] = ()
) -> PretrainRecipe:
    """Read a recipe with the overlay of this machine."""
    name = None if machine is None else machine.name
    known = {*names(), *([] if name is None else [name])}
    return load(path, PretrainRecipe, machine=name, machines=known, overrides=overrides)


if __name__ == "__main__":
    sys.exit(main())
