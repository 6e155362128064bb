"""What the numbers of a run say, in sentences: the biggest loss first, each with what it means."""

from __future__ import annotations

from alpenglow_analysis.bubble import ideal_bubble, in_words, schedule_name
from alpenglow_analysis.run import Run
from alpenglow_analysis.scaling import Rate, idle_equivalents
from alpenglow_analysis.units import count, percent, work
from alpenglow_analysis.utilisation import PIECES, Account

WORTH_SAYING = 0.01
"""A loss below this share of the charge gets no sentence of its own."""

MEANING = {
    "unused": "These nodes were asked for and charged, and no rank was placed on them; ask for "
    "fewer, or place ranks on them.",
    "unrecorded": "These ranks were charged and left no readable events, so nothing can be said "
    "of what they did.",
    "launch": "This lies before the first and after the last recorded moment of a rank: launching "
    "the processes, importing libraries, ending the job. Longer segments spread it.",
    "startup": "Each segment builds the model and reads its checkpoint anew; longer segments "
    "spread it.",
    "lost": "These steps were trained, then trained again from an older checkpoint; checkpoints "
    "at shorter intervals lose less.",
    "checkpoint": "Training stands still while a checkpoint is written; longer intervals, or "
    "writing beside training, cost less.",
    "evaluate": "Validation during the run; evaluate less often or on fewer batches.",
    "between": "Time between one step and the next that no span names.",
    "data": "Ranks waited for tokens; prefetch further ahead.",
    "tensor": "Collectives of the tensor-parallel group inside forward and backward passes; a "
    "lower tensor-parallel degree, or one within fast links, shortens them.",
    "gradient": "Reduction of gradients, with the wait of the ranks that come to it early.",
    "optimizer": "The optimizer step, with the wait inside its collectives.",
    "inside": "Inside steps, in no recorded operation: ranks that are done early and wait for the "
    "others, and the host's own work between operations.",
    "recompute": "Forward passes done twice to save memory; keep more activations where memory "
    "allows.",
}


def findings(run: Run, account: Account, rates: list[Rate], *, most: int = 4) -> list[str]:
    """Sentences about a run; an empty account gives one sentence that says so."""
    unit = run.facts.unit
    if account.charged_ns <= 0:
        return ["Nothing was charged yet: no segment has lasted."]
    said = [
        f"Of 100 {unit}-seconds charged, {100 * account.share('compute'):.1f} were forward and "
        "backward compute of steps that count; the other "
        f"{100 * (1 - account.share('compute')):.1f} are accounted for below."
    ]
    for key, ns in account.losses[:most]:
        share = ns / account.charged_ns
        if share < WORTH_SAYING:
            break
        said.append(
            f"{PIECES[key]}: {percent(share)} of the charge, "
            f"{work(ns, account.charged_ns, unit)}. {_meaning(run, account, key)}"
        )
    gap = _gap(run, rates)
    if gap:
        said.append(gap)
    return said


def _meaning(run: Run, account: Account, key: str) -> str:
    if key != "pipeline":
        if key == "lost" and account.lost_steps:
            some = f"{account.lost_steps} steps" if account.lost_steps != 1 else "One step"
            return f"{some} in all. {MEANING[key]}"
        return MEANING.get(key, "")
    p, m = run.facts.layout.pipeline, run.facts.micro_batches
    if p == 1:
        return "There is one stage only, so this is not a bubble."
    twice = ideal_bubble(run, 2 * m)
    return (
        f"Stages wait for their neighbours, or move activations and gradients. By theory "
        f"{schedule_name(run).upper()} with {p} stages and {m} micro-batches idles "
        f"{in_words(run, m)} of a step; {2 * m} micro-batches would make it {percent(twice)}. Part "
        "of that wait can lie in other rows: a stage that is done early waits at the end of the "
        "step."
    )


def _gap(run: Run, rates: list[Rate]) -> str:
    """Idle equivalents of the charged time against the run's own compute."""
    by_key = {rate.key: rate for rate in rates}
    ideal, actual = by_key.get("compute"), by_key.get("charged")
    if ideal is None or actual is None:
        return ""
    ranks, unit = run.facts.ranks, run.facts.unit
    lost = idle_equivalents(ranks, actual.tokens_per_s, ideal.tokens_per_s)
    return (
        f"Over the charged time the run made {count(actual.tokens_per_s)} tokens/s; its own "
        f"forward and backward passes without any waiting would give "
        f"{count(ideal.tokens_per_s)}. Against that baseline {lost:.3g} of {ranks} {unit}s were "
        f"idle ({unit}-equivalents: N x (1 - actual/ideal))."
    )
