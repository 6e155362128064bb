"""`bsub jobs/scaling_study.lsf` as it is shipped, on shards that were made here, and broken off."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from alpenglow.config import load
from alpenglow.data.catalogue import Catalogue
from alpenglow.data.shards import ShardWriter
from alpenglow.jobs.scaling import main, write_plan
from alpenglow.jobs.scaling_sizes import (
    ScalingError,
    ScalingRecipe,
    Size,
    counts,
    on,
    rounds,
    sizes,
)
from alpenglow.train.recipe import PretrainRecipe
from alpenglow_analysis.scaling_study import ScalingStudy
from alpenglow_lsf.machine import load as machine_file
from alpenglow_lsf.machine import names
from alpenglow_lsf.script import Script
from alpenglow_lsf.step import JobStep

ROOT = Path(__file__).parents[2]
JOB_VARIABLES = ("LSB_", "LS_", "JSM_", "OMPI_", "PMIX_", "PRTE_", "SLURM_", "ALPENGLOW_")
SUMMIT, LAPTOP = machine_file("summit"), machine_file("laptop")


def trained(machine: str = "summit", *overrides: str) -> PretrainRecipe:
    path = ROOT / "jobs/pretrain_7b.toml"
    return load(path, PretrainRecipe, machine=machine, machines=names(), overrides=overrides)


def shipped() -> JobStep:
    ((_, step),) = Script.read(ROOT / "jobs/scaling_study.lsf").steps()
    return step


def plan(recipe: ScalingRecipe, held: int = 64) -> list[Size]:
    model = trained()
    return sizes(recipe, model, counts(recipe, shipped(), model, SUMMIT, held), SUMMIT)


def test_sizes_of_the_shipped_study_on_summit() -> None:
    shipped_recipe = load(
        ROOT / "jobs/scaling_study.toml", ScalingRecipe, machine="summit", machines=names()
    )
    found = plan(shipped_recipe)
    strong = [s for s in found if "strong" in s.series]
    weak = [s for s in found if "weak" in s.series]
    assert [s.nodes for s in strong] == [s.nodes for s in weak] == [4, 8, 16, 32, 64]
    assert {s.global_batch_size for s in strong} == {2048}
    assert [s.micro_batches for s in strong] == [2048, 1024, 512, 256, 128]
    assert {s.micro_batches for s in weak} == {16}
    assert [s.global_batch_size for s in weak] == [16, 32, 64, 128, 256]
    assert {s.steps for s in weak} == {25} and strong[-1].steps == 25 and strong[0].steps == 10
    assert {(s.pipeline, s.tensor) for s in found} == {(12, 2)}
    # The largest size is one run of both series where micro-batches are not told.
    meet = [s for s in plan(ScalingRecipe()) if len(s.series) == 2]
    assert [(s.nodes, s.micro_batches) for s in meet] == [(64, 128)]


def test_a_run_takes_some_of_the_nodes_and_says_so_on_its_jsrun_line() -> None:
    words = on(shipped(), 4, 24).words()
    assert words[:8] == ["-n", "4", "-r", "1", "-a", "6", "-c", "42"]
    assert JobStep.parse(words).asked(SUMMIT, 64) == (4, 24)
    assert on(shipped(), 1, 2).words()[:6] == ["-n", "1", "-r", "1", "-a", "2"]


def test_sizes_take_turns_in_another_order_each_round() -> None:
    found = plan(ScalingRecipe())
    order = rounds(found, 3, seed=1)
    turns = [order[i : i + len(found)] for i in range(0, len(order), len(found))]
    assert all(sorted(s for s, _ in turn) == list(range(len(found))) for turn in turns)
    assert [{r for _, r in turn} for turn in turns] == [{0}, {1}, {2}]
    assert len({tuple(s for s, _ in turn) for turn in turns}) > 1
    assert order == rounds(found, 3, seed=1) != rounds(found, 3, seed=2)


@pytest.mark.parametrize(
    ("recipe", "held", "sentence"),
    [
        (ScalingRecipe(nodes=(4, 128)), 64, "128 nodes do not fit the 64 nodes"),
        (ScalingRecipe(), 3, "a replica do not fit the 3 nodes"),
        (ScalingRecipe(nodes=(6,)), 64, "24"),
        (ScalingRecipe(ranks=(7,)), 64, "whole nodes of 6"),
    ],
)
def test_sizes_that_cannot_be(recipe: ScalingRecipe, held: int, sentence: str) -> None:
    with pytest.raises(ScalingError, match=sentence):
        plan(recipe, held)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"series": ()}, "should name strong"),
        ({"nodes": (1,), "ranks": (1,)}, "exclude each other"),
        ({"warm_up": 10}, "less than the next"),
        ({"ranks": (2, 2)}, "different numbers"),
    ],
)
def test_recipes_that_are_refused(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        replace(ScalingRecipe(), **changes)  # type: ignore[arg-type]


def test_a_folder_of_another_study_is_kept(tmp_path: Path) -> None:
    found = plan(ScalingRecipe())
    write_plan(tmp_path, ScalingRecipe(), trained(), found, SUMMIT, "a.toml")
    write_plan(tmp_path, ScalingRecipe(), trained(), found, SUMMIT, "a.toml")
    with pytest.raises(ScalingError, match=r"another study \(repeats, sizes differ\)"):
        other = ScalingRecipe(repeats=2)
        write_plan(tmp_path, other, trained(), plan(other), SUMMIT, "a.toml")


def test_a_line_without_a_trainer_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALPENGLOW_MACHINE", "laptop")
    recipe = str(ROOT / "jobs/scaling_study.toml")
    assert main([recipe]) == 1
    assert main([recipe, "--", "jsrun", "-n1", "hostname"]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert errors == [
        "alpenglow.jobs.scaling: the jsrun line of a run has to follow --",
        "alpenglow.jobs.scaling: behind -- a jsrun line with `python -m alpenglow.train "
        "RECIPE.toml`",
    ]


@pytest.mark.slow
@pytest.mark.distributed
def test_the_shipped_study_broken_off_and_gone_on_with(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "jobs", tmp_path / "jobs")
    recipe = tmp_path / "jobs/scaling_study.toml"
    text = recipe.read_text()
    text = text.replace("ranks = [1, 2, 4, 8]", "ranks = [1, 2, 4]")
    text = text.replace("repeats = 2", "repeats = 1").replace("steps = 14", "steps = 8")
    text = text.replace("least_steps = 8", "least_steps = 6")
    recipe.write_text(text)
    folder = tmp_path / "shards"
    folder.mkdir()
    made = {"tokenizer_hash": "t", "recipe_hash": "r"}
    writer = ShardWriter(folder / "github-00000.h5", slice="github", dtype="uint16", **made)
    for number in range(20):
        drawn = np.random.default_rng(number).integers(0, 4000, 4_000)
        writer.add(drawn, number.to_bytes(16, "little"), "drawn")
    shards = [writer.close()]
    for name in ("commoncrawl", "wikipedia"):
        writer = ShardWriter(folder / f"{name}-00000.h5", slice=name, dtype="uint16", **made)
        drawn = np.random.default_rng(5).integers(0, 4000, 40_000)
        writer.add(drawn, bytes(16), name)
        shards.append(writer.close())
    Catalogue.build(folder, shards, tokenizer="tokenizer.json", vocab_size=4000, **made).write()
    kept = {k: v for k, v in os.environ.items() if not k.startswith(JOB_VARIABLES)}
    environ = {
        **kept,
        "PATH": os.pathsep.join(
            [str(ROOT / "lsf/bin"), str(Path(sys.executable).parent), kept["PATH"]]
        ),
        "PYTHONPATH": os.pathsep.join(str(ROOT / n) for n in ("src", "lsf", "profiling")),
        "ALPENGLOW_ROOT": str(ROOT),
        "ALPENGLOW_SPOOL": str(tmp_path / ".lsf"),
        "ALPENGLOW_MACHINE": "laptop",
        "ALPENGLOW_ENVIRONMENT": "/dev/null",
        "OMP_NUM_THREADS": "1",
    }

    def call(*words: str) -> str:
        done = subprocess.run(
            words, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60, check=True
        )
        return done.stdout

    def submit() -> str:
        return str(re.findall(r"<(\d+)>", call("bsub", "jobs/scaling_study.lsf"))[0])

    def state(job: str) -> str:
        return call("bjobs", "-noheader", "-o", "stat", job).strip()

    def wait(job: str, until: object = None) -> str:
        end = time.monotonic() + 300
        while state(job) not in ("DONE", "EXIT"):
            if callable(until) and until():
                return "RUN"
            assert time.monotonic() < end, call("bkill", "-s", "KILL", job)
            time.sleep(0.3)
        return state(job)

    study = tmp_path / "runs/scaling_study"
    first = submit()

    def second_started() -> bool:
        return len(list(study.glob("runs/*/metrics.jsonl"))) >= 2

    assert wait(first, second_started) == "RUN"
    call("bkill", "-s", "KILL", first)
    wait(first)
    whole = {p.parent.name: p.stat().st_mtime_ns for p in study.glob("runs/*/metrics.jsonl")}
    again = submit()
    assert wait(again) == "DONE", (tmp_path / f"scaling_study.{again}.out").read_text()
    found = ScalingStudy.load(study)
    assert [[p.ranks for p in s.points] for s in found.series] == [[1, 2, 4], [1, 2, 4]]
    assert not found.missing
    strong, weak = found.series
    assert [p.micro_batches for p in strong.points] == [16, 8, 4]
    assert {p.micro_batches for p in weak.points} == {2}
    # Nothing that was whole is run again, and what broke off is kept beside its repetition.
    after = {p.parent.name: p.stat().st_mtime_ns for p in study.glob("runs/*/metrics.jsonl")}
    assert sum(after.get(name) == when for name, when in whole.items()) >= 1
    assert not list(study.glob("runs/*/checkpoints/step-*"))
    record = json.loads((study / "study.json").read_text())
    assert record["machine"] == "laptop" and record["target"] == "summit"
