"""The report of a run: report/index.html (self-contained, opens offline) and report/report.md.

    alpenglow report runs/NAME
    python -m alpenglow_analysis.report runs/NAME
    python -m alpenglow_analysis.report jobs/report.toml [key=value ...]     as the batch job does

With a recipe, ALPENGLOW_RUN goes before the recipe's run. Figures lie in report/figures as PNG; the
page holds its own as SVG.
"""

from __future__ import annotations

import argparse
import base64
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alpenglow.config import ConfigError, load
from alpenglow_analysis import figures, style
from alpenglow_analysis.contents import Contents, Figure, contents
from alpenglow_analysis.run import Run
from alpenglow_analysis.scaling import rates
from alpenglow_analysis.segment import RunError
from alpenglow_analysis.timeline import median_step, timeline
from alpenglow_analysis.utilisation import Account, account
from alpenglow_lsf.files import write_text
from alpenglow_lsf.machine import MachineError, current, names


@dataclass(frozen=True)
class ReportRecipe:
    """What to report on."""

    run: Path = Path("runs/pretrain_7b")
    """Run directory; ALPENGLOW_RUN goes before it."""
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


def build(
    run_dir: Path, *, timeline_step: int | None = None, price_per_node_hour: float | None = None
) -> Path:
    """Write the report of a run.

    Args:
        run_dir: the run directory.
        timeline_step: the step to draw; the one of median duration if None.
        price_per_node_hour: dollars; None leaves dollars out.

    Returns:
        The path of index.html.

    Raises:
        RunError: not a run directory, or no span of the step that was asked for.
        OSError: the report cannot be written.
    """
    run = Run.load(run_dir)
    where = account(run)
    found = rates(run, where)
    if timeline_step is not None and timeline(run, timeline_step) is None:
        raise RunError(
            f"{run_dir}: no spans of step {timeline_step}; recorded are "
            f"{_range(where)}: name one of these, or leave timeline_step out"
        )
    folder = run_dir / "report"
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    with style.settings():
        step = median_step(where) if timeline_step is None else timeline_step
        drawn = {
            "waterfall": figures.waterfall(run, where),
            "ideal": figures.ideal_and_actual(run, found),
            "ranks": figures.ranks(run, where),
            "timeline": None if step is None else timeline(run, step),
            "curves": figures.curves(run, found),
        }
        shown = {}
        for name, made in drawn.items():
            if made is not None:
                style.save_png(made, folder / "figures" / f"{name}.png")
                data = base64.b64encode(style.to_svg(made).encode()).decode()
                shown[name] = Figure(f"figures/{name}.png", f"data:image/svg+xml;base64,{data}")
    page = contents(run, where, found, shown, price_per_node_hour)
    write_text(folder / "report.md", _render("report.md.j2", page))
    write_text(folder / "index.html", _render("index.html.j2", page))
    return folder / "index.html"


def _range(where: Account) -> str:
    return f"steps {where.step[0]} to {where.step[-1]}" if len(where.step) else "none"


def _render(template: str, page: Contents) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("alpenglow_analysis"),
        autoescape=template.endswith(".html.j2"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = lambda text: str(text).replace("|", "\\|").replace("\n", " ")
    return environment.get_template(template).render(page=page)


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
        run = Path(os.environ.get("ALPENGLOW_RUN") or recipe.run)
    elif options.overrides:
        raise ConfigError(f"{options.what}: overrides go with a recipe (a .toml file)")
    else:
        recipe, run = ReportRecipe(), options.what
    price = recipe.price_per_node_hour
    if price is None and machine:
        price = current().price_per_node_hour
    return ReportRecipe(run, recipe.timeline_step, price)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a report and say where it is; 0, or 1 after one sentence on stderr."""
    parser = argparse.ArgumentParser(
        prog="alpenglow report", description="Where the time of every rank of a run went."
    )
    parser.add_argument("what", type=Path, help="a run directory, or a recipe (jobs/report.toml)")
    parser.add_argument("overrides", nargs="*", help="key=value, laid over the recipe")
    try:
        recipe = _recipe(parser.parse_args(arguments))
        step = None if recipe.timeline_step == "median" else recipe.timeline_step
        path = build(recipe.run, timeline_step=step, price_per_node_hour=recipe.price_per_node_hour)
    except ModuleNotFoundError as error:
        sys.stderr.write(
            f"alpenglow report: {error.name} is not installed: pip install 'alpenglow[report]'\n"
        )
        return 1
    except (RunError, ConfigError, MachineError, OSError) as error:
        sys.stderr.write(f"alpenglow report: {error}\n")
        return 1
    sys.stdout.write(f"report: {path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
