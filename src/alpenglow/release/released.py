"""A release folder read back: what it says of itself, as far as a card, a series or a push asks.

Nothing here loads weights. Of training it knows what its checkpoint still says; where that is gone,
what the run's metrics and batches say of the same step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from alpenglow.exchange.error import ExchangeError
from alpenglow.exchange.source import open_source
from alpenglow.model.config import ModelConfig
from alpenglow.release.error import ReleaseError
from alpenglow.release.evaluation_facts import same_weights
from alpenglow.release.huggingface import CONVERSION
from alpenglow.release.record import RunRecord
from alpenglow.release.verify import Verification
from alpenglow.train.batch_history import BatchHistory
from alpenglow.train.checkpoint import CheckpointError, step_directory
from alpenglow_lsf.files import read_json, write_json

EVALUATION = "evaluation.json"


@dataclass(frozen=True)
class Released:
    """A release folder."""

    folder: Path
    conversion: Mapping[str, Any]
    """conversion.json, of format 1 or 2."""
    fields: Mapping[str, Any]
    """config.json."""

    @classmethod
    def load(cls, folder: Path) -> Released:
        """Read a folder's own tables.

        Raises:
            ReleaseError: not a release, or half of one.
        """
        if folder.name.endswith((".tmp", ".former")):
            raise ReleaseError(f"{folder}: a release that was not finished; convert again")
        tables = [read_json(folder / name) for name in (CONVERSION, "config.json")]
        for name, table in zip((CONVERSION, "config.json"), tables, strict=True):
            if table is None:
                raise ReleaseError(
                    f"{folder}: no release (its {name} is absent or no JSON); make one with "
                    "alpenglow release convert"
                )
        return cls(folder, tables[0] or {}, tables[1] or {})

    @property
    def step(self) -> int | None:
        """Optimizer steps of the checkpoint; None where it did not say."""
        step = self.conversion.get("step")
        return step if isinstance(step, int) else None

    @property
    def form(self) -> str:
        """Layout of the checkpoint."""
        source = self.conversion.get("source")
        # Format 1 had the kind of tensor in this place, and only our own checkpoints.
        return str(source.get("form") if isinstance(source, dict) else "fragments")

    @property
    def dtype(self) -> str:
        """Of the weights, as torch names it."""
        return str(self.conversion.get("dtype") or self.fields.get("dtype"))

    @property
    def weights(self) -> str | None:
        """xxh3-64 over the sorted hashes of the tensors, joined, as an evaluation names it."""
        hashes = self.conversion.get("xxh3_64")
        if not isinstance(hashes, dict):
            return None
        return xxhash.xxh3_64_hexdigest("".join(sorted(map(str, hashes.values()))).encode())

    @property
    def verification(self) -> Verification | None:
        """How it compared with the training model; None where it was not compared."""
        found = self.conversion.get("verification")
        if not isinstance(found, dict):
            return None
        numbers = (found.get(key) for key in ("tensors", "positions", "difference", "tolerance"))
        tensors, positions, difference, tolerance = (float(number or 0) for number in numbers)
        return Verification(int(tensors), int(positions), difference, tolerance, "")

    @property
    def config(self) -> ModelConfig:
        """The architecture.

        Raises:
            ReleaseError: config.json is not of a GPT-NeoX model of ours.
        """
        try:
            sizes = {ours: self.fields[theirs] for ours, theirs in _SIZES.items()}
            more = {key: self.fields[key] for key in _SHARED if key in self.fields}
            return ModelConfig(**sizes, **more)
        except (KeyError, TypeError, ValueError) as error:
            raise ReleaseError(
                f"{self.folder / 'config.json'}: not the architecture of a release: {error}"
            ) from None

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

    def verified(self, outcome: Verification) -> None:
        """Write into conversion.json how the folder compared."""
        fields = {
            key: getattr(outcome, key)
            for key in ("tensors", "positions", "difference", "tolerance")
        }
        table = {**self.conversion, "verification": {**fields, "dtype": "float32"}}
        write_json(self.folder / CONVERSION, table)

    def described(self, record: RunRecord) -> Described:
        """The checkpoint that it came from, as far as anything still says."""
        source = self.conversion.get("source")
        paths = [Path(source["path"])] if isinstance(source, dict) and source.get("path") else []
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


_SIZES = {
    "num_layers": "num_hidden_layers",
    "hidden_size": "hidden_size",
    "num_attention_heads": "num_attention_heads",
    "vocab_size": "vocab_size",
}
_SHARED = (
    "max_position_embeddings",
    "intermediate_size",
    "rotary_pct",
    "rotary_emb_base",
    "use_parallel_residual",
    "tie_word_embeddings",
    "layer_norm_eps",
    "initializer_range",
)
