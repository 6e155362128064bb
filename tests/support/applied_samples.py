"""Which samples made the weights of a run, from what its segments wrote down."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file of JSON lines."""
    found = []
    for text in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):  # half a line of a rank that was killed
            found.append(json.loads(text))
    return found


def applied_samples(run: Path) -> tuple[list[int], list[int]]:
    """The samples that made the final weights, in order, and those that were passed over.

    A segment goes on from a checkpoint, which its record names; a line of step n takes the place of
    whatever was trained of step n and later before it.

    Raises:
        AssertionError: a segment's first step does not follow the checkpoint it went on from.
    """
    kept: list[dict[str, Any]] = []
    segment = ""
    for line in read_lines(run / "metrics.jsonl"):
        if line["segment"] != segment:
            segment = line["segment"]
            record = json.loads((run / f"segments/{segment}.rank0.json").read_text())
            assert line["step"] == record["resumed_from_step"] + 1, (segment, line["step"])
        while kept and kept[-1]["step"] >= line["step"]:
            kept.pop()
        kept.append(line)
    assert [line["step"] for line in kept] == [*range(1, len(kept) + 1)]
    split: dict[bool, list[int]] = {True: [], False: []}
    for line in kept:
        split[line["applied"]] += range(line["samples"] - line["batch"], line["samples"])
    return split[True], split[False]
