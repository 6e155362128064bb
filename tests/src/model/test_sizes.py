"""Published sizes to the unit: as counted, as built, as laid out over stages and tensor ranks."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch

from alpenglow.model.config import ModelConfig
from alpenglow.model.stages import build_local, global_tensors, layer_specs
from alpenglow.parallel.layout import Layout
from alpenglow.parallel.memory import stage_parameters
from alpenglow.parallel.split import bounds
from alpenglow.parallel.tensor import TensorGroup
from alpenglow.train.__main__ import read_recipe
from alpenglow_lsf.machine import load

ROOT = Path(__file__).parents[3]


def published() -> dict[str, tuple[ModelConfig, int]]:
    lines = (ROOT / "tests" / "data" / "published_sizes.csv").read_text().splitlines()
    rows = csv.DictReader(line for line in lines if not line.startswith("#"))
    found = {}
    for row in rows:
        config = ModelConfig(
            num_layers=int(row["num_layers"]),
            hidden_size=int(row["hidden_size"]),
            num_attention_heads=int(row["num_attention_heads"]),
            vocab_size=int(row["vocab_size"]),
            intermediate_size=int(row["intermediate_size"]),
            rotary_pct=float(row["rotary_pct"]),
            use_parallel_residual=row["use_parallel_residual"] == "true",
        )
        found[row["model"]] = config, int(row["parameters"])
    return found


PUBLISHED = published()


def test_every_published_size_is_there() -> None:
    assert len(PUBLISHED) == 12
    assert sum(name.startswith("pythia") for name in PUBLISHED) == 10


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_to_the_unit(name: str) -> None:
    config, parameters = PUBLISHED[name]
    assert config.parameters() == parameters
    with torch.device("meta"):
        model = build_local(config)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert sum(stage_parameters(config, Layout(4), stage) for stage in range(4)) == parameters


@pytest.mark.parametrize("layout_name", ["published", "alpenglow"])
@pytest.mark.parametrize(("name", "ranks"), [("pretrain_7b", 3072), ("pretrain_3b", 1536)])
def test_every_stage_of_the_shipped_layouts_builds(name: str, ranks: int, layout_name: str) -> None:
    """On the meta device, each tensor rank of each stage; together they are the model."""
    summit = load("summit")
    recipe = read_recipe(ROOT / "jobs" / f"{name}.toml", summit, [f"layout={layout_name}"])
    layout = recipe.layout(ranks, summit)
    config = recipe.model
    held: dict[str, int] = {}
    for tensor in range(layout.tensor):
        group = TensorGroup(object() if layout.tensor > 1 else None, tensor, layout.tensor)
        slots = layer_specs(config, group, seed=None, attention=recipe.train.attention)
        edges = bounds(layout.layers_of(config.num_layers))
        assert edges[-1] == len(slots)
        for stage in range(layout.pipeline):
            with torch.device("meta"):
                built = [slot.build() for slot in slots[edges[stage] : edges[stage + 1]]]
            module = torch.nn.ModuleList(built)
            here = sum(p.numel() for p in module.parameters())
            assert here == stage_parameters(config, layout, stage), (stage, tensor)
            for item in global_tensors(module, config, group):
                if not item.replicated or tensor == 0:
                    held[item.name] = held.get(item.name, 0) + item.parameter.numel()
    shapes: dict[str, Any] = config.tensor_shapes()
    assert held == {name: torch.Size(shape).numel() for name, shape in shapes.items()}
    assert sum(held.values()) == recipe.model.parameters()
    wanted = "7B" if name == "pretrain_7b" else "3B"
    (size,) = [size for model, (_, size) in PUBLISHED.items() if wanted in model]
    assert sum(held.values()) == size
