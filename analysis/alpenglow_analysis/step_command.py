r"""alpenglow plan step: what one step of one layout takes, part by part.

    alpenglow plan step --model 7b --machine summit --nodes 512 --pipeline 12 --tensor 2
    alpenglow plan step --model layers=96,hidden=12288,heads=96,vocab=51200,tied=true \
        --machine selene --gpus 1536 --batch 2304 --framework megatron-2021 --pipeline 16 \
        --tensor 8 --micro-batch 1 --schedule interleaved-2 --recompute full --attention plain
    alpenglow plan step --csv runs.csv --machine selene --framework megatron-2022

A CSV file has a row a layout and columns named as options without their dashes (`model` or
`layers,hidden,heads,vocab`; `gpus`, `batch`, `pipeline`, `tensor` ...); what it lacks is taken from
the command line. It comes back with the predicted columns appended.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alpenglow.config import ConfigError
from alpenglow.parallel.layout import LayoutError
from alpenglow.parallel.memory import excess
from alpenglow.parallel.step_cost import StepCost
from alpenglow_analysis.columns import laid
from alpenglow_analysis.layout_options import add_layout_options, predicted
from alpenglow_analysis.page import Table
from alpenglow_analysis.plan_ending import ended
from alpenglow_analysis.planned_run import PlanError, PlannedRun, add_options, planned_run
from alpenglow_analysis.units import count, percent, seconds
from alpenglow_lsf.machine import MachineError

SIZES = ("layers", "hidden", "heads", "vocab", "intermediate", "tied", "parallel_residual")
"""Columns of a CSV file that are a model together."""


@dataclass(frozen=True)
class Predicted:
    """A layout with its step."""

    run: PlannedRun
    cost: StepCost

    @property
    def interval(self) -> tuple[float, float]:
        """Seconds that nine of ten runs lie between."""
        return self.cost.seconds * (1 - self.run.error), self.cost.seconds * (1 + self.run.error)

    @property
    def excess(self) -> str | None:
        """One sentence where a stage does not fit the memory."""
        worst = max(self.cost.memory, key=lambda stage: stage.total)
        return excess(worst, self.cost.hardware.memory_bytes)

    def columns(self) -> dict[str, float]:
        """What a CSV file gets."""
        cost = self.cost
        return {
            "predicted_seconds": cost.seconds,
            "predicted_tokens_per_second_per_gpu": cost.tokens_per_second / self.run.gpus,
            "predicted_model_tflops_per_gpu": cost.model_flops / 1e12,
            "predicted_hardware_tflops_per_gpu": cost.hardware_flops / 1e12,
            "predicted_mfu": cost.mfu,
            "predicted_hfu": cost.hfu,
            "predicted_memory_gb": max(stage.total for stage in cost.memory) / 1e9,
        }


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog="alpenglow plan step", description="What one step of a layout takes, part by part."
    )
    add_options(made, required=False)
    add_layout_options(made)
    told = made.add_argument_group("what is told")
    told.add_argument("--csv", type=Path, metavar="FILE", help="a layout a row")
    told.add_argument("--json", action="store_true")
    return made


def predict(given: argparse.Namespace) -> Predicted:
    """Predict a layout.

    Raises:
        PlanError: it cannot be; says which constraint fails and the nearest that fits.
        ConfigError, MachineError: the model or the machine cannot be read.
    """
    if given.model is None:
        raise PlanError(
            "--model is missing: 7b, a recipe, a config.json, or layers=32,hidden=4096,..."
        )
    run = planned_run(given)
    return Predicted(run, predicted(run, given))


def text(made: Predicted) -> str:
    """All of it for a terminal."""
    run, cost, layout, work = made.run, made.cost, made.cost.layout, made.cost.work
    low, high = made.interval
    facts = [
        ["step", f"{seconds(cost.seconds)} ({seconds(low)} to {seconds(high)} in nine of ten)"],
        ["tokens/s", f"{count(cost.tokens_per_second)}, {cost.tokens_per_second / run.gpus:,.0f} "
                     "a GPU"],
        ["model FLOP/s a GPU", f"{cost.model_flops / 1e12:.1f} T, MFU {percent(cost.mfu)}"],
        ["with recompute", f"{cost.hardware_flops / 1e12:.1f} T, HFU {percent(cost.hfu)}"],
    ]  # fmt: skip
    parts = [[name, seconds(s), percent(s / cost.seconds)] for name, s in cost.parts().items()]
    parts.append(["step", seconds(cost.seconds), percent(1.0)])
    memory = [
        [str(stage.stage), str(layout.layers_of(run.model.num_layers)[stage.stage]),
         *(f"{size / 1e9:.2f}" for size in stage.parts.values()), f"{stage.total / 1e9:.2f}"]
        for stage in cost.memory
    ]  # fmt: skip
    heads = ["stage", "layers", *cost.memory[0].parts, "GB"]
    lines = [
        f"{run.name} on {run.gpus:,} GPUs of {run.machine.name}: PP{layout.pipeline} x "
        f"TP{layout.tensor} x DP{layout.data}, {work.micro_batches} micro-batches of "
        f"{work.micro_batch_size}, {work.schedule}, {work.attention} attention, recompute "
        f"{work.recompute}, {work.dtype}",
        "",
        laid(Table(["predicted", ""], facts, text=frozenset({1}))),
        "",
        laid(Table(["part of the slowest stage's step", "", "share"], parts)),
        "",
        laid(Table(heads, memory)),
    ]
    if made.excess is not None:
        lines += ["", f"It does not fit: {made.excess}."]
    lines += [f"\n{warning}." for warning in cost.warnings]
    return "\n".join(lines) + "\n"


def as_json(made: Predicted) -> str:
    """The same as JSON."""
    cost = made.cost
    value = {
        "predicted": True,
        "model": made.run.name,
        "machine": made.run.machine.name,
        "gpus": made.run.gpus,
        "error": made.run.error,
        **made.columns(),
        "parts": cost.parts(),
        "memory": [{"stage": s.stage, **s.parts} for s in cost.memory],
        "fits": made.excess is None,
        "warnings": list(cost.warnings),
    }
    return json.dumps(value, indent=1) + "\n"


def rows(path: Path, arguments: Sequence[str]) -> str:
    """Predict every row of a CSV file; returns the file with columns appended.

    Raises:
        PlanError: names the line of a row that cannot be.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"{path}: cannot be read: {error}") from None
    kept = [(number, line) for number, line in enumerate(lines, 1) if line and line[0] != "#"]
    if len(kept) < 2:
        raise PlanError(f"{path}: a line of column names and a row are needed")
    table = csv.DictReader(line for _, line in kept)
    out: list[dict[str, Any]] = []
    for (number, _), record in zip(kept[1:], table, strict=True):
        try:
            given = parser().parse_args([*_words(record), *arguments])
            if given.gpus is None and given.nodes is None:
                raise PlanError("no column gpus or nodes")
            made = predict(given)
        except SystemExit:
            raise PlanError(f"{path}, line {number}: see above") from None
        except (PlanError, ConfigError, MachineError, LayoutError, ValueError) as error:
            raise PlanError(f"{path}, line {number}: {error}") from None
        out.append({**record, **{key: f"{value:.6g}" for key, value in made.columns().items()}})
    from io import StringIO

    into = StringIO()
    writer = csv.DictWriter(into, list(out[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(out)
    return into.getvalue()


def _words(record: dict[str, str]) -> list[str]:
    """A row as options; columns that are no option stay as they are."""
    known = {action.dest: action for action in parser()._actions if action.option_strings}
    words = []
    sizes = [f"{name}={record[name]}" for name in SIZES if record.get(name)]
    if sizes and not record.get("model"):
        words += ["--model", ",".join(sizes)]
    for column, value in record.items():
        action = known.get((column or "").replace("-", "_"))
        if action is None or not value or column in SIZES or action.dest in ("csv", "json", "help"):
            continue
        if action.nargs == 0:
            words += [action.option_strings[0]] if value.lower() in ("1", "true", "yes") else []
        else:
            words += [action.option_strings[0], value]
    return words


def run(arguments: Sequence[str]) -> None:
    """Predict and print.

    Raises:
        PlanError, ConfigError, MachineError: one sentence on what cannot be.
    """
    words = list(arguments)
    if "--csv" in words:
        at = words.index("--csv")
        if at + 1 == len(words):
            raise PlanError("--csv needs a file")
        sys.stdout.write(rows(Path(words[at + 1]), words[:at] + words[at + 2 :]))
        return
    made = predict(parser().parse_args(words))
    sys.stdout.write(as_json(made) if "--json" in words else text(made))


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; 0, or 1 after one sentence on stderr, 2 for wrong usage."""
    return ended("step", run, arguments)


if __name__ == "__main__":
    sys.exit(main())
