from __future__ import annotations

from dataclasses import replace

import pytest

from alpenglow.parallel.layout import Layout
from alpenglow.parallel.timeline import Durations, bubble, timeline
from alpenglow.train.rehearsal_outcome import Outcome
from alpenglow.train.rehearsal_prediction import (
    learnt_from,
    message_seconds,
    play_rehearsal,
    prediction_table,
)

TOOK = Durations(0.2, 0.2, 0.2)

# `nox -s rehearsal` on 2 x Intel Xeon, as src/README.md has it: step in seconds, idle share.
MEASURED = {
    ("1f1b", 12, 8): (11.478, 0.582),
    ("zb-h1", 12, 8): (7.931, 0.394),
    ("1f1b", 12, 16): (16.364, 0.413),
    ("zb-h1", 12, 16): (12.001, 0.199),
    ("1f1b", 6, 8): (7.848, 0.388),
    ("zb-h1", 6, 8): (5.875, 0.182),
}


def outcome(schedule: str, stages: int, count: int, seconds: float, idle: float) -> Outcome:
    layout = Layout(stages, 1, 2)
    return Outcome(schedule, layout, count, 0.002, 0.0, idle, (idle, idle), 0.0, seconds)


RUNS = [outcome(*case, *measured) for case, measured in MEASURED.items()]


def test_measured_rehearsals_follow_from_one_of_them() -> None:
    source = learnt_from(RUNS)
    assert (source.schedule, source.layout.pipeline, source.micro_batches) == ("zb-h1", 12, 8)
    message_s = message_seconds(source, TOOK, cores=2)
    for each in RUNS:
        played = play_rehearsal(
            each.schedule, each.layout, each.micro_batches, TOOK, message_s, cores=2
        )
        assert played.seconds == pytest.approx(each.measured_s, rel=0.03)
        assert played.idle == pytest.approx(each.measured, rel=0.03)


@pytest.mark.parametrize("schedule", ["1f1b", "zb-h1"])
def test_with_a_core_for_each_rank_it_is_the_timeline(schedule: str) -> None:
    took = replace(TOOK, backward_weight=[0.1, 0.2, 0.3, 0.4], transfer=0.01)
    layout = Layout(4, 1, 3)
    played = play_rehearsal(schedule, layout, 6, took, 0.01, cores=12)
    slots = timeline(schedule, 4, 6, took)
    assert played.seconds == pytest.approx(max(slot.end for slot in slots))
    assert played.idle == pytest.approx(bubble(schedule, 4, 6, took))
    shared = play_rehearsal(schedule, layout, 6, took, 0.01, cores=1)
    assert shared.seconds > played.seconds


def test_a_message_of_known_cost_is_found() -> None:
    known = play_rehearsal("zb-h1", Layout(6, 1, 2), 8, TOOK, 0.0015, cores=2)
    made = outcome("zb-h1", 6, 8, known.seconds, known.idle)
    assert message_seconds(made, TOOK, cores=2) == pytest.approx(0.0015, rel=1e-3)
    text = prediction_table([made, *RUNS], TOOK, cores=2)
    assert "1.50 ms of one of 2 cores" in text
    assert text.count("(learnt from)") == 1
    assert len(text.splitlines()) == 4 + 7
    # Shorter than its passes alone: no message is as cheap as that.
    assert message_seconds(replace(made, measured_s=1.0), TOOK, cores=2) < 1e-6
