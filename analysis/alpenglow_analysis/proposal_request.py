"""The request of a proposal: runs x nodes x hours, in whole tenths of an hour, so that it adds up.

    request(chosen, outcomes, series, machine, given).total          # node-hours

Contingency is no percentage on top: each of its rows is what one thing costs. Failures and the
spread of steps are differences between simulated campaigns; the rows of the production run sum to
the node-hours in which nine of ten campaigns are over.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from alpenglow_analysis.campaign import Campaign
from alpenglow_analysis.campaign_job import CampaignError
from alpenglow_analysis.campaign_outcome import Outcome
from alpenglow_analysis.campaign_simulation import simulate
from alpenglow_analysis.chosen_layout import Chosen
from alpenglow_analysis.marked import Line, Mark, Name, Value, say
from alpenglow_analysis.planned_run import jobs_folder
from alpenglow_lsf.machine import Machine
from alpenglow_lsf.script import Script, ScriptError

PERCENTILE = 90
"""Share of simulated campaigns, in %, that the request is enough for."""
TRIALS, TRIAL_STEPS = 3, 500
"""assumed: short runs before the long one, for learning rate, restart and the monitors."""
EVALUATION_HOURS = 2.0
"""assumed: on one node, for a checkpoint."""
CALIBRATION_HOURS = 1.0
"""assumed, where jobs/calibrate.lsf says nothing."""
STUDY_STEPS, STUDY_REPEATS = 25, 3
"""assumed: steps of a point of the scaling study, warm-up included, and repeats."""
TEXT_BYTES = 5.15e12 / 1.21e12
"""Bytes of text a token: RedPajama v1's 5,152 GB (constants of SlimPajama's pipeline) and 1,210 G
tokens of the GPT-NeoX tokenizer (togethercomputer/RedPajama-Data, rp_v1)."""
PREPARE_RATE = 5.15e12 / (2.5 * 86_400 * 64)
"""Bytes of text a second and core, end to end: SlimPajama's 2.5 days on 64 cores (Cerebras
modelzoo, data_preparation/nlp/slimpajama)."""


@dataclass(frozen=True)
class Row:
    """A line of the request."""

    key: str
    what: str
    runs: Value
    nodes: Value
    hours: Value
    """Of one run; whole tenths."""
    why: Line
    contingency: bool = False

    @property
    def tenths(self) -> int:
        """Tenths of a node-hour."""
        counts = [round(value.number or 0) for value in (self.runs, self.nodes)]
        return counts[0] * counts[1] * round(10 * (self.hours.number or 0))

    @property
    def node_hours(self) -> float:
        """Charged."""
        return self.tenths / 10


@dataclass(frozen=True)
class Outcomes:
    """The production run simulated three times: as it is, without chance, without failures."""

    full: Outcome
    exact: Outcome
    """Failures, and a step that is exactly as predicted."""
    calm: Outcome
    """Neither failures nor slow nodes; one campaign, as all are alike."""

    @classmethod
    def of(cls, plan: Campaign, count: int, seed: int) -> Outcomes:
        """Simulate; errors as of `simulate`."""
        exact = plan.changed({"step_error": 0.0})
        quiet = {"gpu_hours": None, "slow_node_hours": None, "interval_s": plan.interval_s}
        return cls(
            simulate(plan, count, seed), simulate(exact, count, seed),
            simulate(exact.changed(quiet), 1, seed),
        )  # fmt: skip


@dataclass(frozen=True)
class Request:
    """All lines."""

    rows: tuple[Row, ...]

    @property
    def base(self) -> float:
        """Node-hours without contingency."""
        return sum(row.tenths for row in self.rows if not row.contingency) / 10

    @property
    def contingency(self) -> float:
        """Node-hours of contingency."""
        return sum(row.tenths for row in self.rows if row.contingency) / 10

    @property
    def total(self) -> float:
        """Node-hours."""
        return sum(row.tenths for row in self.rows) / 10

    def row(self, key: str) -> Row:
        """A line by its key."""
        return next(row for row in self.rows if row.key == key)

    @property
    def production(self) -> float:
        """Node-hours of the production run with its contingency."""
        keys = ("production", "failures", "spread")
        return sum(row.tenths for row in self.rows if row.key in keys) / 10


def tenths(hours: float) -> float:
    """Hours in whole tenths, rounded up."""
    return math.ceil(round(10 * hours, 6)) / 10


def counted(number: int, mark: Mark, source: str) -> Value:
    """A count."""
    return Value(f"{number:,}", mark, source, number)


def timed(hours: float, mark: Mark, source: str) -> Value:
    """Hours, in whole tenths and rounded up."""
    found = tenths(hours)
    return Value(f"{found:,.1f}", mark, source, found)


def hours_of(node_hours: float, nodes: int) -> float:
    """Hours of a job that is charged so much."""
    return tenths(node_hours / nodes)


def request(
    chosen: Chosen,
    outcomes: Outcomes,
    machine: Machine,
    study_seconds: float,
    error: Value,
    own: Sequence[str] = (),
) -> Request:
    """Put the lines together.

    Args:
        chosen: model and layout.
        outcomes: of the production run.
        machine: its machine.
        study_seconds: seconds of one pass through all points of the scaling study, one step each.
        error: of the predicted step.
        own: lines that are given as "NAME: RUNS x NODES x HOURS"; they replace those of that name.

    Raises:
        CampaignError: such a line cannot be read.
    """
    plan = outcomes.full.campaign
    nodes = plan.job.nodes
    small = [
        _calibration(chosen, machine),
        _study(plan, chosen, study_seconds),
        _preparation(plan, machine),
        _trials(plan),
        *_afterwards(plan, chosen, machine),
    ]
    rows = [*small[:4], _production(outcomes), *small[4:]]
    for word in own:
        rows = _replaced(rows, word)
    once = sum(row.tenths for row in rows if row.key != "production")
    again = hours_of(once / 10, nodes)
    given = Value(f"{nodes:,}", "S", "--nodes", nodes)
    rows += [
        *_chance(outcomes, given, error),
        Row(
            "again", "Small jobs once more", counted(1, "A", AGAIN), given,
            timed(again, "P", "sum of all lines but the production run, over the nodes of this"),
            say("What a job was charged for is gone when it fails or its input was wrong; each is "
                "taken to be needed {twice}. In hours of the production run's nodes.",
                twice=Value("twice", "A", AGAIN)),
            contingency=True,
        ),
    ]  # fmt: skip
    return Request(tuple(row for row in rows if row.tenths))


AGAIN = "assumed: no rate of repeated jobs is published; failed runs are charged (OLCF user guide)"


def _calibration(chosen: Chosen, machine: Machine) -> Row:
    script = _script("calibrate", machine)
    why = say(
        "Measures matrix products, memory and collectives of the machine, and a replica; the "
        "predictions below are then made again with {option}.", option=Name("--calibration"),
    )  # fmt: skip
    if script is not None:
        nodes, hours, source = script
        return Row("calibration", "Calibration", counted(1, "S", source),
                   counted(nodes, "S", source), timed(hours, "S", source), why)  # fmt: skip
    source = "computed: the nodes of two replicas, so that gradients are reduced between nodes"
    return Row(
        "calibration", "Calibration", counted(1, "A", "assumed: one calibration"),
        counted(2 * chosen.replica_nodes, "P", source),
        timed(CALIBRATION_HOURS, "A", "assumed: no calibration job of this size has run"), why,
    )  # fmt: skip


def _study(plan: Campaign, chosen: Chosen, seconds: float) -> Row:
    starts = 2 * STUDY_REPEATS
    hours = STUDY_REPEATS * (STUDY_STEPS * seconds + starts * plan.overheads.startup_s) / 3600
    source = (
        f"computed: {STUDY_REPEATS} repeats of all points of the strong and weak series, "
        f"{STUDY_STEPS} predicted steps each, and start-ups of {plan.overheads.startup_s:g} s"
    )
    return Row(
        "study", "Scaling study", counted(1, "A", "assumed: one study"),
        counted(plan.job.nodes, "S", "--nodes"), timed(hours, "P", source),
        say("Strong and weak series inside one allocation of the production run's size; {steps} "
            "steps a point, {repeats} repeats.",
            steps=counted(STUDY_STEPS, "A", "assumed: warm-up and enough steps for a median"),
            repeats=counted(STUDY_REPEATS, "A", "assumed: the least that shows a spread")),
    )  # fmt: skip


def _preparation(plan: Campaign, machine: Machine) -> Row:
    script = _script("prepare_data", machine)
    nodes, _, source = script or (min(46, machine.compute.nodes), 0.0, "assumed: 46 nodes")
    cores = nodes * machine.compute.cores
    hours = plan.work.tokens * TEXT_BYTES / (PREPARE_RATE * cores) / 3600
    text = Value(
        f"{plan.work.tokens * TEXT_BYTES / 1e12:.3g} TB", "P",
        "computed: --tokens x 4.26 bytes of text a token (RedPajama v1: 5,152 GB, 1,210 G tokens)",
    )  # fmt: skip
    rate = Value(
        f"{PREPARE_RATE / 1e6:.2g} MB/s",
        "S",
        "published: SlimPajama, 5.15 TB in 2.5 days on 64 cores (Cerebras modelzoo, slimpajama)",
    )
    return Row(
        "preparation", "Data preparation", counted(1, "A", "assumed: one pass over all text"),
        counted(nodes, "S" if script else "A", source),
        timed(hours, "P", "computed: bytes of text over the published rate of a core x cores"),
        say("{text} of raw text through filters, deduplication and the tokenizer, at a peer's "
            "rate of {rate} a core; this project's rate on this machine is not measured.",
            text=text, rate=rate),
    )  # fmt: skip


def _trials(plan: Campaign) -> Row:
    own = plan.overheads
    hours = (own.startup_s + own.read_s + TRIAL_STEPS * plan.work.step_s + own.save_s
             + own.drain_s + own.leave_s) / 3600  # fmt: skip
    return Row(
        "trials", "Trial runs", counted(TRIALS, "A", "assumed: learning rate, restart, monitors"),
        counted(plan.job.nodes, "S", "--nodes"),
        timed(hours, "P", "computed: start-up, predicted steps, one checkpoint"),
        say("{steps} steps each at full size: learning rate, a forced restart, the monitors.",
            steps=counted(TRIAL_STEPS, "A", "assumed: enough for the warm-up to show")),
    )  # fmt: skip


def _production(outcomes: Outcomes) -> Row:
    plan = outcomes.full.campaign
    calm = float(outcomes.calm.node_hours[0])
    steps = Value(f"{plan.work.steps:,}", "P", "computed: --tokens over the tokens of a step")
    return Row(
        "production", "Production run", counted(1, "S", "the run that is proposed"),
        counted(plan.job.nodes, "S", "--nodes"),
        timed(calm / plan.job.nodes, "P", "campaign simulation without failures"),
        say("{steps} steps with start-ups, saves and evaluations, and nothing going wrong.",
            steps=steps),
    )  # fmt: skip


def kept(chosen: Chosen, plan: Campaign) -> tuple[int, Value]:
    """Checkpoints that stay for good, the last one included."""
    recipe = chosen.run.recipe
    every = recipe.train.keep_every if recipe else 0
    steps = plan.work.steps
    count = steps // every + (steps % every > 0) if every else 1
    source = (
        f"computed: each {every:,}th step (train.keep_every of the recipe) and the last"
        if every
        else "computed: the last one alone, as no recipe says train.keep_every"
    )
    return count, Value(f"{count:,}", "P", source, count)


def _afterwards(plan: Campaign, chosen: Chosen, machine: Machine) -> list[Row]:
    _, many = kept(chosen, plan)
    rows = [
        Row("evaluation", "Evaluation of kept checkpoints", many,
            counted(1, "A", "assumed: a checkpoint is evaluated on one node"),
            timed(EVALUATION_HOURS, "A", "assumed: no evaluation of this size has run"),
            say("Benchmarks of each checkpoint that is kept.")),
    ]  # fmt: skip
    for key, what, runs, why in (
        ("convert", "Conversion", many, "Each kept checkpoint to a Hugging Face folder, its "
         "logits checked."),
        ("report", "Report", counted(1, "S", "jobs/pretrain_7b.lsf: --then jobs/report.lsf"),
         "Where each node-hour went."),
    ):  # fmt: skip
        script = _script(key, machine)
        nodes, hours, source = script or (1, 2.0, "assumed: one node for two hours")
        mark: Mark = "S" if script else "A"
        rows.append(Row(key, what, runs, counted(nodes, mark, source), timed(hours, mark, source),
                        say(why)))  # fmt: skip
    return rows


def _chance(outcomes: Outcomes, nodes: Value, error: Value) -> list[Row]:
    """Hours that failures, and the step's and luck's spread, add to the production run."""
    many = int(nodes.number or 1)
    calm = tenths(float(outcomes.calm.node_hours[0]) / many)
    middle = tenths(float(np.percentile(outcomes.exact.node_hours, 50)) / many)
    most = tenths(float(np.percentile(outcomes.full.node_hours, PERCENTILE)) / many)
    middle, most = max(middle, calm), max(most, middle, calm)
    count = f"{len(outcomes.full):,} simulated campaigns"
    lost = outcomes.exact.pieces["lost"] / outcomes.exact.elapsed_ns
    failures = Value(f"{float(np.median(outcomes.exact.failures)):,.0f}", "P", f"median of {count}")
    share = Value(f"{100 * float(lost.mean()):.2g} %", "P", f"mean of {count}")
    return [
        Row("failures", "Failures and lost work", counted(1, "S", "the run that is proposed"),
            nodes, timed(middle - calm, "P", f"median of {count} less the run without failures"),
            say("About {failures} failures; steps since the newest checkpoint are trained again "
                "({share} of the time), and jobs start again.", failures=failures, share=share),
            contingency=True),
        Row("spread", "Step error and bad luck", counted(1, "S", "the run that is proposed"),
            nodes, timed(most - middle, "P", f"{PERCENTILE} % of {count} less the line above"),
            say("The predicted step is off by up to {error} in nine of ten cases, and failures "
                "come more often than in the median: with this line nine of ten simulated "
                "campaigns stay within the request.", error=error),
            contingency=True),
    ]  # fmt: skip


def _script(name: str, machine: Machine) -> tuple[int, float, str] | None:
    """Nodes, hours and source of a shipped job; None where it is not there or does not fit."""
    path = jobs_folder() / f"{name}.lsf"
    if not path.is_file():
        return None
    try:
        spec = Script.read(path).spec
    except ScriptError:
        return None
    if spec.nodes is None or spec.walltime is None or spec.nodes > machine.compute.nodes:
        return None
    return spec.nodes, spec.walltime / 60, f"jobs/{name}.lsf: #BSUB -nnodes and -W"


OWN = re.compile(r"^\s*([^:]+?)\s*:\s*(\d+)\s*x\s*(\d+)\s*x\s*(\d+(?:\.\d+)?)\s*$")


def _replaced(rows: Sequence[Row], word: str) -> list[Row]:
    found = OWN.match(word)
    if found is None:
        raise CampaignError(
            f"--job {word!r}: a name, a colon, and RUNS x NODES x HOURS, as "
            '"Data preparation: 2 x 46 x 6"'
        )
    what, runs, nodes, hours = found.groups()
    source = f"given: --job {word!r}"
    made = {
        "runs": counted(int(runs), "S", source),
        "nodes": counted(int(nodes), "S", source),
        "hours": timed(float(hours), "S", source),
    }
    for i, row in enumerate(rows):
        if row.what.lower() == what.lower():
            if row.key == "production":
                raise CampaignError(f"--job {word!r}: the production run is simulated, not given")
            return [*rows[:i], replace(row, **made), *rows[i + 1 :]]  # type: ignore[arg-type]
    key = re.sub(r"\W+", "_", what.lower())
    return [*rows, Row(key, what, made["runs"], made["nodes"], made["hours"], say("As given."))]
