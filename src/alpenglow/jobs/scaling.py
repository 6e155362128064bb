"""A scaling study within one allocation: short trainings on more and more nodes, one after another.

    exec python -m alpenglow.jobs.scaling jobs/scaling_study.toml --study runs/scaling_study -- \
        jsrun -r1 -a6 -g6 -c42 -b packed:7 ... python -m alpenglow.train jobs/pretrain_7b.toml

Each run is the jsrun line that follows `--` on some of the nodes, under `alpenglow_lsf.run`, with a
run directory of its own in STUDY/runs/. Strong scaling keeps the global batch, weak scaling the
micro-batches of a replica. Runs of all sizes take turns, in another order each round, so that a
machine that drifts does not look like scaling. What is complete is not run again: a study that met
the walltime goes on when its job is submitted again. `alpenglow plan scaling STUDY` reads it.

Exit code 0: all runs are complete; 85: there is more to do; 1: some failed, each named.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

from alpenglow.config import ConfigError, load
from alpenglow.jobs.scaling_sizes import (
    ScalingError,
    ScalingRecipe,
    Size,
    counts,
    on,
    rounds,
    sizes,
)
from alpenglow.train.recipe import PretrainRecipe
from alpenglow_lsf.files import write_json
from alpenglow_lsf.flight import MORE_TO_DO
from alpenglow_lsf.geometry import GeometryError
from alpenglow_lsf.machine import Machine, MachineError, current, names
from alpenglow_lsf.options import OptionError
from alpenglow_lsf.ranks import compute_hosts
from alpenglow_lsf.segment import SegmentError, read_segments
from alpenglow_lsf.step import JobStep

FORMAT = 1
PLAN = "study.json"


class Study:
    """Runs a study; `run` gives the exit code.

    Args:
        recipe: of the study.
        path: its folder.
        step: the jsrun line.
        found: the sizes.
        in_steps: whether the trained recipe gives its length in steps; else in tokens.
    """

    def __init__(
        self, recipe: ScalingRecipe, path: Path, step: JobStep, found: Sequence[Size],
        in_steps: bool,
    ) -> None:  # fmt: skip
        self.recipe, self.path, self.step, self.found = recipe, path, step, found
        self.in_steps = in_steps
        self._child: subprocess.Popen[bytes] | None = None
        self._told: int | None = None

    def run(self) -> int:
        """Run what is not complete."""
        for number in (
            signal.SIGTERM,
            signal.SIGINT,
            signal.SIGUSR1,
            signal.SIGUSR2,
            signal.SIGURG,
        ):
            signal.signal(number, self._pass_on)
        failed: list[str] = []
        order = rounds(self.found, self.recipe.repeats, self.recipe.seed)
        for turn, (index, repeat) in enumerate(order, 1):
            size = self.found[index]
            folder = self.path / size.runs[repeat]
            if complete(folder):
                continue
            if self._told is not None:
                return MORE_TO_DO
            _aside(folder)
            told = f"{size.nodes} nodes, {size.ranks} ranks, {size.micro_batches} micro-batches a "
            told += f"replica, {size.steps} steps"
            self._say(f"[{turn}/{len(order)}] {size.runs[repeat]}: {told}")
            code = self._start(size, folder)
            if code == MORE_TO_DO or (code != 0 and self._told is not None):
                self._say(f"{size.runs[repeat]}: the time is over; submit the job again to go on")
                return MORE_TO_DO
            if code != 0 or not complete(folder):
                failed.append(f"{size.runs[repeat]} (exit code {code})")
                self._say(f"{failed[-1]} failed; the others go on")
        if failed:
            sys.stderr.write(
                f"alpenglow.jobs.scaling: {len(failed)} of {len(order)} runs failed: "
                f"{', '.join(failed)}; submit the job again to repeat them\n"
            )
            return 1
        self._say(f"complete: {len(order)} runs; alpenglow plan scaling {self.path}")
        return 0

    def _start(self, size: Size, folder: Path) -> int:
        here = on(self.step, size.nodes, size.ranks)
        words = [
            *here.words(), *self.recipe.overrides,
            f"batch.global_batch_size={size.global_batch_size}", self._length(size),
            "train.checkpoint_every=never", "train.validate_every=0",
        ]  # fmt: skip
        command = [
            sys.executable, "-m", "alpenglow_lsf.run", "--run", str(folder),
            "--activity", "pretrain", "--", "jsrun", *words,
        ]  # fmt: skip
        self._child = subprocess.Popen(command)
        code = self._child.wait()
        self._child = None
        return code

    def _length(self, size: Size) -> str:
        """The run's length as the trained recipe gives it: in steps, or in tokens."""
        if self.in_steps:
            return f"train.steps={size.steps}"
        return f"train.tokens={size.steps * size.global_batch_size * size.sequence_length}"

    def _pass_on(self, number: int, _: FrameType | None) -> None:
        self._told = number
        if self._child is not None:
            self._child.send_signal(number)

    def _say(self, text: str) -> None:
        sys.stdout.write(f"scaling: {text}\n")
        sys.stdout.flush()


def complete(folder: Path) -> bool:
    """Whether a run of a study is whole."""
    try:
        records = read_segments(folder)
    except (SegmentError, OSError):
        return False
    return any(record.get("reason") == "complete" for record in records)


def _aside(folder: Path) -> None:
    """Move a run that broke off out of the way: its node-hours stay accounted for."""
    if not folder.exists():
        return
    number = 1
    while (other := folder.with_name(f"{folder.name}.broken{number}")).exists():
        number += 1
    folder.rename(other)


def write_plan(
    path: Path, recipe: ScalingRecipe, trained: PretrainRecipe, found: Sequence[Size],
    machine: Machine, source: str,
) -> None:  # fmt: skip
    """Write study.json; one that is there has to be of the same plan.

    Raises:
        ScalingError: the folder holds another study.
    """
    value: dict[str, Any] = {
        "format": FORMAT,
        "machine": machine.name,
        "target": machine.target.name,
        "recipe": source,
        "model": asdict(trained.model),
        "repeats": recipe.repeats,
        "seed": recipe.seed,
        "sizes": [asdict(size) for size in found],
    }
    value = json.loads(json.dumps(value))
    file = path / PLAN
    if file.exists():
        before = json.loads(file.read_text(encoding="utf-8"))
        if before != value:
            raise ScalingError(
                f"{file}: is another study ({_difference(before, value)} differ); name another "
                "folder with --study, or remove this one"
            )
        return
    path.mkdir(parents=True, exist_ok=True)
    write_json(file, value)


def _difference(one: dict[str, Any], other: dict[str, Any]) -> str:
    return ", ".join(sorted(k for k in one.keys() | other.keys() if one.get(k) != other.get(k)))


def _trained(step: JobStep, recipe: ScalingRecipe, machine: Machine) -> tuple[PretrainRecipe, str]:
    paths = [word for word in step.command if word.endswith(".toml")]
    if not paths or "alpenglow.train" not in step.command:
        raise ScalingError("behind -- a jsrun line with `python -m alpenglow.train RECIPE.toml`")
    given = [w for w in step.command if "=" in w and not w.startswith("-")]
    found = load(
        Path(paths[0]), PretrainRecipe, machine=machine.name,
        machines={*names(), machine.name}, overrides=[*given, *recipe.overrides],
    )  # fmt: skip
    return found, paths[0]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run or continue a study; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    own, step_words = (words, []) if "--" not in words else (
        words[: words.index("--")], words[words.index("--") + 1 :]
    )  # fmt: skip
    parser = argparse.ArgumentParser(
        prog="python -m alpenglow.jobs.scaling",
        description="Short trainings on more and more nodes of this job.",
    )
    parser.add_argument("recipe", type=Path, help="TOML, such as jobs/scaling_study.toml")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--study", type=Path, default=Path("runs/scaling_study"))
    try:
        options = parser.parse_intermixed_args(own)
        machine = current()
        recipe = load(
            options.recipe, ScalingRecipe, machine=machine.name,
            machines={*names(), machine.name}, overrides=options.overrides,
        )  # fmt: skip
        if not step_words or Path(step_words[0]).name != "jsrun":
            raise ScalingError("the jsrun line of a run has to follow --")
        step = JobStep.parse(step_words[1:])
        trained, source = _trained(step, recipe, machine)
        hosts = compute_hosts(os.environ, machine.target.reserved_hosts)
        held = int(os.environ.get("ALPENGLOW_NODES_ASKED") or len(hosts) or 1)
        found = sizes(recipe, trained, counts(recipe, step, trained, machine, held), machine)
        write_plan(options.study, recipe, trained, found, machine, source)
        in_steps = trained.train.steps is not None
        return Study(recipe, options.study, step, found, in_steps).run()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 2
    except (
        ConfigError, GeometryError, MachineError, OptionError, OSError, ScalingError, ValueError,
    ) as error:  # fmt: skip
        sys.stderr.write(f"alpenglow.jobs.scaling: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
