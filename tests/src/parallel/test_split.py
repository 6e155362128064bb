"""Splits by work: never worse than even, all layers once, and what the shipped models pay."""

from __future__ import annotations

import itertools
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpenglow.model.config import ModelConfig
from alpenglow.parallel.layout import LayoutError
from alpenglow.parallel.split import (
    Split,
    bounds,
    head_cost,
    idle_share,
    layer_flops,
    split,
    stage_costs,
)

INCITE_7B = ModelConfig(32, 4096, 32, 50432)
INCITE_3B = ModelConfig(32, 2560, 32, 50432)


def test_costs_are_the_models_flops() -> None:
    whole = 32 * layer_flops(INCITE_7B, 2048) + 2 * 4096 * 50432
    assert 3 * whole == INCITE_7B.flops_per_token(2048)
    assert head_cost(INCITE_7B, 2048) == pytest.approx(0.947, abs=1e-3)
    assert sum(stage_costs(INCITE_7B, [16, 16], 2048)) == pytest.approx(32.947, abs=1e-3)


def test_what_uneven_stages_cost() -> None:
    """32 layers and a head of 0.95 on 12 stages are 2.75 each, but whole layers make 3 of it."""
    even, balanced = (split(INCITE_7B, 12, how) for how in get_args(Split))
    assert even == [3] * 8 + [2] * 4
    assert balanced == [2] * 3 + [3] * 8 + [2]
    assert idle_share(INCITE_7B, even, 2048) == idle_share(INCITE_7B, balanced, 2048)
    assert idle_share(INCITE_7B, even, 2048) == pytest.approx(0.0848, abs=1e-4)
    # The 3B model's head is 1.45 layers: counted, it makes the largest of 6 stages 6 for 6.45.
    assert max(stage_costs(INCITE_3B, split(INCITE_3B, 6), 2048)) == pytest.approx(6.45, abs=0.01)
    assert max(stage_costs(INCITE_3B, split(INCITE_3B, 6, "balanced"), 2048)) == 6


def test_light_stages_are_chosen() -> None:
    found = split(INCITE_7B, 12, "balanced", light=(1, 4, 7, 10))
    assert found == [3, 2, 3, 3, 2, 3, 3, 2, 3, 3, 3, 2]


@given(st.integers(1, 14), st.integers(1, 6), st.integers(64, 20_000))
def test_no_split_has_a_smaller_largest_stage(layers: int, pipeline: int, words: int) -> None:
    model = ModelConfig(layers, 64, 4, words)
    if layers < pipeline:
        with pytest.raises(LayoutError, match=f"num_layers = {layers} cannot fill"):
            split(model, pipeline, "balanced", 64)
        return
    found = split(model, pipeline, "balanced", 64)
    assert sum(found) == layers and min(found) >= 1 and len(found) == pipeline
    least = min(
        max(stage_costs(model, [b - a for a, b in itertools.pairwise((0, *cuts, layers))], 64))
        for cuts in itertools.combinations(range(1, layers), pipeline - 1)
    )
    assert max(stage_costs(model, found, 64)) == pytest.approx(least)


def test_bounds_hold_embedding_norm_and_head() -> None:
    assert bounds([2, 3]) == [0, 3, 8]
    assert bounds([5]) == [0, 8]
