"""Write the report of a run: its pictures, index.html, report.md and report.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from alpenglow_analysis import rendering, style
from alpenglow_analysis.account_table import entries
from alpenglow_analysis.contents import Material, contents
from alpenglow_analysis.efficiencies import efficiencies
from alpenglow_analysis.pictures import pictures
from alpenglow_analysis.power import power
from alpenglow_analysis.report_json import report_json
from alpenglow_analysis.run import Run
from alpenglow_analysis.scaling import rates
from alpenglow_analysis.segment import RunError
from alpenglow_analysis.stragglers import stragglers
from alpenglow_analysis.study import study
from alpenglow_analysis.timeline import median_step, rows_of_step
from alpenglow_analysis.utilisation import Account, account
from alpenglow_analysis.whatif import scenarios
from alpenglow_lsf.files import write_text


def build(
    run_dir: Path,
    *,
    timeline_step: int | None = None,
    price_per_node_hour: float | None = None,
    compare: Sequence[Path] = (),
) -> Path:
    """Write the report of a run.

    Args:
        run_dir: the run directory.
        timeline_step: the step to draw; the one of median duration if None.
        price_per_node_hour: dollars; None leaves dollars out.
        compare: run directories to set beside it.

    Returns:
        The path of index.html.

    Raises:
        RunError: not a run directory, or no span of the step that was asked for.
        OSError: the report cannot be written.
    """
    run = Run.load(run_dir)
    others = [Run.load(path) for path in compare]
    return write(
        run, run_dir / "report", timeline_step=timeline_step, price=price_per_node_hour,
        others=others,
    )  # fmt: skip


def write(
    run: Run,
    folder: Path,
    *,
    timeline_step: int | None = None,
    price: float | None = None,
    others: Sequence[Run] = (),
    live: bool = False,
    refresh: int | None = None,
) -> Path:
    """Write the report of a run that was read already; see `build`.

    Args:
        run: the run.
        folder: where the report goes.
        timeline_step: the step to draw; the one of median duration if None.
        price: dollars a node-hour; None leaves dollars out.
        others: runs to set beside it.
        live: the run goes on, so that nothing but the report is written.
        refresh: seconds after which a browser loads the page again.

    Raises:
        RunError: no span of the step that was asked for.
        OSError: it cannot be written.
    """
    known = material(run, price=price, others=others, live=live)
    if timeline_step is not None and rows_of_step(run, timeline_step) is None:
        raise RunError(
            f"{run.path}: no spans of step {timeline_step}; recorded are "
            f"{_range(run, known.account)}: name one of these, or leave timeline_step out"
        )
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    step = median_step(run, known.account) if timeline_step is None else timeline_step
    with style.settings():
        shown = pictures(known, step, folder / "figures")
    page = replace(contents(known, shown), refresh=refresh)
    write_text(folder / "report.json", report_json(known))
    write_text(folder / "report.md", rendering.markdown(page))
    write_text(folder / "index.html", rendering.html(page))
    return folder / "index.html"


def material(
    run: Run, *, price: float | None = None, others: Sequence[Run] = (), live: bool = False
) -> Material:
    """Work out all that the report of a run is written from; arguments as `write`."""
    found = study(run)
    where = account(run, found)
    watts = power(run, write=not live)
    beside = []
    for other in others:
        theirs = account(other)
        beside.append((other, theirs, rates(other, theirs)))
    slow = None
    if found.sample is not None:
        slow = stragglers(found.sample, found.heat, found.episodes)
    return Material(
        run=run,
        account=where,
        rates=rates(run, where, found),
        entries=entries(run, where, price, watts),
        study=found,
        price=price,
        power=watts,
        straggling=slow,
        changes=scenarios(run, found),
        efficiencies=efficiencies(where, found.sample),
        others=beside,
    )


def _range(run: Run, where: Account) -> str:
    kept = sorted({int(step) for events in run.events.values() for step in events.kept if step})
    if not kept or not len(where.step):
        return "none"
    if len(kept) == kept[-1] - kept[0] + 1:
        return f"steps {kept[0]} to {kept[-1]}"
    some = ", ".join(map(str, kept[:8])) + (", ..." if len(kept) > 8 else "")
    return f"{len(kept)} steps between {kept[0]} and {kept[-1]} ({some})"
