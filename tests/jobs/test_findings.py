"""Forty wrong scripts, each with the one finding that it must get: rule and line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alpenglow.jobs import preview
from alpenglow.jobs.check import findings
from alpenglow_lsf import machine
from alpenglow_lsf.script import Script

ROOT = Path(__file__).parents[2]
GOOD = (ROOT / "jobs" / "pretrain_7b.lsf").read_text()
RECIPE = (ROOT / "jobs" / "pretrain_7b.toml").read_text()
STEP = "jsrun -r1 -a6 -g6 -c42 -b packed:7 -l gpu-cpu"
TRAIN = "python -m alpenglow.train"
FLIGHT = "python -m alpenglow_profiling.preflight {} -- " + TRAIN
# Lines of the good script: 5 -J, 6 -nnodes, 7 -W, 8 -q, 9 -alloc_flags, 10 -wa, 11 -wt, 12 -o,
# 13 -e, 15 source, 17 the command (which goes on over 18 and 19).

WRONG = [
    # nodes, walltime, queue, bin
    ("bin", 7, [("-W 12:00", "-W 12:30")]),
    ("bin", 7, [("-nnodes 512", "-nnodes 64")]),
    ("nodes", 6, [("-nnodes 512", "-nnodes 64"), ("-q batch", "-q batch-hm")]),
    ("nodes", 6, [("-nnodes 512", "-nnodes 512.0")]),
    ("nodes", None, [("#BSUB -nnodes 512\n", "# no nodes\n")]),
    ("walltime", None, [("#BSUB -W 12:00\n", "# no time\n")]),
    ("walltime", 7, [("-W 12:00", "-W 12:00:00")]),
    ("walltime", 7, [("-W 12:00", "-W 11:75")]),
    ("queue", 8, [("-q batch", "-q bach")]),
    ("nnodes", 9, [("#BSUB -alloc_flags", "#BSUB -n 3072\n#BSUB -alloc_flags")]),
    ("nnodes", 9, [("#BSUB -alloc_flags", '#BSUB -R "span[ptile=42]"\n#BSUB -alloc_flags')]),
    # options
    ("alloc_flags", 10, [("#BSUB -wa", "#BSUB -alloc_flags nvme\n#BSUB -wa")]),
    ("alloc_flags", 9, [("nvme smt4", "nvme smt4 smt1")]),
    ("alloc_flags", 9, [("gpudefault", "gpudefaults")]),
    ("warning", 10, [("#BSUB -wt 10\n", "#\n")]),
    ("warning", 11, [("#BSUB -wa URG\n", "#\n")]),
    ("warning", 11, [("-wt 10", "-wt 12:00")]),
    ("option", 6, [("-nnodes", "--nnodes")]),
    ("option", 5, [("-J pretrain_7b", "-Jpretrain_7b")]),
    ("name", 5, [("-J pretrain_7b", '-J "my run; rm -rf x"')]),
    ("directive", 8, [("#BSUB -q batch", "# BSUB -q debug")]),
    # what the body does
    ("chain", 17, [("-q batch", "-q debug"), ("-W 12:00", "-W 2:00")]),
    (
        "chain",
        8,
        [
            ("#BSUB -q batch", '#BSUB -q debug -w "ended(17)"'),
            ("-W 12:00", "-W 2:00"),
            ("--then jobs/report.lsf --then jobs/convert.lsf ", ""),
        ],
    ),
    ("tmpdir", 16, [("\nexec", "export TMPDIR=/tmp/me\nexec")]),
    ("tmpdir", 17, [("jsrun -r1", "jsrun -E TMPDIR=/tmp -r1")]),
    ("launch_node", 16, [("\nexec", "python tokenize.py\nexec")]),
    ("launch_node", 17, [(f'{STEP} --smpiargs="-disable_gpu_hooks" \\\n    ', "")]),
    ("launcher", 17, [(f'{STEP} --smpiargs="-disable_gpu_hooks"', "mpirun -np 3072")]),
    ("file", 15, [("env/summit.sh", "env/sumit.sh")]),
    ("recipe", 17, [("jobs/pretrain_7b.toml", "jobs/pretrain_8b.toml")]),
    ("then", 17, [("jobs/report.lsf", "jobs/reprot.lsf")]),
    ("output", 12, [("-o pretrain", "-o logs/pretrain")]),
    ("exec", 21, [("train jobs/pretrain_7b.toml\n", "train jobs/pretrain_7b.toml\necho done\n")]),
    ("wait", 16, [("\nexec", "jsrun -n1 hostname &\nexec")]),
    ("nvme", 16, [("nvme smt4", "smt4"), ("\nexec", "export CACHE=/mnt/bb/$USER\nexec")]),
    ("master", 16, [("\nexec", "M=$(sort -u $LSB_DJOB_HOSTFILE | head -1)\nexec")]),
    # geometry
    ("geometry", 17, [("-r1 -a6 -g6 -c42", "-r7 -a1 -g1 -c6"), ("packed:7", "rs")]),
    ("geometry", 17, [("packed:7", "packed:8")]),
    ("geometry", 17, [("-l gpu-cpu", "-l GPU-CPU")]),
    ("geometry", 17, [("jsrun -r1", "jsrun -n513 -r1")]),
    ("jsrun", 17, [("-l gpu-cpu", "--latency gpu-cpu")]),
    ("gpu_mode", 17, [("gpudefault ", ""), ("-a6", "-a12"), ("packed:7", "packed:3")]),
    ("smpi", 17, [('"-disable_gpu_hooks"', "off"), ("python -m ", "python -m mpi4py -m ")]),
    ("threads", 17, [("jsrun -r1", "jsrun -E OMP_NUM_THREADS=42 -r1")]),
    # the recipe on this many ranks
    ("layout", 17, [("-nnodes 512", "-nnodes 511")]),
    ("batch", 17, [("-nnodes 512", "-nnodes 516")]),
    ("batch", 17, [("pretrain_7b.toml", "pretrain_7b.toml batch.micro_batch_size=3")]),
    (
        "memory",
        17,
        [("pretrain_7b.toml", "pretrain_7b.toml train.attention=plain")],
    ),
    (
        "memory",
        17,
        [("train jobs/pretrain_7b.toml", "train jobs/pretrain_7b.toml precision.dtype=fp32")],
    ),
    (
        "memory",
        17,
        [("pretrain_7b.toml", "pretrain_7b.toml layout=published train.recompute=none")],
    ),
    # spare nodes
    ("preflight", 17, [(TRAIN, FLIGHT.format("--spare 512"))]),
    ("preflight", 17, [(TRAIN, FLIGHT.format("--spares 2"))]),
    ("layout", 17, [("-nnodes 512", "-nnodes 514"), (TRAIN, FLIGHT.format("--spare 1"))]),
    (
        "batch",
        17,
        [("-nnodes 512", "-nnodes 514"), (TRAIN, FLIGHT.format("--spare 2 --shrink 508,256"))],
    ),
    ("recipe", 17, [("pretrain_7b.toml", "pretrain_7b.toml train.stpes=3")]),
    ("recipe", 17, [("pretrain_7b.toml", "pretrain_7b.toml layout=publisht")]),
    ("recipe", 17, [("pretrain_7b.toml", "pretrain_7b.toml parallel.tensor=3")]),
]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("a checkout")
    for name in ("jobs/report.lsf", "jobs/convert.lsf", "env/summit.sh"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("#!/bin/bash\n")
    (folder / "jobs/pretrain_7b.toml").write_text(RECIPE)
    return folder


def test_there_are_forty_and_each_is_another() -> None:
    assert len(WRONG) >= 40
    assert len({str(edits) for _, _, edits in WRONG}) == len(WRONG)


@pytest.mark.parametrize(
    ("rule", "line", "edits"), WRONG, ids=[f"{i:02d}-{w[0]}" for i, w in enumerate(WRONG, start=1)]
)
def test_a_wrong_script_gets_its_own_finding(
    checkout: Path, rule: str, line: int | None, edits: list[tuple[str, str]]
) -> None:
    text = GOOD
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    path = checkout / "job.lsf"
    path.write_text(text)
    found = [f for f in findings(path, machine.load("summit"), base=checkout) if f.refuses]
    assert [f.rule for f in found] == [rule] * len(found) and found, [str(f) for f in found]
    assert found[0].where == (str(path) if line is None else f"{path}:{line}"), str(found[0])
    for finding in found:
        assert "\n" not in str(finding) and finding.message


def test_the_good_script_has_none(checkout: Path) -> None:
    path = checkout / "job.lsf"
    path.write_text(GOOD)
    assert [f for f in findings(path, machine.load("summit"), base=checkout) if f.refuses] == []


def test_514_nodes_of_which_two_are_spare_train_as_512(checkout: Path) -> None:
    text = GOOD.replace("-nnodes 512", "-nnodes 514")
    path = checkout / "job.lsf"
    path.write_text(text.replace(TRAIN, FLIGHT.format("--spare 2 --shrink 256")))
    summit = machine.load("summit")
    assert [f for f in findings(path, summit, base=checkout) if f.refuses] == []
    shown = preview.lines(Script.read(path), Script.read(path).spec, summit, checkout)
    assert "preflight  512 nodes train, 2 spare: the slowest" in shown
    assert "layout     pipeline 12 x tensor 2 x data 128, data-major" in shown
    assert "nodes      514 of 4,608" in shown


@pytest.mark.parametrize("name", ["summit", "laptop"])
@pytest.mark.parametrize("script", sorted((ROOT / "jobs").glob("*.lsf")), ids=lambda p: p.stem)
def test_every_shipped_job_passes(script: Path, name: str) -> None:
    found = findings(script, machine.load(name), base=ROOT)
    assert [str(f) for f in found if f.refuses] == []


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    edits=st.lists(
        st.tuples(
            st.integers(0, 20),
            st.sampled_from(["drop", "double", "cut", "quote", "word", "swap"]),
            st.sampled_from(
                ["$(x)", "'", '"', "&&", "-n", "--", "#BSUB", "\\", "<<E", ">", "{", "-r0"]
            ),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_no_script_breaks_the_check(checkout: Path, edits: list[tuple[int, str, str]]) -> None:
    lines = GOOD.splitlines()
    for number, how, word in edits:
        at = number % max(1, len(lines))
        if not lines:
            break
        line = lines[at]
        if how == "drop":
            del lines[at]
        elif how == "double":
            lines.insert(at, line)
        elif how == "swap":
            lines[at], lines[-1] = lines[-1], line
        else:
            middle = len(line) // 2
            tail = {"cut": "", "quote": word + line[middle:], "word": f" {word} {line[middle:]}"}
            lines[at] = line[:middle] + tail[how]
    path = checkout / "mutant.lsf"
    path.write_text("\n".join(lines) + "\n")
    for finding in findings(path, machine.load("summit"), base=checkout):
        assert "\n" not in str(finding)
        assert finding.where.startswith(str(path))
        assert finding.rule
