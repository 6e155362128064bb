from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from alpenglow_lsf.job import JobSpec
from alpenglow_lsf.machine import load
from alpenglow_lsf.options import OptionError
from alpenglow_lsf.review import RULES, review, review_script
from alpenglow_lsf.script import Script, render
from alpenglow_lsf.validate import check, check_script

HEAD = "#!/bin/bash\n#BSUB -W 2:00\n#BSUB -nnodes 512\n"
PARENT = "python -m alpenglow_lsf.run"
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


@pytest.mark.parametrize("name", ["two\nlines", "bell\a", "\x00"])
def test_a_value_that_would_leave_its_line_is_refused(name: str) -> None:
    with pytest.raises(OptionError, match="holds a character that is not text") as caught:
        JobSpec(output=name)
    assert caught.value.rule == "name"


@pytest.mark.parametrize("text", ["$(touch made)", "a b", "it's", '"', "`id`", "; touch made", "*"])
def test_no_shell_acts_on_what_a_rendered_script_holds(tmp_path: Path, text: str) -> None:
    script = tmp_path / "job.lsf"
    script.write_text(render(JobSpec(output=f"{text}.out", folder=text), "echo ran\n"))
    done = subprocess.run(
        ["bash", script.name], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("ran\n", "")
    assert [path.name for path in tmp_path.iterdir()] == ["job.lsf"]
    assert Script.read(script).spec.output == f"{text}.out"


def test_smt_modes() -> None:
    assert JobSpec().smt is None
    assert JobSpec(alloc_flags=("nvme", "SMT2")).smt == 2
    line = "jsrun -r1 -a8 -c2 -b packed:smt:1 x\n"
    assert check(Script.parse(HEAD + "#BSUB -alloc_flags smt4\n" + line), load("summit")) == []
    found = check(Script.parse(HEAD + "#BSUB -alloc_flags smt1\n" + line), load("summit"))
    assert [f.rule for f in found] == ["geometry"]
    assert "in SMT mode 1" in str(found[0])


@pytest.mark.parametrize(
    ("body", "rules"),
    [
        ("jsrun -n1 hostname & jsrun -n1 date & wait\n", []),
        ("jsrun -n1 hostname > out.$LSB_JOBID 2>&1\n", []),
        ("jsrun -n1 hostname &> out\n", []),
        ("jsrun -n1 hostname > out 2>&1 &\n", ["wait"]),
        ("jsrun -n1 sh -c 'never closed\n", ["syntax"]),
        ("if true; then\njsrun -n1 hostname\n", ["syntax"]),
        ("python --version\njsrun -n1 hostname\n", []),
        ("unset TMPDIR\njsrun -n1 hostname\n", []),
        ("cat <<END > x\npython work.py\nEND\njsrun -n1 hostname\n", []),
        ("exec > log\njsrun -n1 hostname\n", []),
        ("jsrun -n1 python $PROGRAM.py\n", []),
        ("for i in 1 2; do jsrun -n1 hostname; done\n", []),
        ("if true; then python work.py; fi\n", ["launch_node"]),
        ("OMP_NUM_THREADS=4 python3.11 work.py | tee log\n", ["launch_node"]),
        ("TMPDIR=/x jsrun -n1 hostname\n", ["tmpdir"]),
        ("env TMPDIR=/x jsrun -n1 hostname\n", ["tmpdir"]),
        ("torchrun --nproc 6 train.py\n", ["launcher"]),
        (
            "exec python -m alpenglow_lsf.run --run r --activity a -- python work.py\n",
            ["launch_node"],
        ),
        ("exec python -m alpenglow_lsf.run --run r --activity a\n", ["launch_node"]),
        ("exec python -m alpenglow_lsf.run --run r -- jsrun -n1 x\n", ["option"]),
    ],
)
def test_what_a_body_may_and_may_not_do(tmp_path: Path, body: str, rules: list[str]) -> None:
    head = "#!/bin/bash\n#BSUB -W 2:00\n#BSUB -nnodes 1\n"
    found = review_script(Script.parse(head + body), load("summit"), base=tmp_path)
    assert [f.rule for f in found if f.refuses] == rules, [str(f) for f in found]


def test_files_are_looked_for_where_the_job_starts(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "env.sh").write_text("")
    text = "#!/bin/bash\n#BSUB -W 1:00\n#BSUB -nnodes 1\nsource ${E:-env.sh}\njsrun -n1 x\n"
    missing = review_script(Script.parse(text, "s"), load("summit"), base=tmp_path)
    assert [(f.rule, f.where) for f in missing] == [("file", "s:4")]
    inside = text.replace("#BSUB -W", "#BSUB -cwd there\n#BSUB -W")
    assert review_script(Script.parse(inside, "s"), load("summit"), base=tmp_path) == []


def test_scripts_of_another_system_are_found(tmp_path: Path) -> None:
    text = "#!/bin/bash\n#BSUB -W 1:00\n#BSUB -nnodes 1\njsrun -n1 x\n"
    for changed, rule in (
        (text.removeprefix("#!/bin/bash\n"), "script"),
        (text.replace("\n", "\r\n"), "script"),
        (text.replace("#BSUB -W", "#SBATCH -t 1:00\n#BSUB -W"), "directive"),
    ):
        path = tmp_path / "job.lsf"
        path.write_bytes(changed.encode())
        assert [f.rule for f in review(path, load("summit"), base=tmp_path)] == [rule]


def test_every_rule_of_a_review_is_described() -> None:
    assert all(text and not text.endswith(".") for text in RULES.values())


def test_redirections_are_no_part_of_a_step() -> None:
    line = "jsrun -n1 python -m x '<|end|>' a.toml > out.%J 2>&1 &\nwait\n"
    [(_, step)] = Script.parse(HEAD + line).steps()
    assert step.command == ("python", "-m", "x", "<|end|>", "a.toml")
