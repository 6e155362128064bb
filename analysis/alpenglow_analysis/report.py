"""The report of a run: report/index.html (self-contained, opens offline), report.md, report.json.

    alpenglow report runs/NAME [--compare runs/OTHER]
    alpenglow report jobs/report.toml [key=value ...]         as the batch job does
    alpenglow report --watch runs/NAME                        while it runs
    alpenglow report --quarter allocation.toml runs/*         an allocation's runs and its burn
    alpenglow report --trace runs/NAME --steps 100:102 --output trace.json.gz

`python -m alpenglow_analysis.report` is the same. With a recipe, ALPENGLOW_RUN goes before the
recipe's run. Figures lie in report/figures as PNG and SVG.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from alpenglow.config import ConfigError, load
from alpenglow_analysis import quarter_command, trace_command, watch_command
from alpenglow_analysis.segment import RunError
from alpenglow_analysis.writing import build
from alpenglow_lsf.machine import MachineError, current, names


@dataclass(frozen=True)
class ReportRecipe:
    """What to report on."""

    run: Path = Path("runs/pretrain_7b")
    """Run directory; ALPENGLOW_RUN goes before it."""
    compare: tuple[str, ...] = ()
    """Run directories to set beside it; the figure of throughput then has several node counts."""
    timeline_step: Any = "median"
    """The step that is drawn: its number, or "median" for the one of median duration."""
    price_per_node_hour: float | None = None
    """Dollars; the machine file's price if absent, and no dollars where that has none."""

    def __post_init__(self) -> None:
        step = self.timeline_step
        whole = isinstance(step, int) and not isinstance(step, bool) and step > 0
        if not whole and step != "median":
            raise ConfigError(f'timeline_step = {step!r}: a step number, or "median"')
        if self.price_per_node_hour is not None and self.price_per_node_hour < 0:
            raise ConfigError(f"price_per_node_hour = {self.price_per_node_hour}: is negative")

    @property
    def step(self) -> int | None:
        """The step to draw; None for the one of median duration."""
        return None if self.timeline_step == "median" else int(self.timeline_step)


def _recipe(options: argparse.Namespace) -> ReportRecipe:
    """The recipe of the command line: a file, or a run directory by itself."""
    machine = os.environ.get("ALPENGLOW_MACHINE")
    if options.what.suffix == ".toml":
        recipe = load(
            options.what,
            ReportRecipe,
            machine=Path(machine).stem if machine else None,
            machines=names(),
            overrides=options.overrides,
        )
        recipe = replace(recipe, run=Path(os.environ.get("ALPENGLOW_RUN") or recipe.run))
    elif options.overrides:
        raise ConfigError(f"{options.what}: overrides go with a recipe (a .toml file)")
    else:
        recipe = ReportRecipe(options.what)
    recipe = replace(recipe, compare=(*recipe.compare, *options.compare))
    if recipe.price_per_node_hour is None and machine:
        recipe = replace(recipe, price_per_node_hour=current().price_per_node_hour)
    return recipe


def _report(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="alpenglow report",
        description="Where the time of every rank of a run went.",
        epilog="alpenglow report --watch | --quarter | --trace, each with --help: a running job, "
        "an allocation, a trace for ui.perfetto.dev.",
    )
    parser.add_argument("what", type=Path, help="a run directory, or a recipe (jobs/report.toml)")
    parser.add_argument("overrides", nargs="*", help="key=value, laid over the recipe")
    parser.add_argument(
        "--compare", action="append", default=[], metavar="RUN", help="a run to set beside it"
    )
    recipe = _recipe(parser.parse_intermixed_args(arguments))
    path = build(
        recipe.run,
        timeline_step=recipe.step,
        price_per_node_hour=recipe.price_per_node_hour,
        compare=[Path(path) for path in recipe.compare],
    )
    sys.stdout.write(f"report: {path}\n")


COMMANDS = {
    "--watch": watch_command.run,
    "--quarter": quarter_command.run,
    "--trace": trace_command.run,
}
"""What the first word of the command line may ask for in place of a report."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; 0, or 1 after one sentence on stderr."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    command = next((COMMANDS[word] for word in words if word in COMMANDS), None)
    try:
        if command is None:
            _report(words)
        else:
            command([word for word in words if word not in COMMANDS])
    except ModuleNotFoundError as error:
        sys.stderr.write(
            f"alpenglow report: {error.name} is not installed: pip install 'alpenglow[report]'\n"
        )
        return 1
    except (RunError, ConfigError, MachineError, OSError) as error:
        sys.stderr.write(f"alpenglow report: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
