"""Compare a released folder with the training checkpoint that it came from.

    alpenglow release verify runs/pretrain_7b/release/huggingface
    alpenglow release verify FOLDER --source runs/pretrain_7b/checkpoints/step-00001000
    alpenglow release verify FOLDER --hashes-only

The checkpoint is the one that `conversion.json` names, or the one of the same step in the run that
the folder lies in. Logits are compared on the run's own tokens where its shards are at hand, else
on a text of many scripts that the program brings along. What comes of it is written into
`conversion.json`, which the card and an upload read. Exit codes: 0 all is equal, 1 something
differs or cannot be read (one sentence says what), 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from alpenglow.config import ConfigError
from alpenglow.data.catalogue import CatalogueError
from alpenglow.data.shards import ShardError
from alpenglow.exchange.error import ExchangeError
from alpenglow.exchange.source import FORMS, Source, open_source
from alpenglow.model.config import ModelConfig
from alpenglow.release.conversion import CONVERSION, Conversion
from alpenglow.release.error import ReleaseError
from alpenglow.release.record import RunRecord
from alpenglow.release.verification.model_files import check_config, check_tokenizer
from alpenglow.release.verification.trial_tokens import trial_of
from alpenglow.release.verification.verify import Verification, compare_hashes, record, verify
from alpenglow.train.checkpoint import CheckpointError, step_directory
from alpenglow_lsf.machine import MachineError, current

_FAILURES = (
    CatalogueError,
    CheckpointError,
    ConfigError,
    ExchangeError,
    MachineError,
    OSError,
    ReleaseError,
    ShardError,
)


def main(arguments: Sequence[str]) -> int:
    """Run `alpenglow release verify`; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="alpenglow release verify",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument(
        "--source", type=Path, metavar="CHECKPOINT", help=f"default: what {CONVERSION} names"
    )
    parser.add_argument("--form", default="auto", choices=["auto", *FORMS])
    parser.add_argument(
        "--recipe", type=Path, help="training recipe, for a checkpoint that does not say its model"
    )
    parser.add_argument("--memory", default="auto", choices=["auto", "whole", "layers"])
    parser.add_argument("--prompt", default="The ", metavar="TEXT", help="beginning of the sample")
    parser.add_argument(
        "--hashes-only", action="store_true", help="without the checkpoint: tensor hashes alone"
    )
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")
    options = parser.parse_args(arguments)
    try:
        rows = _hashes(options.folder) if options.hashes_only else _checkpoint(options)
    except _FAILURES as error:
        sys.stderr.write(f"alpenglow release verify: {error}\n")
        return 1
    sys.stdout.write(json.dumps(rows, indent=2) + "\n" if options.json else _text(rows))
    return 0


def _hashes(folder: Path) -> dict[str, Any]:
    return {
        "folder": f"{folder}",
        "step": Conversion.load(folder).step,
        "tensors": compare_hashes(folder),
        "checked": f"hashes in {CONVERSION} alone; not compared with a checkpoint",
    }


def _checkpoint(options: argparse.Namespace) -> dict[str, Any]:
    folder: Path = options.folder
    config = check_config(folder)
    path, form = find_source(folder, options.source, options.form)
    model = _model(options.recipe) if options.recipe is not None else None
    source = open_source(path, form=form, model=model)
    check_tokenizer(folder, config)
    rows, positions = int(config["vocab_size"]), source.config.max_position_embeddings
    trial = trial_of(_record(folder), folder / "tokenizer.json", rows, positions)
    outcome = verify(folder, source, trial, options.prompt, memory=options.memory)
    with suppress(OSError):  # the folder may be another's, to be read only
        record(folder, outcome)
    return _rows(folder, source, outcome)


def find_source(folder: Path, named: Path | None, form: str) -> tuple[Path, str]:
    """The checkpoint to compare with, and its form.

    Args:
        folder: the release.
        named: by the user; goes before what the folder says.
        form: by the user; "auto" where it says none.

    Raises:
        ReleaseError: it is not where the folder says, nor in the run that the folder lies in.
    """
    if named is not None:
        return named, form
    conversion = Conversion.load(folder)
    if form == "auto" and conversion.source["form"] in FORMS:
        form = conversion.source["form"]
    places = [*_places(folder, conversion.source["path"], conversion.step)]
    for place in places:
        if place.is_dir():
            return place, form
    looked = ", ".join(f"{place}" for place in places[:3]) or "nowhere"
    raise ReleaseError(
        f"{folder}: its checkpoint is not at hand (looked for {looked}); name it with --source, or "
        "compare hashes alone with --hashes-only"
    )


def _places(folder: Path, path: str, step: int | None) -> Iterator[Path]:
    above = folder.resolve().parents
    yield Path(path)
    if not Path(path).is_absolute():
        yield from (parent / path for parent in above)
    if step is not None:
        for run in above:
            if (run / "run.toml").is_file():
                yield step_directory(run / "checkpoints", step)


def _model(recipe: Path) -> ModelConfig:
    from alpenglow.train.__main__ import read_recipe

    machine = current() if os.environ.get("ALPENGLOW_MACHINE") else None
    return read_recipe(recipe, machine).model


def _record(folder: Path) -> RunRecord:
    """The run that the folder lies in; an empty record where it lies in none."""
    for run in folder.resolve().parents:
        if (run / "run.toml").is_file():
            return RunRecord.load(run)
    return RunRecord.unknown(folder.name)


def _rows(folder: Path, source: Source, outcome: Verification) -> dict[str, Any]:
    return {
        "folder": f"{folder}",
        "checkpoint": f"{source.path}",
        "form": source.form,
        "step": source.step,
        **outcome.table(),
        "memory": outcome.memory,
        "sample": outcome.sample,
    }


def _text(rows: dict[str, Any]) -> str:
    if "checked" in rows:
        return (
            f"{rows['folder']}: {rows['tensors']:,} tensors have the hashes that {CONVERSION} "
            f"names (step {rows['step']})\nchecked: {rows['checked']}\n"
        )
    told = {
        "folder": rows["folder"],
        "checkpoint": f"{rows['checkpoint']} ({rows['form']}, step {rows['step']})",
        "tensors": f"{rows['tensors']:,} equal bit for bit",
        "logits": f"largest difference {rows['difference']:.2g} over {rows['positions']:,} "
        f"positions of {rows['text']}, in fp32 (allowed: {rows['tolerance']:g})",
        "largest logit": f"{rows['largest']:.4g}",
        "memory": "whole models" if rows["memory"] == "whole" else "one layer at a time",
    }
    if rows["sample"]:
        told["sample"] = repr(rows["sample"])
    return "".join(f"{name:<15}{value}\n" for name, value in told.items())
