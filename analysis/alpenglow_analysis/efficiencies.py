"""POP's and TALP's efficiencies of the steps of a run.

POP (https://pop-coe.eu/node/69): of the runtime of a step,

    parallel efficiency = load balance x communication efficiency
    load balance = mean useful / max useful
    communication efficiency = max useful / runtime = serialisation x transfer
    serialisation = max useful / runtime on an ideal network
    transfer = runtime on an ideal network / runtime

Useful is time in forward, backward, weight passes and recomputation, collectives left out; the
runtime on an ideal network comes from replaying the sampled steps without transfers. The pipeline
bubble is in serialisation: it is there on any network. Above 0.8 counts as acceptable with POP.

TALP's form for GPUs (DLB, Barcelona Supercomputing Center, perf_metrics.c): parallel = load balance
x communication x orchestration, where a device is active while it computes or communicates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from alpenglow_analysis.replayed import NETWORK, played, recorded
from alpenglow_analysis.sample import Sample
from alpenglow_analysis.utilisation import IN_STEP, Account

ACTIVE = ("pipeline", "tensor", "gradient", "optimizer", "recompute", "compute")
"""Parts of a step in which a device runs kernels, of communication too."""


@dataclass(frozen=True)
class Pop:
    """Efficiencies between 0 and 1; those of a product multiply to it."""

    parallel: float
    load_balance: float
    communication: float
    serialisation: float
    transfer: float


@dataclass(frozen=True)
class Talp:
    """Efficiencies of the devices; the last three multiply to the first."""

    parallel: float
    load_balance: float
    communication: float
    orchestration: float


@dataclass(frozen=True)
class Efficiencies:
    """Both, and the bubble's place in POP's."""

    pop: Pop
    talp: Talp
    steps: int
    """Sampled steps that POP's rest on; TALP's rest on all."""


def efficiencies(account: Account, sample: Sample | None) -> Efficiencies | None:
    """Compute both; None where no step was sampled."""
    if sample is None or not len(account.step):
        return None
    weight = sample.weight
    runtime = 1e9 * sample.mean_s
    useful = np.average(sample.busy, axis=0, weights=weight)
    whole = recorded(sample)
    network_free, as_it_was = played(whole.without(*NETWORK)), played(whole)
    ideal = float(weight @ network_free) / float(weight @ as_it_was) * runtime
    most = float(useful.max())
    balance = float(useful.mean()) / most
    pop = Pop(
        parallel=float(useful.mean()) / runtime,
        load_balance=balance,
        communication=most / runtime,
        serialisation=most / ideal,
        transfer=ideal / runtime,
    )
    parts = account.step_pieces
    busy = parts[:, [IN_STEP.index("compute"), IN_STEP.index("recompute")]].sum(axis=1)
    active = parts[:, [IN_STEP.index(name) for name in ACTIVE]].sum(axis=1)
    elapsed = float(np.mean(parts.sum(axis=1)))
    talp = Talp(
        parallel=float(busy.mean()) / elapsed,
        load_balance=float(busy.mean() / busy.max()),
        communication=float(busy.max() / active.max()),
        orchestration=float(active.max()) / elapsed,
    )
    return Efficiencies(pop, talp, len(sample))
