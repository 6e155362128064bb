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
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from alpenglow.config import ConfigError, load, parse
from alpenglow.data.catalogue import CatalogueError
from alpenglow.data.shards import ShardError
from alpenglow.exchange.error import ExchangeError
from alpenglow.exchange.fragments import FragmentSource
from alpenglow.exchange.source import Source, open_source
from alpenglow.model.config import ModelConfig
from alpenglow.release.cards.front_matter import Publication
from alpenglow.release.cards.gguf_facts import gguf_beside
from alpenglow.release.cards.loss_curve import draw_loss
from alpenglow.release.cards.model_card import Beside, model_card
from alpenglow.release.cards.own_text import CARD, former_card
from alpenglow.release.conversion import Conversion
from alpenglow.release.error import ReleaseError
from alpenglow.release.folder import check_replaceable, check_room, put_in_place
from alpenglow.release.huggingface import (
    SHARD_BYTES,
    release_dtype,
    released_bytes,
    write_release,
)
from alpenglow.release.record import RunRecord
from alpenglow.release.released import keep_evaluation
from alpenglow.release.tokenizer import FILE, ReleasedTokenizer
from alpenglow.release.verification.memory import Memory
from alpenglow.release.verification.trial_tokens import trial_of
from alpenglow.release.verification.verify import Verification, verify
from alpenglow.release.verification.verify import record as record_outcome
from alpenglow.release.vocabulary import trimmed
from alpenglow.train.checkpoint import CheckpointError, step_directory, steps
from alpenglow_lsf.machine import MachineError, current, names
from alpenglow_lsf.progress import ProgressFile
from alpenglow_lsf.ranks import Ranks, RanksError

MOST_WORKERS = 8
"""Threads where none are asked: beyond these a parallel file system is what limits."""

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
    source: Path | None = None
    """A checkpoint folder of any form in place of the run's. Where it lies outside the run, nothing
    of the run is said of it: the card's facts are unknown, and `output` must be named."""
    form: str = "auto"
    """Of `source`: one of `alpenglow.exchange.source.FORMS`, or "auto" to look."""
    model: Path | None = None
    """A TOML file whose [model] is the architecture of `source`: a pretraining recipe, say."""
    tokenizer: Path | None = None
    """tokenizer.json; if absent, the one in the folder of `source`, else beside the run's
    catalogue."""
    dtype: Literal["auto", "fp32", "fp16", "bf16"] = "auto"
    """Of the released weights; "auto" is what the model was trained in."""
    vocabulary: Literal["padded", "trimmed"] = "padded"
    """All rows of the model's vocabulary, or as many as the tokenizer has ids."""
    output: Path | None = None
    """Where to; RUN/release/huggingface if absent."""
    shard_bytes: int = SHARD_BYTES
    """Largest weight file, in bytes."""
    workers: int = 0
    """Threads; 0: one a core that this process may use, at most 8."""
    prompt: str = "The "
    """Beginning of the sample that goes to the log."""
    verify: bool = True
    """Compare tensors and logits with the checkpoint's before the folder is put in place."""
    memory: Memory = "auto"
    """For the logits: "whole" models, one of their "layers" at a time, or what fits."""
    license: str | None = None
    """For the card, such as "apache-2.0"; what an earlier card says if absent, else unknown."""

    def __post_init__(self) -> None:
        whole = isinstance(self.step, int) and not isinstance(self.step, bool) and self.step >= 0
        if not whole and self.step != "newest":
            raise ConfigError(f'step = {self.step!r}: a step number, or "newest"')
        if self.shard_bytes < 1:
            raise ConfigError(f"shard_bytes = {self.shard_bytes}: bytes of a file, above 0")
        if self.workers < 0:
            raise ConfigError(f"workers = {self.workers}: threads, or 0 for one a core")
        if self.source is None and (self.form != "auto" or self.model is not None):
            word = "form" if self.form != "auto" else "model"
            raise ConfigError(f"{word} tells of a source; name it with source=FOLDER")

    @property
    def threads(self) -> int:
        """Workers, counted."""
        return self.workers or min(MOST_WORKERS, len(os.sched_getaffinity(0)))

    @property
    def of_the_run(self) -> bool:
        """Whether what is released was trained by `run`."""
        return self.source is None or self.source.resolve().is_relative_to(self.run.resolve())


def convert(recipe: ConvertRecipe) -> tuple[Path, Verification | None]:
    """Do what the recipe says; returns the release folder and how it compared.

    What can be refused is refused before anything is written. Every byte of the checkpoint that is
    read is verified on the way; with "newest", a damaged one is passed over then.

    Raises:
        ReleaseError: the run, its checkpoint, tokenizer or shards are absent or do not fit, the
            disk is full, or the release differs from the training model; the output folder is as it
            was.
        ExchangeError, CheckpointError: the chosen checkpoint is incomplete or damaged.
        CatalogueError, ShardError: the run's shards, which verification reads, are not whole.
        ConfigError: no architecture in the file that `model` names.
    """
    if recipe.of_the_run:
        record = RunRecord.load(recipe.run)
    elif recipe.source is None or recipe.output is None:
        raise ReleaseError(f"{recipe.source}: not a part of {recipe.run}; name output=FOLDER")
    else:
        record = RunRecord.unknown(recipe.source.name)
    for source in _sources(recipe):
        try:
            return _release(recipe, record, source)
        except CheckpointError as error:
            if recipe.source is not None or recipe.step != "newest":
                raise
            _pass_over(source.path, error)
    raise ReleaseError(
        f"{recipe.run / 'checkpoints'}: no whole checkpoint; train first, or name another run"
    )


def _release(
    recipe: ConvertRecipe, record: RunRecord, source: Source
) -> tuple[Path, Verification | None]:
    output = recipe.output or recipe.run / "release" / "huggingface"
    tokenizer = _tokenizer(recipe, record)
    tokens = ReleasedTokenizer.read(tokenizer, source.config)
    released = trimmed(source, tokens.ids) if recipe.vocabulary == "trimmed" else source
    config, dtype = released.config, release_dtype(source, recipe.dtype)
    trial = None
    if recipe.verify:
        trial = trial_of(record, tokenizer, config.vocab_size, config.max_position_embeddings)
    check_replaceable(output)
    former = former_card(output)
    check_room(output, released_bytes(released, dtype, tokenizer))
    total = len(config.tensor_shapes()) + 1
    progress = ProgressFile(recipe.run, "convert", "tensor") if recipe.run.is_dir() else None
    name = "no step known" if source.step is None else f"step {source.step}"

    def show(done: int, text: str, *, force: bool = False) -> None:
        if progress is not None:
            progress.show(done, total, text, force=force)

    log.info("%s, %s: %s parameters", record.name, name, f"{config.parameters():,}")
    with put_in_place(output) as folder:
        write_release(
            folder,
            source,
            tokenizer,
            dtype=recipe.dtype,
            vocabulary=recipe.vocabulary,
            shard_bytes=recipe.shard_bytes,
            workers=recipe.threads,
            done=lambda done, _: show(done, name),
        )
        outcome = None
        if trial is not None:
            show(total - 1, "comparing logits", force=True)
            outcome = verify(folder, released, trial, recipe.prompt, memory=recipe.memory)
            record_outcome(folder, outcome)
        evaluation = keep_evaluation(output, folder)
        card = model_card(
            record,
            released,
            config,
            dtype,
            outcome,
            publication=Publication(licence=recipe.license),
            beside=Beside(
                evaluation=evaluation,
                vocabulary=Conversion.load(folder).vocabulary,
                gguf=gguf_beside(output, source.step),
                picture=draw_loss(record, source.step, folder),
                notes=getattr(source, "notes", ()),
            ),
            former=former,
        )
        (folder / CARD).write_text(card, encoding="utf-8")
    show(total, f"{output}", force=True)
    return output, outcome


def _tokenizer(recipe: ConvertRecipe, record: RunRecord) -> Path:
    if recipe.tokenizer is not None:
        return recipe.tokenizer
    if recipe.source is not None and (recipe.source / FILE).is_file():
        return recipe.source / FILE
    return record.tokenizer


def _sources(recipe: ConvertRecipe) -> Iterator[Source]:
    """The checkpoint asked for, or those of the run, newest first."""
    if recipe.source is not None:
        model = None if recipe.model is None else _architecture(recipe.model)
        source = open_source(recipe.source, form=recipe.form, model=model)
        if recipe.step not in ("newest", source.step):
            said = "no step" if source.step is None else f"step {source.step}"
            raise ReleaseError(f"{recipe.source}: step = {recipe.step} asked, it says {said}")
        yield source
        return
    folder = recipe.run / "checkpoints"
    present = steps(folder)
    if recipe.step != "newest":
        if recipe.step not in present:
            held = ", ".join(str(step) for step in present) or "none"
            raise ReleaseError(f"{folder}: no checkpoint of step {recipe.step} (there are: {held})")
        yield FragmentSource.open(step_directory(folder, recipe.step))
        return
    for step in reversed(present):
        try:
            source = FragmentSource.open(step_directory(folder, step))
        except CheckpointError as error:
            _pass_over(step_directory(folder, step), error)
            continue
        yield source


def _pass_over(folder: Path, error: CheckpointError) -> None:
    log.warning("checkpoint %s is damaged and passed over: %s", folder.name, error)


def _architecture(path: Path) -> ModelConfig:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8")).get("model")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from None
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: it has no table [model], which says the architecture")
    return parse(ModelConfig, table, f"{path}: model")


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
        sys.stderr.write(f"alpenglow release convert: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("alpenglow release convert: interrupted; the output is as it was\n")
        return 130
    if outcome is not None:
        log.info(
            "verified: %d tensors equal bit for bit, logits of %d positions of %s differ by at "
            "most %.2g (allowed: %g; the largest logit is %.3g)",
            outcome.tensors,
            outcome.positions,
            outcome.text,
            outcome.difference,
            outcome.tolerance,
            outcome.largest,
        )
        if outcome.sample:
            log.info("sample: %r", outcome.sample)
    log.info("released: %s", output)
    return 0
