"""The steps of a run as columns: loss, tokens, rate, as they stand after every restart."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Column = npt.NDArray[np.float64]
_COLUMNS = (
    "loss",
    "tokens",
    "lr",
    "grad_norm",
    "loss_scale",
    "step_time_s",
    "tokens_per_s",
    "time",
    "batch",
    "val_loss",
)


@dataclass(frozen=True)
class Metrics:
    """One entry a step of the surviving history; a value that was not written is nan."""

    step: npt.NDArray[np.int64]
    segment: tuple[str, ...]
    columns: dict[str, Column]
    repeated: int
    """Steps that were trained and lost: a later segment went on from before them."""
    damages: tuple[str, ...]
    last_seen: dict[str, float]
    """Unix time of the last line of each segment."""
    first_step: dict[str, int]
    """The first step that each segment trained."""

    def __len__(self) -> int:
        return len(self.step)

    def __getitem__(self, name: str) -> Column:
        return self.columns[name]

    @classmethod
    def load(cls, path: Path) -> Metrics:
        """Read metrics.jsonl; an absent file is a run without a step, a cut line is named.

        Lines are in the order of training. A line of step n says that whatever was trained of step
        n and later before it has been given up: it takes their place.
        """
        damages: list[str] = []
        lines = _lines(path, damages)
        kept: list[dict[str, Any]] = []
        repeated = 0
        for line in lines:
            while kept and kept[-1]["step"] >= line["step"]:
                kept.pop()
                repeated += 1
            kept.append(line)
        last_seen: dict[str, float] = {}
        first_step: dict[str, int] = {}
        for line in lines:
            last_seen[line["segment"]] = _number(line.get("time"))
            first_step.setdefault(line["segment"], line["step"])
        columns = {
            name: np.array([_number(line.get(name)) for line in kept], dtype=np.float64)
            for name in _COLUMNS
        }
        return cls(
            np.array([line["step"] for line in kept], dtype=np.int64),
            tuple(line["segment"] for line in kept),
            columns,
            repeated,
            tuple(damages),
            last_seen,
            first_step,
        )


def _lines(path: Path, damages: list[str]) -> list[dict[str, Any]]:
    if not path.is_file():
        damages.append(f"{path.name} is absent: no loss and no tokens are known")
        return []
    lines, bad = [], []
    for number, text in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
            line["step"], line["segment"] = int(line["step"]), str(line["segment"])
        except (ValueError, KeyError, TypeError):
            bad.append(number)
            continue
        lines.append(line)
    if bad:
        where = ", ".join(map(str, bad[:5])) + (", ..." if len(bad) > 5 else "")
        damages.append(f"{path.name}: {len(bad)} cut or foreign lines were left out (line {where})")
    return lines


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")
