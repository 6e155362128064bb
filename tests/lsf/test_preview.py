from __future__ import annotations

from pathlib import Path

import pytest

from alpenglow_lsf.machine import load
from alpenglow_lsf.preview import chain, job_lines, segment_node_hours, step_lines
from alpenglow_lsf.script import Script

ROOT = Path(__file__).parents[2]


def test_a_chain_of_whole_segments() -> None:
    # 10 h of work in segments of 2 h, of which a quarter of an hour each is lost.
    found = chain(tokens=36_000, tokens_per_second=1, nodes=4, walltime_s=7200, lost_s=900)
    assert found.segments == 6
    assert found.hours == pytest.approx(10 + 6 * 0.25)
    assert found.node_hours == pytest.approx(46)


@pytest.mark.parametrize(
    ("rate", "lost", "says"), [(0.0, 0.0, "greater than 0"), (1.0, 7200.0, "are lost of a segment")]
)
def test_a_chain_that_never_ends_is_refused(rate: float, lost: float, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        chain(tokens=1, tokens_per_second=rate, nodes=1, walltime_s=7200, lost_s=lost)


def test_nothing_left_needs_no_segment() -> None:
    assert chain(tokens=0, tokens_per_second=1, nodes=9, walltime_s=60, lost_s=0).segments == 0


def test_512_nodes_on_paper() -> None:
    summit = load("summit")
    script = Script.read(ROOT / "jobs" / "pretrain_7b.lsf")
    lines = job_lines(script, script.spec, summit, ROOT)
    assert "    ALPENGLOW_MACHINE=summit" in lines[lines.index("  exported by env/summit.sh:") :]
    assert "bin        92-921 nodes: at most 12 h" in lines
    assert "charge     6,144 node-hours a full segment (nodes x elapsed)" in lines
    assert "then       jobs/report.lsf, jobs/convert.lsf" in lines
    assert segment_node_hours(512, 720) == 6144
    [(_, step)] = script.steps()
    shown = step_lines(step, script.spec, summit, tensor=2)
    assert shown[0] == "ranks      3,072 on 512 nodes: 512 sets, 1 a node, 6 ranks each"
    assert shown[1].startswith("threads    at most 28 a rank")
    [line] = [text for text in shown if text.startswith("step ")]
    assert line.endswith("python -m alpenglow.train jobs/pretrain_7b.toml")


def test_exported_variables_and_names_that_a_shell_would_read_are_quoted() -> None:
    body = (
        "export FEW='two words'\njsrun -n1 -E 'NAME=$(touch x)' sh -c 'echo \"$HOME\"; rm' 'a b'\n"
    )
    script = Script.parse("#!/bin/bash\n#BSUB -W 1:00\n#BSUB -nnodes 1\n" + body)
    assert "variables  FEW=two words" in job_lines(script, script.spec, load("summit"))
    [(_, step)] = script.steps()
    [line] = [
        text for text in step_lines(step, script.spec, load("summit")) if text.startswith("step ")
    ]
    assert "-E 'NAME=$(touch x)' sh -c 'echo \"$HOME\"; rm' 'a b'" in line
