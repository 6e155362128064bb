"""The shipped recipes carry the published numbers; impossible ones are refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from alpenglow.config import ConfigError, load, to_tables
from alpenglow.train.__main__ import main, read_recipe
from alpenglow.train.failure import FAILED
from alpenglow.train.recipe import DataRecipe, PretrainRecipe
from alpenglow.train.run_directory import first_difference
from alpenglow_lsf.machine import load as machine
from alpenglow_lsf.machine import names

JOBS = Path(__file__).parents[3] / "jobs"

# Model cards and config.json of togethercomputer/RedPajama-INCITE-{7B-Base,Base-3B-v1}: ranks,
# pipeline, accumulation steps, replicas, hidden size, learning rate, parameters, tokens.
PUBLISHED = {
    "pretrain_7b": (3072, 12, 8, 128, 4096, 1.2e-4, 6_857_302_016, 1.001e12),
    "pretrain_3b": (1536, 6, 8, 128, 2560, 1.6e-4, 2_775_864_320, 8e11),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_numbers(name: str) -> None:
    ranks, pipeline, accumulation, replicas, hidden, lr, parameters, tokens = PUBLISHED[name]
    recipe = read_recipe(JOBS / f"{name}.toml", machine("summit"), ["layout=published"])
    layout = recipe.layout(ranks)
    assert (layout.pipeline, layout.tensor, layout.data) == (pipeline, 2, replicas)
    assert recipe.micro_batches(layout) == accumulation
    assert recipe.batch.tokens_per_step == 4_194_304
    assert recipe.model.hidden_size == hidden
    assert recipe.model.parameters() == parameters
    assert recipe.optimizer.lr == lr
    assert recipe.precision.dtype == "fp16"
    assert recipe.total_steps * 4_194_304 == pytest.approx(tokens, rel=1e-5)
    assert not recipe.model.use_parallel_residual
    assert sum(recipe.data.mixture.values()) == pytest.approx(100.0)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_laptop_keeps_the_shape(name: str) -> None:
    summit = read_recipe(JOBS / f"{name}.toml", machine("summit"))
    laptop = read_recipe(JOBS / f"{name}.toml", machine("laptop"))
    layout = laptop.layout(8)
    assert layout.pipeline == 2
    assert layout.data >= 2
    assert laptop.micro_batches(layout) >= 4
    for key in ("use_parallel_residual", "tie_word_embeddings", "rotary_pct", "initializer"):
        assert getattr(laptop.model, key) == getattr(summit.model, key)
    assert laptop.model.parameters() < 3e6


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("batch.global_batch_size=30", r"global_batch_size = 30 .*micro_batch_size = 2 .* 2 = 4"),
        ("parallel.pipeline=3", r"pipeline 3 x tensor 2 = 6 .* 8 ranks"),
        ("parallel.tensor=8", r"num_attention_heads = 4 does not divide by tensor = 8"),
        ("parallel.pipeline=8", r"num_layers = 4 cannot fill pipeline = 8"),
        ("batch.sequence_length=4096", r"sequence_length = 4096 .*max_position_embeddings = 128"),
        ("optimizer.min_lr=1.0", r"min_lr = 1.0 .*lr = 0.003"),
        ("optimizer.warmup_steps=500", r"warmup_steps = 500 .* 170 steps"),
        ("train.steps=5", r"train.steps = 5 and train.tokens = 348160: give exactly one"),
        ("optimizer.betas=[0.9]", r"betas = \[0.9\]"),
        ("measure.spans_every=0", r"spans_every = 0: at least 1, which keeps every step"),
        ("optimizer.learning_rate=1", r"unknown key optimizer.learning_rate"),
        ("data.optional=['pile']", r"data.optional names pile"),
        ("data.mixture.github=-1.0", r"no weight may be negative"),
        ("reduction.predivide=0", r"reduction.predivide = 0.0: it must be greater than 0"),
        ("train.checkpoint_every='often'", r"checkpoint_every = 'often' .* int or 'auto'"),
        ("train.keep_last=0", r"train.keep_last = 0"),
        ("precision.dtype='fp8'", r"'fp8'; choose from"),
    ],
)
def test_impossible_combinations_name_both_values(override: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        read_recipe(JOBS / "pretrain_7b.toml", machine("laptop"), [override]).layout(8)
    assert "\n" not in str(caught.value)


def test_a_recipe_survives_being_written(tmp_path: Path) -> None:
    from alpenglow.config import to_toml

    recipe = read_recipe(JOBS / "pretrain_3b.toml", machine("laptop"))
    path = tmp_path / "again.toml"
    path.write_text(to_toml(recipe))
    assert load(path, PretrainRecipe, machines=names()) == recipe


def test_absent_slices() -> None:
    data = DataRecipe({"github": 3.0, "wikipedia": 1.0, "books": 0.0}, optional=("wikipedia",))
    assert data.weights({"github", "wikipedia"}) == {"github": 0.75, "wikipedia": 0.25}
    assert data.weights({"github"}) == {"github": 1.0}
    with pytest.raises(ConfigError, match=r"weight to github, which .* holds wikipedia"):
        data.weights({"wikipedia"})


# ranks, pipeline, tensor, replicas, micro-batches, schedule; the reasons stand in the recipes.
ALPENGLOW = {
    "pretrain_7b": (3072, 12, 2, 128, 16, "zb-h1"),
    "pretrain_3b": (1536, 6, 1, 256, 8, "zb-h1"),
}


@pytest.mark.parametrize("name", ALPENGLOW)
def test_the_default_layout_fits_and_changes_nothing_that_is_learnt(name: str) -> None:
    ranks, pipeline, tensor, data, micro_batches, schedule = ALPENGLOW[name]
    summit = machine("summit")
    recipe = read_recipe(JOBS / f"{name}.toml", summit)
    layout = recipe.layout(ranks, summit)
    assert (layout.pipeline, layout.tensor, layout.data) == (pipeline, tensor, data)
    assert recipe.micro_batches(layout) == micro_batches
    assert recipe.parallel.schedule == schedule
    assert sum(layout.layers) == recipe.model.num_layers
    assert recipe.refused(layout, summit) is None
    published = read_recipe(JOBS / f"{name}.toml", summit, ["layout=published"])
    for table in ("model", "optimizer", "data", "precision"):
        assert getattr(published, table) == getattr(recipe, table)
    assert published.batch.global_batch_size == recipe.batch.global_batch_size
    assert published.total_steps == recipe.total_steps
    # A run goes on from one layout under the other.
    difference = first_difference(
        *({"data": {"fingerprint": ""}, "recipe": to_tables(r)} for r in (recipe, published))
    )
    assert difference is None


def test_the_memory_that_is_refused_names_its_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    summit = machine("summit")
    recipe = read_recipe(JOBS / "pretrain_7b.toml", summit, ["train.attention=plain"])
    said = recipe.refused(recipe.layout(3072, summit), summit)
    assert said is not None and "\n" not in said
    assert "16.0 GB" in said
    for part in ("weights", "gradients", "optimizer", "activations", "buffers"):
        assert part in said
    # The trainer says so before it imports torch, from the first rank alone.
    variables = ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")
    for variable, value in zip(variables, (0, 3072, 0, 6), strict=True):
        monkeypatch.setenv(f"JSM_NAMESPACE_{variable}", str(value))
    monkeypatch.setenv("ALPENGLOW_MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("ALPENGLOW_MACHINE", "summit")
    words = [str(JOBS / "pretrain_7b.toml"), "train.attention=plain", "--run", str(tmp_path)]
    assert main(words) == FAILED
    assert capsys.readouterr().err.strip().endswith(said)
    # A machine without GPUs of its own refuses nothing.
    assert recipe.refused(recipe.layout(3072), machine("laptop")) is None


@pytest.mark.parametrize("layout_name", ["published", "alpenglow"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_laptop_runs_every_layout(name: str, layout_name: str) -> None:
    laptop = machine("laptop")
    recipe = read_recipe(JOBS / f"{name}.toml", laptop, [f"layout={layout_name}"])
    layout = recipe.layout(8, laptop)
    assert layout.pipeline == 2 and layout.data >= 2
    assert recipe.micro_batches(layout) == 4
    assert layout.order == "pipe-major"  # no links to price by
