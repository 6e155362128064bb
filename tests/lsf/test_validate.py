from __future__ import annotations

from pathlib import Path

import pytest

from alpenglow_lsf.job import JobSpec
from alpenglow_lsf.machine import load
from alpenglow_lsf.script import Script
from alpenglow_lsf.validate import check, check_script

HEAD = "#!/bin/bash\n#BSUB -W 2:00\n#BSUB -nnodes 512\n"
STEP = "jsrun -r1 -a6 -g6 -c42 -b packed:7 python -m x\n"


@pytest.mark.parametrize("machine", ["summit", "laptop"])
def test_a_good_script_has_no_findings(machine: str) -> None:
    assert check(Script.parse(HEAD + STEP), load(machine)) == []


@pytest.mark.parametrize(
    ("text", "rule", "where", "says"),
    [
        (
            HEAD.replace("512", "45").replace("2:00", "2:01"),
            "bin",
            "s:2",
            "-W 2:01 is more than 2 h",
        ),
        (HEAD.replace("2:00", "12:01"), "bin", "s:2", "for 92-921 nodes; ask for less, or for 922"),
        (HEAD.replace("512", "5000"), "nodes", "s:3", "at most 4608"),
        (HEAD + "#BSUB -q bach\n", "queue", "s:4", "known: batch, batch-hm, killable, debug"),
        (HEAD.replace("#BSUB -nnodes 512\n", ""), "nodes", "s", "-nnodes is missing"),
        (HEAD.replace("#BSUB -W 2:00\n", ""), "walltime", "s", "-W is missing"),
        (HEAD + "#BSUB -n 42\n", "nnodes", "s:4", "-nnodes 512 excludes -n"),
        (HEAD + '#BSUB -R "span[ptile=42]"\n', "nnodes", "s:4", "-nnodes 512 excludes -R"),
        (HEAD + "jsrun -r7 -g1 -c1 x\n", "geometry", "s:4", "7 GPUs, but a node has 6"),
        (HEAD + "jsrun -n3 -r2 x\n", "geometry", "s:4", "-n 3 is no multiple of -r 2"),
        (HEAD + "jsrun -r1 -a6 -c21 -b packed:7 x\n", "geometry", "s:4", "42 cores, but the set"),
        (HEAD + "jsrun --fast x\n", "jsrun", "s:4", "unknown option --fast"),
    ],
)
def test_each_rule_finds_its_fault(text: str, rule: str, where: str, says: str) -> None:
    found = check(Script.parse(text, "s"), load("summit"))
    assert [f.rule for f in found if f.refuses] == [rule]
    assert found[0].where == where
    assert says in str(found[0])


def test_a_command_line_can_mend_a_script() -> None:
    long = Script.parse(HEAD.replace("2:00", "13:00"))
    assert [f.rule for f in check(long, load("summit"))] == ["bin"]
    assert check(long, load("summit"), JobSpec(walltime=60)) == []


def test_no_walltime_of_the_queue_is_enough() -> None:
    found = check(Script.parse(HEAD.replace("2:00", "30:00")), load("summit"))
    assert "24 h or less and continue in a chain" in str(found[0])


def test_a_wasteful_step_is_only_a_note() -> None:
    found = check(Script.parse(HEAD + "jsrun -r1 -a1 -c21 x\n"), load("summit"))
    assert [(f.rule, f.refuses) for f in found] == [("geometry", False)]


def test_unreadable_scripts_are_findings(tmp_path: Path) -> None:
    missing = check_script(tmp_path / "no.lsf", load("summit"))
    assert [f.rule for f in missing] == ["script"]
    bad = tmp_path / "bad.lsf"
    bad.write_text("#BSUB -W 1:00:00\n")
    found = check_script(bad, load("summit"))
    assert [(f.rule, f.where) for f in found] == [("walltime", f"{bad}:1")]
    assert "has seconds" in str(found[0])
