"""Evaluate a released model: benchmarks by lm-evaluation-harness, held-out perplexity by slice.

    alpenglow evaluate jobs/evaluate.toml [key=value ...]
    bsub -P PROJECT jobs/evaluate.lsf

The run is ALPENGLOW_RUN where a batch script sets it, else the recipe's. One process, one GPU or
none; nothing is downloaded. Results go to evaluation.json in the model's folder.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
import warnings
from collections.abc import MutableMapping, Sequence
from pathlib import Path

from alpenglow.config import ConfigError, load
from alpenglow.data.catalogue import CatalogueError
from alpenglow.data.order import OrderError
from alpenglow.data.shards import ShardError
from alpenglow.evaluate.error import EvaluateError
from alpenglow.evaluate.recipe import EvaluateRecipe
from alpenglow_lsf.machine import MachineError, current, names
from alpenglow_lsf.ranks import Ranks, RanksError

log = logging.getLogger("alpenglow.evaluate")

OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_EVALUATE_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # Bars of a dozen libraries; our own lines say how far it is.
    "TQDM_DISABLE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Read by the libraries when they are imported, so it is set before."""

_FAILURES = (
    CatalogueError,
    ConfigError,
    EvaluateError,
    MachineError,
    OSError,
    OrderError,
    RanksError,
    ShardError,
)
_LOUD = (
    "accelerate",
    "datasets",
    "evaluate",
    "filelock",
    "huggingface_hub",
    "lm_eval",
    "transformers",
)


def prepare(environ: MutableMapping[str, str]) -> None:
    """Keep the libraries off the network and their talk out of the output.

    What the harness logs may hold whole prompts, and benchmarks' items are printed nowhere.
    """
    environ.update(OFFLINE)
    for name in _LOUD:
        logging.getLogger(name).setLevel(logging.CRITICAL)
        warnings.filterwarnings("ignore", module=name)
    # transformers gives its loggers a level and a handler of its own at its import.
    environ["TRANSFORMERS_VERBOSITY"] = environ["DATASETS_VERBOSITY"] = "critical"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `alpenglow evaluate`; returns the exit code."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if not words or words[0] in ("-h", "--help") or "=" in words[0]:
        sys.stdout.write(f"{__doc__}\n")
        return 0 if words and "=" not in words[0] else 2
    logging.basicConfig(stream=sys.stdout, level=logging.WARNING, format="%(message)s", force=True)
    log.setLevel(logging.INFO)
    try:
        if Ranks.from_environment().rank:
            return 0  # started on several ranks: the first one does it
        machine = current().name if "ALPENGLOW_MACHINE" in os.environ else None
        recipe = load(
            Path(words[0]), EvaluateRecipe, machine=machine, machines=names(), overrides=words[1:]
        )
        if named := os.environ.get("ALPENGLOW_RUN"):
            recipe = dataclasses.replace(recipe, run=Path(named))
        prepare(os.environ)
        from alpenglow.evaluate.evaluation import evaluate

        output, evaluation = evaluate(recipe)
    except ImportError as error:
        sys.stderr.write(
            f"alpenglow evaluate: {error}; lm-evaluation-harness comes with pip install "
            '"alpenglow[evaluate]"\n'
        )
        return 1
    except _FAILURES as error:
        sys.stderr.write(f"alpenglow evaluate: {error}\n")
        return 1
    log.info("%s", evaluation.table())
    log.info("evaluated: %s", output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
