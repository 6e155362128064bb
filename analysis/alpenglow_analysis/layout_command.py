"""alpenglow plan layout: every lawful layout of a run, and the best with its reasons.

    alpenglow plan layout --model 7b --machine summit --nodes 512 --output plans/7b
    alpenglow plan layout --model 3b --machine summit --nodes 256 --also-nodes 128,512,922
    alpenglow plan layout --model layers=48,hidden=6144,heads=64 --machine selene --gpus 8 --batch 8

Prints the recipe's own layouts beside the best found, why it wins, the fastest, and the recipe
lines that choose it. With `--output DIR` also DIR/index.html, layout.md, layout.json (which
`alpenglow plan campaign --layout` reads), best.toml and figures/.
"""

from __future__ import annotations

import argparse
import sys
import time
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from alpenglow.config import ConfigError
from alpenglow.parallel.layout import LayoutError
from alpenglow_analysis.chosen_layout import choose
from alpenglow_analysis.columns import laid
from alpenglow_analysis.layout_page import (
    headline,
    layouts_json,
    named_table,
    notes,
    page,
    parts_table,
    ranking,
    recipe_lines,
    sizes_table,
)
from alpenglow_analysis.plan_ending import ended
from alpenglow_analysis.plan_writing import Picture, draw, write
from alpenglow_analysis.planned_run import (
    PlanError,
    PlannedRun,
    add_options,
    planned_run,
    recipe_path,
)
from alpenglow_analysis.search import Axes, Choice, Search, search
from alpenglow_analysis.search_reasons import sentences
from alpenglow_lsf.files import write_text


def numbers(word: str) -> tuple[int, ...]:
    """Whole numbers from 1 with commas between them."""
    try:
        found = tuple(int(part) for part in word.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{word!r} is no list of numbers (1,2,4)") from None
    if min(found) < 1:
        raise argparse.ArgumentTypeError(f"{word!r}: numbers begin at 1")
    return found


def words(word: str) -> tuple[str, ...]:
    """Words with commas between them."""
    return tuple(part.strip() for part in word.split(",") if part.strip())


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog="alpenglow plan layout", description="The best layout of a run, and why it is."
    )
    add_options(made)
    axes = made.add_argument_group("what may be chosen; lists with commas, all by default")
    axes.add_argument("--pipeline", type=numbers, default=())
    axes.add_argument("--tensor", type=numbers, default=())
    axes.add_argument("--micro-batch", type=numbers, default=())
    axes.add_argument("--schedule", type=words, default=())
    axes.add_argument("--recompute", type=words, default=())
    axes.add_argument("--order", type=words, default=())
    axes.add_argument(
        "--any-trainer", action="store_true",
        help="also interleaved schedules and sequence parallelism, which this trainer has not",
    )  # fmt: skip
    told = made.add_argument_group("what is told")
    told.add_argument("--also-nodes", type=numbers, default=(), help="the best there too")
    told.add_argument("--top", type=int, default=12, help="layouts of the ranking")
    told.add_argument("--output", type=Path, metavar="DIR", help="write a page, JSON, figures")
    return made


def named(given: argparse.Namespace) -> list[tuple[str, Choice]]:
    """The recipe's named layouts on the GPUs that are planned; empty without a recipe.

    Raises:
        PlanError, ConfigError: a layout cannot be on these GPUs.
    """
    path = recipe_path(given.model)
    if path is None:
        return []
    try:
        known = tomllib.loads(path.read_text(encoding="utf-8")).get("layouts", {})
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise PlanError(f"{path}: cannot be read as a recipe: {error}") from None
    found = []
    for name in known:
        as_named = argparse.Namespace(**{**vars(given), "layout": name, "attention": None})
        chosen = choose(planned_run(as_named), name)
        worst = max(chosen.cost.memory, key=lambda stage: stage.total)
        found.append((name, Choice(chosen.layout, chosen.work, chosen.cost, worst)))
    return found


def run(arguments: Sequence[str]) -> None:
    """Search, print, and write what was asked for.

    Raises:
        PlanError, ConfigError, MachineError, LayoutError: one sentence on what cannot be.
        OSError: the output cannot be written.
    """
    given = parser().parse_args(list(arguments))
    planned = planned_run(given)
    axes = Axes(
        given.pipeline, given.tensor, given.micro_batch, given.schedule,
        () if given.attention is None else (given.attention,), given.recompute, given.order,
        given.any_trainer,
    )  # fmt: skip
    found = search(planned, axes)
    best = found.best
    try:
        beside = named(given)
    except (PlanError, ConfigError, LayoutError) as error:
        beside = []
        sys.stderr.write(f"alpenglow plan layout: left out beside the best: {error}\n")
    beside.append(("best found", best))
    sizes = _sizes(planned, given.also_nodes, axes, best)
    told = sentences(found)
    parts = [headline(found), "", laid(named_table(beside)), "", *told, ""]
    parts += [laid(parts_table(beside)), ""]
    parts += [laid(ranking(found.found[: given.top])), ""]
    if len(sizes) > 1:
        parts += [laid(sizes_table(sizes)), ""]
    parts += [*notes(found), "", "# The best layout, in a recipe:", recipe_lines(best, planned)]
    sys.stdout.write("\n".join(parts))
    if given.output is not None:
        _write(given.output, found, beside, sizes, told, given.top)
        sys.stdout.write(f"\nplan: {given.output / 'index.html'}\n")


def _sizes(
    planned: PlannedRun, nodes: Sequence[int], axes: Axes, best: Choice
) -> list[tuple[PlannedRun, Choice | str]]:
    each = planned.machine.target.compute.gpus
    found: list[tuple[PlannedRun, Choice | str]] = [(planned, best)]
    for many in nodes:
        if not 1 <= many <= planned.machine.target.compute.nodes:
            raise PlanError(
                f"--also-nodes {many}: {planned.machine.name} has "
                f"{planned.machine.target.compute.nodes:,} nodes"
            )
        other = replace(planned, gpus=many * each)
        try:
            found.append((other, search(other, axes).best))
        except PlanError as error:
            found.append((other, str(error)))
    return sorted(found, key=lambda item: item[0].gpus)


def _write(
    folder: Path, found: Search, beside: Sequence[tuple[str, Choice]],
    sizes: Sequence[tuple[PlannedRun, Choice | str]], told: Sequence[str], top: int,
) -> None:  # fmt: skip
    from alpenglow_analysis import style
    from alpenglow_analysis.layout_figure import front_figure, parts_figure

    with style.settings():
        drawn = draw(folder, [
            Picture("front", front_figure(found, beside), "Seconds of a step against memory",
                    "A point a layout that fits; the dashed line is the memory that may be used."),
            Picture("parts", parts_figure(beside), "Parts of a step of each layout",
                    "Along the slowest stage: what it computes, and what it waits for."),
        ])  # fmt: skip
    made = page(found, beside, sizes, told, drawn, top, time.time())
    write_text(folder / "best.toml", recipe_lines(found.best, found.run))
    write(folder, "layout", made, layouts_json(found, beside, told, top))


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; 0, or 1 after one sentence on stderr, 2 for wrong usage."""
    return ended("layout", run, arguments)


if __name__ == "__main__":
    sys.exit(main())
