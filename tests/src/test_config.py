"""Recipes: overlays, overrides, and the sentences for what is wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from alpenglow import config


@dataclass(frozen=True)
class Batch:
    global_batch_size: int
    micro_batch_size: int = 2

    def __post_init__(self) -> None:
        if self.global_batch_size % self.micro_batch_size:
            raise ValueError(
                f"global_batch_size {self.global_batch_size} is not a multiple of "
                f"micro_batch_size {self.micro_batch_size}"
            )


@dataclass(frozen=True)
class Recipe:
    name: str
    batch: Batch
    rate: float = 1e-4
    dtype: Literal["fp32", "fp16"] = "fp32"
    mixture: dict[str, float] = field(default_factory=dict)
    betas: tuple[float, ...] = (0.9, 0.95)
    catalogue: Path = Path("shards/catalogue.json")
    steps: int | None = None


TEXT = """
name = "7b"
rate = 1
betas = [0.9, 0.99]
[batch]
global_batch_size = 2048
[mixture]
github = 4.5
[laptop]
rate = 0.5
[laptop.batch]
global_batch_size = 16
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "recipe.toml"
    file.write_text(TEXT)
    return file


def load(path: Path, machine: str | None = None, *overrides: str) -> Recipe:
    return config.load(
        path, Recipe, machine=machine, machines=["laptop", "summit"], overrides=overrides
    )


def test_overlay_holds_on_its_machine_only(path: Path) -> None:
    assert load(path, "summit").batch == Batch(2048)
    assert load(path, "laptop").batch == Batch(16)
    assert load(path, "laptop").rate == 0.5
    assert load(path, "laptop").name == "7b"


def test_overrides_come_last(path: Path) -> None:
    recipe = load(path, "laptop", "batch.micro_batch_size=4", "name=other", "steps=3")
    assert recipe.batch == Batch(16, 4)
    assert (recipe.name, recipe.steps) == ("other", 3)


def test_types_are_those_of_the_dataclass(path: Path) -> None:
    recipe = load(path)
    assert recipe.rate == 1.0
    assert isinstance(recipe.rate, float)
    assert recipe.betas == (0.9, 0.99)
    assert recipe.catalogue == Path("shards/catalogue.json")


def test_written_recipe_reads_back_the_same(path: Path, tmp_path: Path) -> None:
    recipe = load(path, "laptop", "steps=7")
    (tmp_path / "again.toml").write_text(config.to_toml(recipe))
    assert load(tmp_path / "again.toml") == recipe


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("batch.global_batchsize=8", "did you mean batch.global_batch_size?"),
        ("nmae=x", "did you mean name?"),
        ("rate=fast", "rate = 'fast' should be of type float"),
        ("steps=1.5", "steps = 1.5 should be of type int"),
        ("steps=true", "steps = True should be of type int"),
        ("dtype=fp8", "dtype = 'fp8'; choose from ['fp32', 'fp16']"),
        ("batch=8", "batch must be a table"),
        ("batch.global_batch_size=7", "batch: global_batch_size 7 is not a multiple of"),
        ("mixture=[1]", "mixture = [1] should be of type"),
        ("steps", "write it as section.key=value"),
    ],
)
def test_a_wrong_key_or_value_is_one_sentence(path: Path, override: str, sentence: str) -> None:
    with pytest.raises(config.ConfigError) as error:
        load(path, None, override)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_file_missing_key_and_broken_toml(tmp_path: Path) -> None:
    with pytest.raises(config.ConfigError, match="no such recipe"):
        load(tmp_path / "absent.toml")
    file = tmp_path / "recipe.toml"
    file.write_text("[batch]\nglobal_batch_size = 2")
    with pytest.raises(config.ConfigError, match="name is missing"):
        load(file)
    file.write_text("name = ")
    with pytest.raises(config.ConfigError, match="not valid TOML"):
        load(file)


def test_an_unknown_machine_table_is_an_unknown_key(path: Path) -> None:
    path.write_text(TEXT + "\n[labtop]\nrate = 1.0\n")
    with pytest.raises(config.ConfigError, match="unknown key labtop"):
        load(path)


LAYOUTS = (
    TEXT.replace("[batch]", 'layout = "wide"\n[batch]')
    + """
[layouts.wide]
rate = 0.25
[layouts.wide.batch]
micro_batch_size = 4
[layouts.narrow.batch]
micro_batch_size = 1
"""
)


def test_a_named_layout_lies_under_the_machine_and_the_command_line(path: Path) -> None:
    path.write_text(LAYOUTS)
    wide, narrow = load(path), load(path, None, "layout=narrow")
    assert (wide.rate, wide.batch.micro_batch_size, wide.batch.global_batch_size) == (0.25, 4, 2048)
    assert (narrow.rate, narrow.batch.micro_batch_size) == (1.0, 1)
    assert load(path, "laptop").rate == 0.5
    assert load(path, "laptop").batch == Batch(16, 4)
    assert load(path, None, "batch.micro_batch_size=8").batch.micro_batch_size == 8
    path.write_text(LAYOUTS.replace("[laptop]", '[laptop]\nlayout = "narrow"'))
    assert load(path, "laptop").batch.micro_batch_size == 1
    assert load(path, "laptop", "layout=wide").batch.micro_batch_size == 4
    assert load(path).batch.micro_batch_size == 4


@pytest.mark.parametrize(
    ("text", "override", "sentence"),
    [
        (LAYOUTS, "layout=narow", "layout = 'narow' is not in [layouts]; did you mean narrow?"),
        (LAYOUTS, "layout=x", "choose from wide, narrow"),
        (LAYOUTS.replace('layout = "wide"', ""), None, "layout is missing; choose from"),
        (TEXT, "layout=wide", "layout = 'wide', but there is no table [layouts.wide]"),
        (LAYOUTS, "layouts.wide=3", "layouts.wide must be a table"),
        (LAYOUTS.replace("[layouts.wide]\nrate", "[layouts.wide]\nrat"), None, "unknown key rat"),
    ],
)
def test_a_wrong_layout_is_one_sentence(
    path: Path, text: str, override: str | None, sentence: str
) -> None:
    path.write_text(text)
    with pytest.raises(config.ConfigError) as error:
        load(path, None, *([] if override is None else [override]))
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)
