"""How the numbers of a report are defined, in formulas; and the field's words, in short."""

from __future__ import annotations

from alpenglow_analysis.bubble import in_words, schedule_name
from alpenglow_analysis.facts_table import charge_rule
from alpenglow_analysis.run import Run
from alpenglow_analysis.scaling import Rate, model_flops_utilisation
from alpenglow_analysis.units import count, percent
from alpenglow_analysis.utilisation import Account

GLOSSARY: dict[str, str] = {
    "bubble": "time a pipeline stage idles because the schedule gives it nothing to do",
    "charge": "nodes asked for x elapsed time, whatever was used of them",
    "equivalents": "a share of the charge as a number of whole GPUs (or ranks) that did only that",
    "HFU": "hardware FLOP/s utilisation: as MFU, and recomputed activations count as well",
    "imbalance": "stages whose passes differ in length: all wait for the longest",
    "jitter": "passes of one rank that differ from step to step, so that others wait by turns",
    "MFU": "model FLOP/s utilisation (Chowdhery et al. 2022): model FLOPs done / peak FLOPs",
    "micro-batch": "the part of a batch that goes through the pipeline at a time",
    "p2p": "point-to-point messages: activations and gradients between pipeline stages",
    "POP": "efficiencies of the Performance Optimisation and Productivity centre; each is a "
    "product of those below it",
    "recompute": "forward passes done again because activations were not kept",
    "replica": "one whole copy of the model: pipeline x tensor ranks",
    "segment": "one job of a chain that together make the run",
    "serialisation": "what ranks lose to dependencies alone, on a network that takes no time; the "
    "bubble lies here",
    "slow rank": "a rank whose compute is beyond that of its peers of the same stage, over all "
    "steps",
    "TALP": "efficiencies of the DLB library's monitor, in their form for GPUs",
    "transfer": "from the last arrival at an operation to its end: moving bytes",
    "unexplained": "what the replays do not explain: measured less modelled, never hidden",
    "useful": "forward and backward compute of steps that count",
    "wait": "from a rank's own arrival at an operation to the last arrival",
}


def method(run: Run, account: Account) -> list[tuple[str, str]]:
    """Name and definition of each number that this report gives."""
    unit = run.facts.unit
    rows = [
        ("Charge", f"{charge_rule(run)}; in {unit}-time: x {unit}s that a node holds."),
        (
            "Sum rule",
            "Every ns of the charge lies in exactly one row: integers throughout, and the rows add "
            "up to the charge exactly. Of nested spans the innermost counts.",
        ),
        (
            f"{unit}-equivalents",
            f"share x {unit}s charged; against another baseline: N x (1 - actual / ideal), the "
            "ideal being named beside it.",
        ),
        (
            "Throughput",
            "busy: tokens of a step / its median duration; charged: tokens of all steps that count "
            "/ elapsed time of all jobs; calendar: the same tokens / time from the first "
            "submission to the last end, queues included.",
        ),
    ]
    if run.facts.layout.pipeline > 1:
        rows.append(
            (
                "Bubble of the schedule",
                f"{schedule_name(run).upper()}: {in_words(run, run.facts.micro_batches)}, with "
                "equal stages and free messages; in POP's terms a loss of serialisation.",
            )
        )
    return rows


def flops(run: Run, account: Account, rates: list[Rate]) -> list[tuple[str, str]]:
    """MFU by each definition of model FLOPs, or why there is none."""
    steps = next((rate for rate in rates if rate.key == "steps"), None)
    if steps is None:
        return []
    facts, rows = run.facts, []
    for use in model_flops_utilisation(run, steps.tokens_per_s, account):
        text = (
            f"Model FLOPs by {use.formula}: {use.flops_per_token:.3g} a token, so "
            f"{count(use.flops_per_s)}FLOP/s at the median step"
        )
        if use.fraction is None:
            text += "; peak FLOP/s of this machine is unknown, so is MFU."
        else:
            text += (
                f"; MFU = tokens/s x FLOPs a token / ({facts.unit}s x peak) = "
                f"{percent(use.fraction)}."
            )
            if use.hardware_fraction is not None:
                text += f" HFU, with what was recomputed: {percent(use.hardware_fraction)}."
        rows.append(("MFU", text))
    if facts.unit == "rank":
        rows.append(
            (
                "Shared cores",
                "Ranks have no GPU of their own here. Where they share cores, a pass takes as long "
                "as the sharing makes it, so the ideals are those of this crowd and not of free "
                "cores.",
            )
        )
    return rows


def glossary(said: str) -> list[tuple[str, str]]:
    """The words of the field that occur in a text, in order."""
    lower = said.lower()
    return [(word, meaning) for word, meaning in GLOSSARY.items() if word.lower() in lower]
