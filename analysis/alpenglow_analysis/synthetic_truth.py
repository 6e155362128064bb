"""How much time each planted fault took: the same steps, the same dice, played without it.

Two sizes are given, since two faults together may cost more or less than each alone:

    cured_ns     what the run would have gained if this fault alone had been cured
    ordered_ns   what it adds to the faults before it, in the order of the account: data, unequal
                 stages, slow ranks, jitter, links

Both in ns of all ranks, over the steps that survived.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from alpenglow_analysis.planted import (
    Clocks,
    DataHiccups,
    HeavyStage,
    Jitter,
    LongCheckpoint,
    SlowLink,
    SlowNode,
    SlowRank,
)
from alpenglow_analysis.synthetic_rows import NodeClocks
from alpenglow_analysis.synthetic_work import Fault, Times

if TYPE_CHECKING:
    from alpenglow_analysis.synthetic import Synthetic

_ORDER: list[type[Fault]] = [DataHiccups, HeavyStage, SlowRank, SlowNode, Jitter, SlowLink]


@dataclass(frozen=True)
class Past:
    """What the truth needs of a segment that has been written."""

    step: Times
    """[steps]: numbers."""
    begin: Times
    """[steps]: true ns."""
    length: Times
    """[steps]: ns."""
    clocks: NodeClocks


def truth(spec: Synthetic, records: Mapping[str, Past]) -> dict[str, Any]:
    """Say what was planted in a run, and how big it is.

    Args:
        spec: of the run.
        records: of its segments, by name.
    """
    steps = [fault for fault in spec.planted if type(fault) in _ORDER]
    steps.sort(key=lambda fault: _ORDER.index(type(fault)))
    actual = _survived(spec, steps)
    total = int(actual.sum())
    faults, before = [], _survived(spec, ())
    clean = int(before.sum())
    for i, fault in enumerate(steps):
        after = actual if i + 1 == len(steps) else _survived(spec, steps[: i + 1], before, fault)
        without = _survived(spec, [*steps[:i], *steps[i + 1 :]], actual, fault)
        cured = int((actual - without).sum())
        faults.append(
            fault.describe()
            | {
                "cured_ns": cured * spec.ranks,
                "ordered_ns": int((after - before).sum()) * spec.ranks,
                "slowdown": total / max(1, int(without.sum())),
                "equivalents": spec.ranks * cured / max(1, total),
                "steps": int((actual != without).sum()),
            }
        )
        before = after
    for other in spec.planted:
        if isinstance(other, LongCheckpoint):
            faults.append(other.describe() | {"cured_ns": other.extra_ns * spec.ranks})
    return {
        "format": 1,
        "ranks": spec.ranks,
        "steps": len(actual),
        "step_ns": total // max(1, len(actual)),
        "clean_step_ns": clean // max(1, len(actual)),
        "faults": faults,
        "lost": _lost(spec, records),
        "clocks": _clocks(spec, records),
    }


def _survived(
    spec: Synthetic,
    faults: Sequence[Fault],
    known: Times | None = None,
    changed: Fault | None = None,
) -> Times:
    """[steps]: lengths of the steps that no later segment trained again, with these faults.

    Args:
        spec: of the run.
        faults: those that act.
        known: lengths with the same faults but one.
        changed: that one; blocks that it does not touch are taken from `known`.
    """
    model, found, place = spec.with_faults(faults), [np.empty(0, np.int64)], 0
    for number, segment in enumerate(spec.segments):
        if segment.activity != "pretrain":
            continue
        lost_from = spec.lost_from(number)
        for block in model.blocks(segment.first_step, segment.last_step):
            kept = block[block < (lost_from or block[-1] + 1)]
            if not len(kept):
                continue
            touched = changed is None or changed.touches(int(block[0]), int(block[-1]))
            if known is not None and not touched:
                found.append(known[place : place + len(kept)])
            else:
                dice = np.random.default_rng([spec.seed, number, int(block[0])])
                found.append(model.play(block, dice).length[: len(kept)])
            place += len(kept)
    return np.concatenate(found)


def _lost(spec: Synthetic, records: Mapping[str, Past]) -> list[dict[str, Any]]:
    """Steps that were given up: numbers, and ns of all ranks, of the cut step its begun part."""
    found = []
    for number, segment in enumerate(spec.segments):
        record, lost_from = records.get(f"{1001 + number}.0"), spec.lost_from(number)
        if record is None or lost_from is None:
            continue
        given_up = record.step >= lost_from
        if given_up.any():
            lost = [lost_from, segment.last_step]
            whole = int(record.length[given_up].sum()) * spec.ranks
            cut = int(segment.cut * _next_length(spec, number)) if segment.killed else 0
            found.append(
                {
                    "segment": f"{1001 + number}.0",
                    "steps": lost,
                    "whole_steps_ns": whole,
                    "cut_step_ns": cut * spec.ranks,
                }
            )
    return found


def _next_length(spec: Synthetic, number: int) -> int:
    """Length of the step that was under way when a segment was killed."""
    step = spec.segments[number].last_step + 1
    return int(spec.lengths(number, step, step)[0])


def _clocks(spec: Synthetic, records: Mapping[str, Past]) -> dict[str, Any]:
    """By segment and node: two points of (its monotonic clock, true time less that), in ns."""
    if not any(isinstance(fault, Clocks) for fault in spec.planted):
        return {}
    found: dict[str, Any] = {}
    for name, record in records.items():
        if not len(record.step):
            continue
        moments = np.array([record.begin[0], record.begin[-1] + record.length[-1]])
        of_nodes = {}
        for node in range(spec.nodes):
            shown = record.clocks.at(moments, np.array([node]))
            of_nodes[f"n{node:03d}"] = np.stack([shown, moments - shown], axis=1).tolist()
        found[name] = of_nodes
    return found
