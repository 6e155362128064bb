"""alpenglow plan proposal: a proposal for an allocation, from predictions, simulations and a study.

    alpenglow plan proposal --model 7b --tokens 1T --machine summit --output proposals/7b
    alpenglow plan proposal runs/scaling_study --model 7b --tokens 1T --machine summit --output ...

Writes DIR/proposal.md, proposal.tex, proposal.json, index.html, figures/ and, where a LaTeX is
installed, proposal.pdf. All options of `alpenglow plan campaign` hold for the production run.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from alpenglow_analysis.campaign_command import add_run_options, amount
from alpenglow_analysis.plan_ending import ended
from alpenglow_analysis.planned_run import PlanError, planned_run, recipe_path
from alpenglow_analysis.proposal import Proposal, propose
from alpenglow_analysis.proposal_scaling import measured
from alpenglow_analysis.scaling_study import ScalingStudy
from alpenglow_lsf.files import write_text
from alpenglow_lsf.machine import Machine, current, load
from alpenglow_lsf.script import Script, ScriptError


def parser() -> argparse.ArgumentParser:
    """The options: those of a campaign, and a few."""
    made = argparse.ArgumentParser(
        prog="alpenglow plan proposal",
        description="A proposal for an allocation: readiness, request, needs, risks.",
    )
    made.add_argument("study", nargs="?", type=Path, metavar="STUDY",
                      help="a scaling study; without one, scaling is predicted")  # fmt: skip
    own = made.add_argument_group("the proposal")
    own.add_argument("--nodes", type=int, help="default: those of the recipe's batch script")
    own.add_argument("--tokens", type=amount, required=True)
    own.add_argument("--title")
    own.add_argument("--program", default="INCITE", help="whose under-use dates hold; '' for none")
    own.add_argument(
        "--job", action="append", default=[], metavar="'NAME: RUNS x NODES x HOURS'",
        help="a line of the request; replaces the one of that name; may be repeated",
    )  # fmt: skip
    add_run_options(made)
    return made


def _nodes(given: argparse.Namespace, machine: Machine) -> int:
    """Nodes of the batch script beside the recipe."""
    if given.nodes is not None:
        return int(given.nodes)
    # A model that is none is told before nodes that are missing.
    planned_run(argparse.Namespace(**{**vars(given), "nodes": 1, "gpus": None}), machine)
    recipe = recipe_path(given.model)
    if recipe is not None and recipe.with_suffix(".lsf").is_file():
        try:
            nodes = Script.read(recipe.with_suffix(".lsf")).spec.nodes
        except ScriptError:
            nodes = None
        if nodes is not None:
            return nodes
    raise PlanError("--nodes is missing: no batch script beside the recipe says how many")


def run(words: Sequence[str]) -> None:
    """Write a proposal.

    Raises:
        CampaignError, PlanError, StudyError, ConfigError, RunError, MachineError: what cannot be.
        OSError: the output cannot be written.
    """
    given = parser().parse_args(list(words))
    if given.model is None:
        raise PlanError("--model is missing: 7b, 3b, a recipe, or sizes")
    if given.output is None:
        raise PlanError("--output is missing: the folder that the proposal goes to")
    machine: Machine = (current() if given.machine is None else load(given.machine)).target
    given.nodes = _nodes(given, machine)
    _writable(given.output)
    study = None if given.study is None else measured(ScalingStudy.load(given.study))
    sys.stdout.write("\n".join(write(propose(given, machine, study), given.output)) + "\n")


def write(own: Proposal, folder: Path) -> list[str]:
    """Write all forms of a proposal.

    Returns:
        What was written, in lines.

    Raises:
        OSError: it cannot be written.
    """
    from alpenglow_analysis import style
    from alpenglow_analysis.latex import LatexError, compiled
    from alpenglow_analysis.proposal_contents import contents
    from alpenglow_analysis.proposal_figures import draw
    from alpenglow_analysis.proposal_json import proposal_json
    from alpenglow_analysis.proposal_writing import markdown, page, tex

    (folder / "figures").mkdir(parents=True, exist_ok=True)
    with style.settings():
        figures = draw(own, folder / "figures")
    document = contents(own, set(figures))
    write_text(folder / "proposal.json", proposal_json(own, document))
    write_text(folder / "proposal.md", markdown(document))
    write_text(folder / "proposal.tex", tex(document))
    write_text(folder / "index.html", page(document, figures))
    said = [f"proposal: {folder / 'proposal.md'}, proposal.tex, proposal.json, index.html"]
    pdf = folder / "proposal.pdf"
    pdf.unlink(missing_ok=True)
    try:
        made = compiled(folder / "proposal.tex", folder / "figures")
    except LatexError as error:
        said.append(f"no PDF: {error}")
    else:
        if made is None:
            said.append("no PDF: no LaTeX is installed (pdflatex, lualatex, xelatex or tectonic)")
        else:
            _write_bytes(pdf, made)
            said.append(f"PDF: {pdf}")
    said.append(
        f"request: {own.request.total:,.1f} node-hours, of them {own.request.contingency:,.1f} "
        "contingency"
    )
    return said


def _writable(folder: Path) -> None:
    """Refuse a folder that cannot be written before anything is computed."""
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise PlanError(f"--output {folder}: {there} is no folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise PlanError(f"--output {folder}: {there} cannot be written")


def _write_bytes(path: Path, value: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.write_bytes(value)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; 0, or 1 after one sentence on stderr, 2 for wrong usage."""
    return ended("proposal", run, arguments)


if __name__ == "__main__":
    sys.exit(main())
