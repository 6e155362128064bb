"""What cures each loss, in a sentence short enough for the first screen of a report."""

from __future__ import annotations

from alpenglow_analysis.bubble import ideal_bubble, schedule_name
from alpenglow_analysis.run import Run
from alpenglow_analysis.units import percent
from alpenglow_analysis.utilisation import Account

CURES: dict[str, str] = {
    "unused": "Ask for fewer nodes, or place ranks on these.",
    "unrecorded": "Find out why these ranks left no events; nothing is known of what they did.",
    "launch": "Launching, imports and the end of the job: longer jobs spread it, a packed "
    "environment on node-local storage shortens it.",
    "startup": "Each job builds the model anew: longer jobs spread it.",
    "restart": "Each job reads its checkpoint: longer jobs spread it, local copies shorten it.",
    "lost": "Trained twice, as a job died behind its last checkpoint: save more often.",
    "checkpoint": "Training stands still while a checkpoint is taken: save less often, or beside "
    "training.",
    "evaluate": "Evaluate less often, or on fewer batches.",
    "between": "Time from one step to the next that no span names.",
    "waiting": "Keep the spans of some steps (sample_every), so that this can be told by cause.",
    "data": "Prefetch further ahead, or give the loader more cores.",
    "imbalance": "Some stages take longer than others: split the layers by their cost.",
    "slow_ranks": "Leave out the slow ranks that are named below: ask for spare nodes and let the "
    "pre-flight choose.",
    "jitter": "Passes vary from one to the next: look for noise of the hosts, throttling, uneven "
    "batches.",
    "p2p": "Bring neighbouring stages closer together (parallel.order), or move fewer bytes.",
    "tensor": "Lower the tensor-parallel degree, or keep its groups within the fast links.",
    "gradient": "Overlap the reduction with the backward pass, or reduce in half precision.",
    "optimizer": "Shard its state further, or gather weights beside the next step.",
    "unexplained": "The replays do not explain this: look at a trace of single kernels.",
    "recompute": "Keep more activations where memory allows (train.recompute).",
}


def cure(run: Run, account: Account, key: str) -> str:
    """What is done about a loss of this run; empty where nothing is known."""
    if key != "bubble":
        if key == "lost" and account.lost_steps:
            some = f"{account.lost_steps} steps" if account.lost_steps != 1 else "one step"
            return f"{some[0].upper()}{some[1:]} in all. {CURES['lost']}"
        return CURES.get(key, "")
    m, name = run.facts.micro_batches, schedule_name(run)
    text = (
        f"{name.upper()} with {run.facts.layout.pipeline} stages and {m} micro-batches idles "
        f"{percent(ideal_bubble(run, m))} of a step by itself; {2 * m} micro-batches: "
        f"{percent(ideal_bubble(run, 2 * m))}."
    )
    return text if name == "zb-h1" else f"{text} ZB-H1 fills part of it."
