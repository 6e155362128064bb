"""Checkpoints from and to DeepSpeed, and weights from Hugging Face and GPT-NeoX.

    python -m alpenglow.exchange import deepspeed FOLDER RUN RECIPE.toml [key=value ...]
    python -m alpenglow.exchange import universal FOLDER RUN RECIPE.toml
    python -m alpenglow.exchange import huggingface FOLDER RUN RECIPE.toml [--pad-vocabulary]
    python -m alpenglow.exchange import neox FOLDER RUN RECIPE.toml [--pad-vocabulary]
    python -m alpenglow.exchange import fragments RUN/checkpoints/step-N RUN RECIPE.toml
    python -m alpenglow.exchange export universal RUN FOLDER RECIPE.toml
    jsrun ... python -m alpenglow.exchange export deepspeed RUN FOLDER RECIPE.toml

FOLDER is what DeepSpeed's `save_checkpoint` writes to and `load_checkpoint` reads from
(`global_stepN` in it, or that folder itself for an import); RUN is a run directory, fresh for an
import. `export deepspeed` writes the layout of the ranks that it is started on; the others need one
process. Files are read with `weights_only`: one that asks for code to be run is refused.

`deepspeed` and `universal` bring the optimizer's state, so training goes on where it was. The other
three bring weights alone: a new run begins with them at step 0, with Adam's moments at zero and the
learning-rate schedule and the data at their beginning.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from alpenglow.config import ConfigError
from alpenglow.train.environment import prepare
from alpenglow.train.failure import FAILED, end_hard, tell, tell_once
from alpenglow.train.recipe import PretrainRecipe
from alpenglow_lsf.machine import MachineError, current
from alpenglow_lsf.ranks import Ranks, RanksError

PROGRAM = "python -m alpenglow.exchange"
EXPORTED = ("deepspeed", "universal")
WEIGHTS_ALONE = ("huggingface", "neox", "fragments")


def main(arguments: Sequence[str] | None = None) -> int:
    """Import or export one checkpoint; 0, or 1 after one sentence on stderr."""
    parser = argparse.ArgumentParser(prog=PROGRAM, description=__doc__.partition("\n")[0])
    parser.add_argument("verb", choices=["import", "export"])
    parser.add_argument("form", choices=[*EXPORTED, *WEIGHTS_ALONE])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument(
        "--pad-vocabulary",
        action="store_true",
        help="import weights: rows of zeros where the recipe's vocabulary is larger",
    )
    parser.add_argument(
        "--repository",
        metavar="ORGANISATION/NAME",
        help="import weights: where the model is published, for the card of what comes of it",
    )
    options = parser.parse_args(arguments)
    if options.form in WEIGHTS_ALONE and options.verb == "export":
        parser.error(
            f"export {options.form}: exported are {', '.join(EXPORTED)}; `alpenglow "
            "release convert` writes Hugging Face folders"
        )
    if options.repository and options.form not in WEIGHTS_ALONE:
        parser.error(f"--repository: not for {options.form}, which goes on with the same run")
    if options.pad_vocabulary and options.form not in WEIGHTS_ALONE:
        parser.error(f"--pad-vocabulary: not for {options.form}, whose moments have no such rows")
    from alpenglow.train.__main__ import read_recipe

    try:
        ranks = Ranks.from_environment()
        machine = current() if os.environ.get("ALPENGLOW_MACHINE") else None
        recipe = read_recipe(options.recipe, machine, options.overrides)
        layout = recipe.layout(ranks.world_size) if _on_ranks(options) else None
    except (ConfigError, MachineError, RanksError) as error:
        tell(str(error))
        return FAILED
    try:
        prepare(ranks)
        if layout is not None:
            return _export_on_ranks(options, recipe, ranks)
        made = _alone(options, recipe, _progress if sys.stderr.isatty() else lambda _: None)
    except BaseException as error:
        if layout is not None:  # peers must not wait for a rank that is gone
            end_hard(error, ranks.rank, None)
        if type(error).__name__ not in ("ExchangeError", "CheckpointError"):
            raise
        tell(str(error))
        return FAILED
    sys.stdout.write(f"{made}\n")
    return 0


def _on_ranks(options: argparse.Namespace) -> bool:
    return (options.verb, options.form) == ("export", "deepspeed")


def _progress(text: str) -> None:
    sys.stderr.write(f"\r\033[K{text}")
    sys.stderr.flush()


def _alone(options: argparse.Namespace, recipe: PretrainRecipe, say: Callable[[str], None]) -> Path:
    from alpenglow.exchange.deepspeed import import_deepspeed
    from alpenglow.exchange.error import ExchangeError
    from alpenglow.exchange.source import open_unlike
    from alpenglow.exchange.universal import export_universal, import_universal
    from alpenglow.exchange.weights import import_weights
    from alpenglow.train.checkpoint import Checkpoint, steps

    if options.verb == "export":
        checkpoint = Checkpoint.newest(options.source / "checkpoints", tell)
        if checkpoint is None:
            raise ExchangeError(f"{options.source}: no whole checkpoint in it")
        options.target.mkdir(parents=True, exist_ok=True)
        return export_universal(checkpoint, options.target, recipe, say)
    checkpoints = options.target / "checkpoints"
    if steps(checkpoints):
        raise ExchangeError(f"{options.target}: this run has checkpoints already; name a fresh one")
    if options.form in WEIGHTS_ALONE:
        source = open_unlike(options.source, form=options.form, model=recipe.model)
        return import_weights(
            source,
            checkpoints,
            recipe.model,
            say,
            pad_vocabulary=options.pad_vocabulary,
            repository=options.repository,
        )
    take = import_deepspeed if options.form == "deepspeed" else import_universal
    return take(options.source, checkpoints, recipe, say)


def _export_on_ranks(options: argparse.Namespace, recipe: PretrainRecipe, ranks: Ranks) -> int:
    import torch.distributed

    from alpenglow.exchange.deepspeed import export_deepspeed
    from alpenglow.train.checkpoint import DistributedGroup
    from alpenglow.train.engine import Engine, start
    from alpenglow.train.restart import resume
    from alpenglow_profiling.events import NullRecorder

    device = start(ranks, timeout_s=recipe.train.collective_timeout_s)
    engine = Engine.build(recipe, recipe.layout(ranks.world_size), NullRecorder(), device)
    group = DistributedGroup(ranks.host)
    position = resume(engine, recipe, options.source / "checkpoints", group, tell)
    if not position.step:
        tell_once(f"{options.source}: no whole checkpoint in it", ranks.rank)
        return FAILED
    made = export_deepspeed(engine, position, options.target, recipe)
    if ranks.rank == 0:
        sys.stdout.write(f"{made}\n")
    torch.distributed.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
