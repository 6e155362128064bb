"""What the numbers of a run say, in sentences: the biggest loss first, each with its cure."""

from __future__ import annotations

from collections.abc import Sequence

from alpenglow_analysis.bubble import ideal_bubble, in_words, schedule_name
from alpenglow_analysis.episodes import Episode
from alpenglow_analysis.run import Run
from alpenglow_analysis.scaling import Rate, idle_equivalents
from alpenglow_analysis.study import Study
from alpenglow_analysis.units import amount, count, percent, work
from alpenglow_analysis.utilisation import PIECES, Account
from alpenglow_analysis.whatif import Scenario, scenarios

WORTH_SAYING = 0.01
"""A loss below this share of the charge gets no sentence of its own."""
WORTH_LEAVING_OUT = 1.1
"""A node this many times as slow as its peers is better not asked for again."""
MOST_NAMED = 3
"""Slow nodes that are named in one sentence."""

MEANING = {
    "unused": "These nodes were asked for and charged, and no rank was placed on them; ask for "
    "fewer, or place ranks on them.",
    "unrecorded": "These ranks were charged and left no readable events, or none from some step "
    "on, so nothing can be said of what they did then.",
    "launch": "This lies before the first and after the last recorded moment of a rank: launching "
    "the processes, importing libraries, ending the job. Longer segments spread it.",
    "startup": "Each segment builds the model anew; longer segments spread it.",
    "restart": "Each segment but the first reads a checkpoint; longer segments spread it.",
    "lost": "These steps were trained, then trained again from an older checkpoint; checkpoints "
    "at shorter intervals lose less.",
    "checkpoint": "Training stands still while a checkpoint is taken; longer intervals, or writing "
    "beside training, cost less.",
    "evaluate": "Validation during the run; evaluate less often or on fewer batches.",
    "between": "Time between one step and the next that no span names.",
    "waiting": "Ranks waited in steps, and nothing says for whom: no step has the spans of all "
    "ranks.",
    "data": "Ranks waited for tokens, and others for them; prefetch further ahead.",
    "bubble": "What the schedule idles with equal stages and a free network: more micro-batches a "
    "step, fewer stages or a schedule with a smaller bubble cure it.",
    "imbalance": "Stages have unequal work, and all wait for the slowest; split the layers by "
    "their cost, with embedding and head counted.",
    "slow_ranks": "Some ranks computed slower than others with the same work, and all waited.",
    "jitter": "Passes of equal work took unequal time; look for other load on the nodes, clocks "
    "that change, or a shared network.",
    "p2p": "Activations and gradients travel between stages while the stages wait; stages that "
    "are neighbours on one node, or fewer stages, make it less.",
    "tensor": "Collectives of the tensor-parallel group inside forward and backward passes; a "
    "lower tensor-parallel degree, or one within fast links, shortens them.",
    "gradient": "Reduction of gradients after the last backward pass; overlapping it with that "
    "pass, or fewer bytes, hides it.",
    "optimizer": "The optimizer step, with its collectives.",
    "unexplained": "The replay of the schedule with the run's own times does not make this up: the "
    "host's work between operations, or what is not modelled.",
    "recompute": "Forward passes done twice to save memory; keep more activations where memory "
    "allows.",
}
"""What a piece of the charge is and what cures it."""

CURES: dict[str, tuple[str, ...]] = {
    "bubble": ("schedule_zb-h1", "schedule_1f1b", "micro_batches_double"),
    "imbalance": ("balanced", "heavy_stage"),
    "slow_ranks": ("slow_ranks",),
    "jitter": ("jitter",),
    "p2p": ("slow_links",),
    "gradient": ("slow_links", "gradient"),
    "data": ("data",),
}
"""Scenarios that say what curing a piece would bring."""


def findings(
    run: Run,
    account: Account,
    rates: list[Rate],
    found: Study | None = None,
    *,
    changes: Sequence[Scenario] | None = None,
    most: int = 4,
) -> list[str]:
    """Sentences about a run; an empty account gives one sentence that says so.

    Args:
        run: the run.
        account: its account.
        rates: its ideal and actual rates.
        found: its study; with it slow nodes are named and cures have numbers.
        changes: its `scenarios`, where they have been played already.
        most: losses that get a sentence.
    """
    unit = run.facts.unit
    if account.charged_ns <= 0:
        return ["Nothing was charged yet: no segment has lasted."]
    said = [
        f"Of 100 {unit}-seconds charged, {100 * account.share('compute'):.1f} were forward and "
        "backward compute of steps that count; the other "
        f"{100 * (1 - account.share('compute')):.1f} are accounted for below."
    ]
    if changes is None:
        changes = [] if found is None else scenarios(run, found)
    for key, ns in account.losses[:most]:
        share = ns / account.charged_ns
        if share < WORTH_SAYING:
            break
        said.append(
            f"{PIECES[key]}: {percent(share)} of the charge, "
            f"{work(ns, account.charged_ns, unit)}. {cure(run, account, key, found, changes)}"
        )
    named = {key for key, _ in account.losses[:most]}
    if found is not None and found.episodes and "slow_ranks" not in named:
        said.append(slow_spells(found.episodes))
    gap = _gap(run, rates)
    if gap:
        said.append(gap)
    return said


def cure(
    run: Run,
    account: Account,
    key: str,
    found: Study | None = None,
    changes: Sequence[Scenario] = (),
) -> str:
    """What a loss is and what would cure it, with the number where a replay gives one."""
    text = _meaning(run, account, key)
    if key == "slow_ranks" and found is not None and found.episodes:
        text += f" {slow_spells(found.episodes)}"
    gains = [each for each in changes if each.key in CURES.get(key, ()) and each.gain > 0]
    if gains:
        best = gains[0]
        text += f" Replayed: {best.sentence[0].lower()}{best.sentence[1:]}"
    return text


def slow_spells(episodes: Sequence[Episode]) -> str:
    """Name the nodes that were slow, when and by how much."""
    named = [
        f"{one.where} computed {one.factor:.2f} times as long as its peers "
        + ("in all steps" if one.whole_run else f"from step {one.first_step} to {one.last_step}")
        for one in episodes[:MOST_NAMED]
    ]
    rest = len(episodes) - len(named)
    more = f"; {rest} more were slow for a while" if rest else ""
    bad = max(one.factor for one in episodes) >= WORTH_LEAVING_OUT
    advice = " Leave such nodes out of the next job." if bad else ""
    return f"{'; '.join(named)}{more}.{advice}"


def _meaning(run: Run, account: Account, key: str) -> str:
    if key == "lost" and account.lost_steps:
        some = f"{account.lost_steps} steps" if account.lost_steps != 1 else "One step"
        return f"{some} in all. {MEANING[key]}"
    p, m = run.facts.layout.pipeline, run.facts.micro_batches
    if key != "bubble" or p == 1:
        return MEANING.get(key, "")
    twice = ideal_bubble(run, 2 * m)
    return (
        f"By theory {schedule_name(run).upper()} with {p} stages and {m} micro-batches idles "
        f"{in_words(run, m)} of a step; {2 * m} micro-batches would make it {percent(twice)}."
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
        f"{count(ideal.tokens_per_s)}. Against that baseline {amount(lost)} of {ranks:,} {unit}s "
        f"were idle ({unit}-equivalents: N x (1 - actual/ideal))."
    )
