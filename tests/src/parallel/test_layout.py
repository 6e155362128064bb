"""Ranks to places and back, and what DeepSpeed makes of the same degrees."""

from dataclasses import replace
from itertools import chain, pairwise
from random import Random
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpenglow.parallel.layout import Layout, LayoutError, Order, stage_layers

DEGREES = st.integers(1, 6)


@given(DEGREES, DEGREES, DEGREES, st.sampled_from(get_args(Order)), st.randoms())
def test_places_are_a_bijection(
    pipeline: int, tensor: int, data: int, order: Order, random: Random
) -> None:
    seats = random.sample(range(pipeline), pipeline)
    layout = Layout.of(pipeline * tensor * data, pipeline, tensor, order)
    layout = replace(layout, seats=tuple(seats))
    assert layout.data == data
    places = [layout.coordinates(rank) for rank in range(layout.world)]
    assert len(set(places)) == layout.world
    assert [layout.rank(*place) for place in places] == list(range(layout.world))
    for groups, degree in (
        (layout.tensor_groups(), tensor),
        (layout.data_groups(), data),
        (layout.pipeline_groups(), pipeline),
    ):
        assert sorted(chain.from_iterable(groups)) == list(range(layout.world))
        assert {len(group) for group in groups} == {degree}


@pytest.mark.parametrize(("pipeline", "tensor", "data"), [(2, 2, 2), (12, 2, 4), (1, 4, 3)])
def test_axis_order_is_deepspeeds(pipeline: int, tensor: int, data: int) -> None:
    topology_module = pytest.importorskip("deepspeed.runtime.pipe.topology")
    topology = topology_module.PipeModelDataParallelTopology(pipeline, tensor, data)
    layout = Layout(pipeline, tensor, data)
    for rank in range(layout.world):
        place = topology.get_coord(rank)
        assert layout.coordinates(rank) == (place.pipe, place.data, place.model)
    for ours, name, degree in (
        (layout.tensor_groups(), "model", tensor),
        (layout.data_groups(), "data", data),
        (layout.pipeline_groups(), "pipe", pipeline),
    ):
        if degree > 1:
            assert sorted(ours) == sorted(map(list, topology.get_axis_comm_lists(name)))


@pytest.mark.parametrize(
    ("world", "pipeline", "tensor", "words"),
    [
        (8, 3, 1, "pipeline 3 x tensor 1 = 3 ranks a replica does not divide the 8 ranks"),
        (4, 2, 4, "= 8 ranks a replica does not divide the 4 ranks"),
        (0, 1, 1, "does not divide the 0 ranks"),
        (4, 0, 1, "pipeline = 0: a degree is at least 1"),
        (4, 1, -2, "tensor = -2: a degree is at least 1"),
    ],
)
def test_degrees_that_do_not_divide(world: int, pipeline: int, tensor: int, words: str) -> None:
    with pytest.raises(LayoutError, match=words):
        Layout.of(world, pipeline, tensor)


def test_places_outside_are_refused() -> None:
    layout = Layout(2, 2, 2)
    with pytest.raises(LayoutError, match="rank 8 is not one of the 8"):
        layout.coordinates(8)
    with pytest.raises(LayoutError, match="data rank 2 is outside degree 2"):
        layout.rank(0, 2, 0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"order": "tensor-major"}, "choose from pipe-major, data-major"),
        ({"seats": (0, 0)}, r"seats = \[0, 0\] do not name each of 2 stages once"),
        ({"layers": (4,)}, r"layers = \[4\] do not give each of 2 stages a layer"),
        ({"layers": (4, 0)}, "do not give each of 2 stages a layer"),
    ],
)
def test_maps_that_are_none(change: dict[str, Any], words: str) -> None:
    with pytest.raises(LayoutError, match=words):
        Layout(2, 1, 1, **change)


def test_layers_of_another_model_are_refused() -> None:
    assert Layout(2, layers=(3, 2)).layers_of(5) == [3, 2]
    assert Layout(2).layers_of(5) == [3, 2]
    with pytest.raises(LayoutError, match="not num_layers = 6"):
        Layout(2, layers=(3, 2)).layers_of(6)


def test_layers_of_the_published_7b_layout() -> None:
    assert stage_layers(32, 12) == [3] * 8 + [2] * 4


@given(st.integers(1, 30), st.integers(1, 8))
def test_stage_layers_are_deepspeeds(num_layers: int, pipeline: int) -> None:
    utils = pytest.importorskip("deepspeed.runtime.utils")
    if num_layers < pipeline:
        with pytest.raises(LayoutError, match=f"num_layers = {num_layers} cannot fill"):
            stage_layers(num_layers, pipeline)
        return
    slots = [0] + [1] * num_layers + [0, 0]  # embedding, layers, norm, head
    bounds = utils.partition_balanced(slots, pipeline)
    theirs = [sum(slots[a:b]) for a, b in pairwise(bounds)]
    assert stage_layers(num_layers, pipeline) == theirs
