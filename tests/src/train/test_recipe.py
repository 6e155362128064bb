"""The shipped recipes carry the published numbers; impossible ones are refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from alpenglow.config import ConfigError, load
from alpenglow.train.__main__ import read_recipe
from alpenglow.train.recipe import DataRecipe, PretrainRecipe
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
    recipe = read_recipe(JOBS / f"{name}.toml", machine("summit"))
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
        ("optimizer.learning_rate=1", r"unknown key optimizer.learning_rate"),
        ("data.optional=['pile']", r"data.optional names pile"),
        ("data.mixture.github=-1.0", r"no weight may be negative"),
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
