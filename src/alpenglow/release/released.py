"""A release folder read back: what it says of itself, as far as a card, a series or a push asks.

Nothing here loads weights. Of training it knows what its checkpoint still says; where that is gone,
what the run's metrics and batches say of the same step.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alpenglow.exchange.error import ExchangeError
from alpenglow.exchange.huggingface_config import read_config
from alpenglow.exchange.source import open_source
from alpenglow.model.config import ModelConfig
from alpenglow.release.cards.evaluation_facts import same_weights
from alpenglow.release.conversion import Conversion
from alpenglow.release.error import ReleaseError
from alpenglow.release.record import RunRecord
from alpenglow.release.verification.verify import Verification
from alpenglow.train.batch_history import BatchHistory
from alpenglow.train.checkpoint import CheckpointError, step_directory
from alpenglow_lsf.files import read_json

EVALUATION = "evaluation.json"


@dataclass(frozen=True)
class Released:
    """A release folder."""

    folder: Path
    conversion: Conversion
    config: ModelConfig

    @classmethod
    def load(cls, folder: Path) -> Released:
        """Read a folder's own tables.

        Raises:
            ReleaseError: not a release, or half of one.
        """
        if folder.name.endswith((".tmp", ".former")):
            raise ReleaseError(f"{folder}: a release that was not finished; convert again")
        conversion = Conversion.load(folder)
        try:
            return cls(folder, conversion, read_config(folder))
        except ExchangeError as error:
            raise ReleaseError(str(error)) from None

    @property
    def step(self) -> int | None:
        """Optimizer steps of the checkpoint; None where it did not say."""
        return self.conversion.step

    @property
    def form(self) -> str:
        """Layout of the checkpoint."""
        return self.conversion.source["form"]

    @property
    def dtype(self) -> str:
        """Of the weights, as torch names it."""
        return self.conversion.dtype

    @property
    def weights(self) -> str:
        """What names its weights in an evaluation."""
        return self.conversion.weights

    @property
    def verification(self) -> Verification | None:
        """How it compared with the training model; None where it was not compared."""
        found = self.conversion.verification
        if found is None:
            return None
        return Verification(
            found["tensors"],
            found["positions"],
            found["difference"],
            found["tolerance"],
            "",
            math.nan if found["largest"] is None else found["largest"],
            text=found["text"],
        )

    @property
    def evaluation(self) -> dict[str, Any]:
        """evaluation.json; empty where there is none of these weights.

        Raises:
            ReleaseError: it is there and cannot be read.
        """
        path = self.folder / EVALUATION
        found = read_json(path)
        if found is None and path.exists():
            raise ReleaseError(f"{path}: not JSON; evaluate again (jobs/evaluate.lsf)")
        return found if found and same_weights(found, self.weights) else {}

    def described(self, record: RunRecord) -> Described:
        """The checkpoint that it came from, as far as anything still says."""
        paths = [Path(self.conversion.source["path"])]
        if self.step is not None and self.form == "fragments":
            paths.append(step_directory(record.path / "checkpoints", self.step))
        for path in paths:
            try:
                opened = open_source(path, form=self.form)
                if opened.step == self.step:
                    return Described(self.form, self.step, opened.state)
            except (CheckpointError, ExchangeError, OSError):
                continue
        state: dict[str, Any] = {
            key: value
            for key in ("tokens", "samples")
            if (value := record.at(self.step).get(key)) is not None
        }
        history = BatchHistory.read(record.path)
        if history is not None and self.step is not None:
            kept = [change for change in history.changes if change.step < self.step]
            state["batches"] = {"first": history.first, "changes": [list(c) for c in kept]}
        return Described(self.form, self.step, state)


@dataclass(frozen=True)
class Described:
    """A checkpoint of which only its description is at hand."""

    form: str
    step: int | None
    state: Mapping[str, Any]


def keep_evaluation(former: Path, folder: Path) -> dict[str, Any]:
    """Bring an earlier release's evaluation into a folder of the same weights; returns it.

    Empty where there is no earlier release, no evaluation, or one of other weights.
    """
    weights = Conversion.load(folder).weights
    try:
        known = Released.load(former)
    except ReleaseError:
        return {}
    if known.weights != weights or not known.evaluation:
        return {}
    shutil.copyfile(former / EVALUATION, folder / EVALUATION)
    return known.evaluation
