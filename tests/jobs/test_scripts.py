"""Every shipped job: its script passes Summit's rules, its recipe loads on every machine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from alpenglow import config
from alpenglow_lsf import machine
from alpenglow_lsf.script import Script
from alpenglow_lsf.validate import check_script

ROOT = Path(__file__).parents[2]
JOBS = ROOT / "jobs"
SCRIPTS = sorted(JOBS.glob("*.lsf"))


def schema(name: str) -> type[Any]:
    if name == "prepare_data":
        from alpenglow.data.recipe import PrepareRecipe

        return PrepareRecipe
    if name.startswith(("pretrain", "smoke")):
        from alpenglow.train.recipe import PretrainRecipe

        return PretrainRecipe
    if name == "scaling_study":
        from alpenglow.jobs.scaling_sizes import ScalingRecipe

        return ScalingRecipe
    if name == "calibrate":
        from alpenglow_profiling.curves_recipe import CurvesRecipe

        return CurvesRecipe
    if name == "report":
        from alpenglow_analysis.report import ReportRecipe

        return ReportRecipe
    if name == "evaluate":
        from alpenglow.evaluate.recipe import EvaluateRecipe

        return EvaluateRecipe
    from alpenglow.release.convert import ConvertRecipe

    return ConvertRecipe


def recipe(name: str, on: str, *overrides: str) -> Any:
    path = JOBS / f"{name}.toml"
    known = machine.names()
    return config.load(path, schema(name), machine=on, machines=known, overrides=overrides)


def test_the_shipped_jobs_are_these() -> None:
    stems = [path.stem for path in SCRIPTS]
    assert stems == [
        "calibrate", "convert", "evaluate", "prepare_data", "pretrain_3b", "pretrain_7b", "report",
        "scaling_study", "smoke",
    ]  # fmt: skip


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
@pytest.mark.parametrize("on", ["summit", "laptop"])
def test_script_breaks_no_rule(script: Path, on: str) -> None:
    findings = check_script(script, machine.load(on))
    assert [str(f) for f in findings if f.refuses] == []


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_script_has_the_agreed_form(script: Path) -> None:
    text = script.read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert lines[0] == 'source "${ALPENGLOW_ENVIRONMENT:-env/summit.sh}" || exit'
    # A study starts the parent of each of its runs itself.
    starts = "alpenglow.jobs.scaling " if script.stem == "scaling_study" else "alpenglow_lsf.run --"
    assert lines[1].startswith(f"exec python -m {starts}")
    assert "jsrun -" in text
    assert f"jobs/{script.stem}.toml" in " ".join(lines[1:])
    for follower in re.findall(r"--then (\S+)", text):
        assert (ROOT / follower).is_file()
    assert "-P" not in dict(Script.parse(text).spec.options())


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
@pytest.mark.parametrize("on", machine.names())
def test_recipe_loads(script: Path, on: str) -> None:
    assert recipe(script.stem, on) is not None


# The cards' numbers: nodes, layers, hidden, heads, pipeline, lr.
PUBLISHED = [
    ("pretrain_3b", 256, 32, 2560, 32, 6, 1.6e-4),
    ("pretrain_7b", 512, 32, 4096, 32, 12, 1.2e-4),
]


@pytest.mark.parametrize(
    ("name", "nodes", "layers", "hidden", "heads", "pipeline", "rate"), PUBLISHED
)
def test_recipe_and_script_carry_the_published_layout(
    name: str, nodes: int, layers: int, hidden: int, heads: int, pipeline: int, rate: float
) -> None:
    loaded = recipe(name, "summit", "layout=published")
    model, batch = loaded.model, loaded.batch
    assert (model.num_layers, model.hidden_size, model.num_attention_heads) == (
        layers,
        hidden,
        heads,
    )
    assert not model.use_parallel_residual
    assert (loaded.parallel.pipeline, loaded.parallel.tensor) == (pipeline, 2)
    assert loaded.optimizer.lr == rate
    assert batch.global_batch_size * batch.sequence_length == 4_194_304
    script = Script.read(JOBS / f"{name}.lsf")
    assert script.spec.nodes == nodes
    ranks = nodes * 6
    data = ranks // (pipeline * 2)
    # Gradient accumulation 8 is on the cards, and with it the bubble of the published layout.
    assert batch.global_batch_size // (data * batch.micro_batch_size) == 8


def test_the_laptop_keeps_the_shape() -> None:
    laptop = machine.load("laptop")
    assert laptop.stand_in is not None
    ranks = laptop.stand_in.nodes * laptop.stand_in.tasks_per_node
    for name in ("pretrain_3b", "pretrain_7b"):
        parallel = recipe(name, "laptop").parallel
        assert parallel.pipeline == 2
        assert ranks % (parallel.pipeline * parallel.tensor) == 0
        assert ranks // (parallel.pipeline * parallel.tensor) >= 2


@pytest.mark.parametrize("on", machine.names())
def test_the_curves_own_reader_agrees(on: str) -> None:
    """The profiling root reads the recipe by itself: it knows no other root."""
    from alpenglow_profiling.curves_recipe import CurvesRecipe

    loaded = CurvesRecipe.read(JOBS / "calibrate.toml", on)
    assert loaded == recipe("calibrate", on)
    # Its budgets and its own limit end within the walltime.
    tables = (loaded.products, loaded.copies, loaded.attention, loaded.network)
    walltime = Script.read(JOBS / "calibrate.lsf").spec.walltime
    assert walltime is not None
    assert sum(table.budget_s for table in tables) < loaded.limit_s < 60 * (walltime - 5)


@pytest.mark.parametrize(("on", "ranks"), [("summit", 12), ("laptop", 8)])
def test_the_smoke_job_uses_every_kind_of_parallelism(on: str, ranks: int) -> None:
    loaded = recipe("smoke", on)
    layout = loaded.layout(ranks)
    assert min(layout.pipeline, layout.tensor, layout.data) >= 2
    assert loaded.micro_batches(layout) > layout.pipeline
    assert loaded.total_steps >= 2 * loaded.train.checkpoint_every
    spec = Script.read(JOBS / "smoke.lsf").spec
    assert spec.nodes == 3 and spec.walltime is not None and spec.walltime <= 30
