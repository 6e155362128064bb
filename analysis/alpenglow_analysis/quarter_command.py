"""alpenglow report --quarter RUNS...: an allocation's runs, its burn, its under-use dates.

    alpenglow report --quarter allocation.toml runs/*
    alpenglow report --quarter --allocation 2000000 --start 2023-01-01 --until 2023-12-31 runs/*

Writes quarter/index.html, report.md, report.json and figures/burn.*, or under `--output`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from alpenglow_analysis import rendering, style
from alpenglow_analysis.allocation import PROGRAMS, Allocation, day_of, seconds_of
from alpenglow_analysis.burn import burn_figure
from alpenglow_analysis.page import Figure
from alpenglow_analysis.quarter import quarter
from alpenglow_analysis.quarter_page import quarter_json, quarter_page
from alpenglow_analysis.segment import RunError
from alpenglow_lsf.files import write_text

CAPTION = (
    "Each job's charge spread evenly over its time. Bars: below their top end, on that day, the "
    "facility may take the given part of the remainder."
)


def run(arguments: Sequence[str]) -> None:
    """Write the report of an allocation and say where it is.

    Raises:
        RunError: bad runs, dates or allocation.
        OSError: it cannot be written.
    """
    options = _options(arguments)
    tomls = [path for path in options.runs if path.suffix == ".toml" and path.is_file()]
    runs = [path for path in options.runs if path not in tomls]
    allocation = _allocation(options, tomls)
    now = time.time() if options.now is None else seconds_of(day_of(options.now))
    begin, end = _period(options, allocation, now)
    if not runs:
        raise RunError("name the run directories to add up")
    found = quarter(runs, begin, end)
    if options.period_from is None and allocation is None:
        # Without an allocation the period begins with the first job.
        first = min(segment.started for segment in found.segments)
        found = quarter(runs, first, end)
    folder = options.output
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    picture = None
    if allocation is not None:
        with style.settings():
            drawn = burn_figure(allocation, found.burn(), now)
            style.save_png(drawn, folder / "figures" / "burn.png")
            svg = style.save_svg(drawn, folder / "figures" / "burn.svg")
        alt = "Node-hours used over time"
        picture = Figure("burn", alt, CAPTION, style.themed(svg, "burn"))
    page = quarter_page(found, allocation, now, picture)
    write_text(folder / "report.json", quarter_json(found, allocation, now))
    write_text(folder / "report.md", rendering.markdown(page))
    write_text(folder / "index.html", rendering.html(page))
    sys.stdout.write(f"report: {folder / 'index.html'}\n")


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="alpenglow report --quarter",
        description="The runs of an allocation for a quarterly or close-out report.",
    )
    parser.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN",
        help="run directories; an allocation may stand among them as a .toml file",
    )  # fmt: skip
    parser.add_argument("--allocation", type=float, metavar="NODE_HOURS")
    parser.add_argument("--start", metavar="DATE", help="first day of the allocation")
    parser.add_argument("--until", metavar="DATE", help="last day of the allocation")
    parser.add_argument(
        "--program", default="INCITE", choices=sorted(PROGRAMS),
        help="whose under-use dates hold; '' for none (with --allocation)",
    )  # fmt: skip
    parser.add_argument("--name", default="", help="of the allocation (with --allocation)")
    parser.add_argument(
        "--from", dest="period_from", metavar="DATE",
        help="first day of the period; that of the allocation, or of the first job, if absent",
    )  # fmt: skip
    parser.add_argument(
        "--to", dest="period_to", metavar="DATE", help="last day of the period; today if absent"
    )
    parser.add_argument("--now", metavar="DATE", help="forecast as of that day; today if absent")
    parser.add_argument("--output", type=Path, default=Path("quarter"), metavar="FOLDER")
    return parser.parse_args(arguments)


def _allocation(options: argparse.Namespace, tomls: Sequence[Path]) -> Allocation | None:
    given = (options.allocation, options.start, options.until)
    if tomls:
        if len(tomls) > 1 or any(value is not None for value in given):
            raise RunError(f"{tomls[-1]}: one allocation only, by a file or by --allocation")
        return Allocation.load(tomls[0])
    if all(value is None for value in given):
        return None
    if any(value is None for value in given):
        raise RunError("--allocation, --start and --until belong together")
    return Allocation(
        options.allocation, day_of(options.start), day_of(options.until), options.name,
        options.program,
    )  # fmt: skip


def _period(
    options: argparse.Namespace, allocation: Allocation | None, now: float
) -> tuple[float, float]:
    begin = 0.0 if allocation is None else allocation.begin_s
    end = now if allocation is None else min(now, allocation.end_s)
    if options.period_from is not None:
        begin = seconds_of(day_of(options.period_from))
    if options.period_to is not None:
        end = seconds_of(day_of(options.period_to)) + 86_400
    if end <= begin:
        raise RunError("the period ends before it begins: look at --from, --to, --now and --start")
    return begin, end
