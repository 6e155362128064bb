"""Convert a run's checkpoint to a Hugging Face folder and verify it.

    alpenglow release convert jobs/convert.toml [key=value ...]
    bsub -P PROJECT jobs/convert.lsf

The run is ALPENGLOW_RUN where a batch script sets it, else the recipe's. One process, no GPU.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from alpenglow.config import ConfigError, load
from alpenglow.data.catalogue import Catalogue, CatalogueError
from alpenglow.data.shards import ShardError
from alpenglow.exchange.error import ExchangeError
from alpenglow.exchange.fragments import FragmentSource
from alpenglow.exchange.source import Source
from alpenglow.release.card import model_card
from alpenglow.release.error import ReleaseError
from alpenglow.release.huggingface import put_in_place, release_dtype, write_release
from alpenglow.release.record import RunRecord
from alpenglow.release.verify import LENGTH, Verification, real_tokens, verify
from alpenglow.train.checkpoint import Checkpoint, CheckpointError, step_directory, steps
from alpenglow_lsf.machine import MachineError, current, names
from alpenglow_lsf.progress import ProgressFile
from alpenglow_lsf.ranks import Ranks, RanksError

log = logging.getLogger("alpenglow.release")

_FAILURES = (
    CatalogueError,
    CheckpointError,
    ConfigError,
    ExchangeError,
    MachineError,
    OSError,
    RanksError,
    ReleaseError,
    ShardError,
)


@dataclass(frozen=True)
class ConvertRecipe:
    """What to release."""

    run: Path = Path("runs/pretrain_7b")
    """Run directory; ALPENGLOW_RUN goes before it."""
    step: Any = "newest"
    """A step, or "newest": the newest checkpoint that is whole."""
    dtype: Literal["auto", "fp32", "fp16", "bf16"] = "auto"
    """Of the released weights; "auto" is what the model was trained in."""
    output: Path | None = None
    """Where to; RUN/release/huggingface if absent."""
    prompt: str = "The "
    """Beginning of the sample that goes to the log."""
    verify: bool = True
    """Load the folder with transformers and compare logits before it is put in place."""

    def __post_init__(self) -> None:
        whole = isinstance(self.step, int) and not isinstance(self.step, bool) and self.step >= 0
        if not whole and self.step != "newest":
            raise ConfigError(f'step = {self.step!r}: a step number, or "newest"')


def convert(recipe: ConvertRecipe) -> tuple[Path, Verification | None]:
    """Do what the recipe says; returns the release folder and how it compared.

    Raises:
        ReleaseError: the run, its checkpoint, tokenizer or shards are absent or do not fit, or the
            release differs from the training model; the output folder is as it was.
        CheckpointError: the chosen checkpoint is damaged.
        CatalogueError, ShardError: the run's shards, which verification reads, are not whole.
    """
    record = RunRecord.load(recipe.run)
    source = _choose(recipe)
    config = source.config
    output = recipe.output or recipe.run / "release" / "huggingface"
    total = len(config.tensor_shapes()) + 1
    progress = ProgressFile(recipe.run, "convert", "tensor")
    log.info("%s, step %d: %s parameters", record.name, source.step, f"{config.parameters():,}")
    with put_in_place(output) as folder:
        write_release(
            folder,
            source,
            record.tokenizer,
            dtype=recipe.dtype,
            done=lambda done, _: progress.show(done, total, f"step {source.step}"),
        )
        outcome = None
        if recipe.verify:
            progress.show(total - 1, total, "comparing logits", force=True)
            length = min(LENGTH, config.max_position_embeddings)
            tokens = real_tokens(_data(record), config.vocab_size, length)
            outcome = verify(folder, source, tokens, recipe.prompt)
        dtype = release_dtype(source, recipe.dtype)
        card = model_card(record, source, config, dtype, outcome)
        (folder / "README.md").write_text(card, encoding="utf-8")
    progress.show(total, total, f"{output}", force=True)
    return output, outcome


def _data(record: RunRecord) -> Catalogue:
    catalogue = Catalogue.load(record.catalogue)
    fingerprint = record.fact("data", "fingerprint")
    if fingerprint is not None and catalogue.fingerprint != fingerprint:
        raise ReleaseError(
            f"{record.catalogue}: fingerprint {catalogue.fingerprint} is not {fingerprint}, which "
            f"{record.path / 'run.toml'} names; restore the run's shards, or set verify=false"
        )
    return catalogue


def _choose(recipe: ConvertRecipe) -> Source:
    folder = recipe.run / "checkpoints"
    if recipe.step != "newest":
        present = steps(folder)
        if recipe.step not in present:
            held = ", ".join(str(step) for step in present) or "none"
            raise ReleaseError(f"{folder}: no checkpoint of step {recipe.step} (there are: {held})")
        return FragmentSource.open(step_directory(folder, recipe.step))
    checkpoint = Checkpoint.newest(folder, log.warning, kinds=("weight", "master"))
    if checkpoint is None:
        raise ReleaseError(f"{folder}: no whole checkpoint; train first, or name another run")
    return FragmentSource(checkpoint)


def main(arguments: Sequence[str]) -> int:
    """Run `alpenglow release convert`; returns the exit code."""
    if not arguments or arguments[0] in ("-h", "--help") or "=" in arguments[0]:
        sys.stdout.write(f"{__doc__}\n")
        return 0 if arguments and "=" not in arguments[0] else 2
    logging.basicConfig(stream=sys.stdout, level=logging.WARNING, format="%(message)s", force=True)
    log.setLevel(logging.INFO)
    try:
        if Ranks.from_environment().rank:
            return 0  # started on several ranks: the first one does it
        machine = current().name if "ALPENGLOW_MACHINE" in os.environ else None
        recipe = load(
            Path(arguments[0]),
            ConvertRecipe,
            machine=machine,
            machines=names(),
            overrides=arguments[1:],
        )
        if named := os.environ.get("ALPENGLOW_RUN"):
            recipe = dataclasses.replace(recipe, run=Path(named))
        output, outcome = convert(recipe)
    except _FAILURES as error:
        sys.stderr.write(f"alpenglow.release: {error}\n")
        return 1
    if outcome is not None:
        log.info(
            "verified: %d tensors equal bit for bit, logits of %d positions differ by at most "
            "%.2g (allowed: %g)",
            outcome.tensors,
            outcome.positions,
            outcome.difference,
            outcome.tolerance,
        )
        log.info("sample: %r", outcome.sample)
    log.info("released: %s", output)
    return 0
