"""A proposal for an allocation: everything that its document is written from.

proposal = propose(given, machine)
contents(proposal)                  # alpenglow_analysis.proposal_contents
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from alpenglow_analysis.allocation import PROGRAMS
from alpenglow_analysis.campaign import Campaign
from alpenglow_analysis.campaign_choices import Effect, choices, effects
from alpenglow_analysis.campaign_command import campaign_of, chosen_of
from alpenglow_analysis.campaign_job import CampaignError
from alpenglow_analysis.campaign_outcome import Outcome
from alpenglow_analysis.campaign_sources import Source
from alpenglow_analysis.chosen_layout import Chosen
from alpenglow_analysis.planned_run import PlanError, recipe_path
from alpenglow_analysis.proposal_calendar import Calendar
from alpenglow_analysis.proposal_needs import Storage, storage
from alpenglow_analysis.proposal_performance import step_error
from alpenglow_analysis.proposal_request import Outcomes, Request, request
from alpenglow_analysis.proposal_scaling import Series, Study, predicted
from alpenglow_lsf.machine import Machine


@dataclass(frozen=True)
class Proposal:
    """A run that is proposed, whole."""

    title: str
    program: str
    """Whose under-use dates hold; empty: none."""
    machine: Machine
    chosen: Chosen
    recipe: Path | None
    outcomes: Outcomes
    sources: dict[str, Source]
    """Field of the campaign -> where it is from."""
    effects: list[Effect]
    impossible: list[str]
    predicted: tuple[Series, ...]
    """Strong, weak; of this run."""
    request: Request
    storage: Storage
    calendar: Calendar
    seed: int
    study: Study | None = None

    @property
    def plan(self) -> Campaign:
        """The production run."""
        return self.outcomes.full.campaign

    @property
    def outcome(self) -> Outcome:
        """Of the production run."""
        return self.outcomes.full

    @property
    def banner(self) -> str:
        """What every page says; empty for a study that was really run, or none."""
        if self.study is None or not self.study.synthetic:
            return ""
        return "SYNTHETIC: the scaling study in it was made by a program, not measured"

    @property
    def series(self) -> tuple[Series, ...]:
        """Of the study first, then predicted."""
        return (*(self.study.series if self.study else ()), *self.predicted)

    def effects_of(self, group: str) -> list[Effect]:
        """Choices of a group."""
        return [each for each in self.effects if each.choice.group == group]


def propose(given: argparse.Namespace, machine: Machine, study: Study | None = None) -> Proposal:
    """Simulate, predict and count.

    Args:
        given: options of `alpenglow plan proposal`.
        machine: where.
        study: what was measured before.

    Raises:
        CampaignError, PlanError, ConfigError, RunError, MachineError: one sentence on what cannot
            be.
    """
    if given.program not in PROGRAMS:
        known = ", ".join(name for name in PROGRAMS if name)
        raise PlanError(f"--program {given.program}: known is {known}; '' is one without dates")
    chosen = chosen_of(given, machine)
    if chosen is None:
        raise PlanError("a proposal needs --model")
    plan, sources = campaign_of(given, machine)
    outcomes = Outcomes.of(plan, given.campaigns, given.seed)
    usual, impossible = choices(plan, machine, chosen)
    beside = effects(outcomes.full, usual, given.campaigns, given.seed)
    series = (predicted(chosen, "strong"), predicted(chosen, "weak"))
    # The study is one allocation of the largest size; its points run one after the other.
    lap = sum(point.seconds for each in series for point in each.points)
    asked = request(chosen, outcomes, machine, lap, step_error(chosen), given.job)
    _check(asked, machine)
    return Proposal(
        title=given.title or f"Training {chosen.run.name} on {machine.name.capitalize()}",
        program=given.program,
        machine=machine,
        chosen=chosen,
        recipe=recipe_path(given.model),
        outcomes=outcomes,
        sources=sources,
        effects=beside,
        impossible=impossible,
        predicted=series,
        request=asked,
        storage=storage(chosen, outcomes.full),
        calendar=Calendar(asked, outcomes.full),
        seed=given.seed,
        study=study,
    )


def _check(asked: Request, machine: Machine) -> None:
    """Refuse lines that no queue takes."""
    most = machine.compute.nodes
    for row in asked.rows:
        nodes = round(row.nodes.number or 0)
        if not 1 <= nodes <= most:
            raise CampaignError(f"{row.what} on {nodes:,} nodes: {machine.name} has 1 to {most:,}")
