"""Prices of rank maps against counts by hand, and the choices that follow from them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alpenglow.model.config import ModelConfig
from alpenglow.parallel.layout import Layout
from alpenglow.parallel.links import RankMap, Site, data_rings, edges, tensor_rings
from alpenglow.parallel.placement import options, place, price, table
from alpenglow.parallel.work import Work
from alpenglow_lsf.machine import load

INCITE_7B = ModelConfig(32, 4096, 32, 50432, rotary_pct=1.0, use_parallel_residual=False)
WORK = Work(1, 16, 2048, attention="sdpa")
LAYOUT = Layout.of(3072, 12, 2)


def summit(world: int = 3072) -> Site:
    site = Site.of(load("summit"), world)
    assert site is not None
    return site


def test_the_machine_file_says_what_a_node_is() -> None:
    site = summit()
    assert site.sockets == (0, 0, 0, 1, 1, 1)
    assert (site.nvlink, site.bus, site.network, site.port) == (50e9, 32e9, 23e9, 12.5e9)
    # A stand-in has no links of its own, and without a peak there is nothing to price by.
    assert Site.of(load("laptop"), 8) is None
    assert Site.of(replace(load("frontier"), peak_flops={}), 64) is None
    perlmutter = Site.of(load("perlmutter"), 64)
    assert perlmutter is not None and perlmutter.bus is None


def test_both_classes_of_a_pair_are_priced() -> None:
    """One node, three pairs: bytes of two on NVLink, of one on the X-bus, at 50 and 32 GB/s."""
    model = replace(INCITE_7B, num_layers=3)
    whole = price(model, Layout.of(6, 3, 2, "data-major"), WORK, summit(6))
    payload = 2048 * 4096 * 2
    pair = 2 * 16 * 4 * payload  # two ranks send; 16 micro-batches; four all-reduces a layer
    sent = whole.traffic[0].node_bytes
    # Stage 0 has the embedding's all-reduce as well, stage 2 the head's.
    assert sent == {"nvlink": 2 * pair + 2 * 2 * 16 * payload, "bus": pair}
    assert whole.straddled == (1,)
    # The head makes stage 2 the slowest, so the straddled pair costs only its share of the fill.
    fast, slow = payload / 50e9, payload / 32e9
    assert whole.traffic[0].seconds == pytest.approx(5 * fast + 4 * slow + 5 * fast + 15 * 5 * fast)


def test_reduction_crosses_a_node_once_a_ring() -> None:
    """pipe-major: three replicas of a stage on a node; two rings, one a tensor rank, leave it."""
    model = replace(INCITE_7B, num_layers=2)
    layout = Layout(2, 2, 6)  # 12 ranks a stage: two nodes each
    stage = data_rings(RankMap(layout, summit(24)), [600.0, 0.0])
    assert stage[0]["network"][0] == 2 * 600 * 5 / 6
    spread = data_rings(RankMap(replace(layout, order="data-major"), summit(24)), [600.0, 0.0])
    # 4 ranks a replica: a node holds replica 0 whole and the first stage of replica 1.
    assert spread[0]["network"][0] == 2 * 600 * 5 / 6
    assert price(model, layout, WORK, summit(24)).traffic[2].node_bytes["network"] > 0


@settings(deadline=None, max_examples=30)
@given(
    st.integers(1, 4),
    st.sampled_from([1, 2, 3]),
    st.integers(1, 5),
    st.sampled_from(["pipe-major", "data-major"]),
)
def test_no_byte_is_lost(pipeline: int, tensor: int, data: int, order: str) -> None:
    """Whatever the map, all links together carry what the ranks send."""
    layout = Layout(pipeline, tensor, data, order)  # type: ignore[arg-type]
    ranks = RankMap(layout, summit(max(6, layout.world)))
    sends, slowest, _ = tensor_rings(ranks, [7.0] * pipeline)
    total = sum(sum(by_node.values()) for by_node in sends.values())
    assert total == (7.0 * layout.world if tensor > 1 else 0.0)
    assert len(slowest) == pipeline and all(len(s) == data for s in slowest)
    sends, seconds = edges(ranks, 5.0, 3)
    total = sum(sum(by_node.values()) for by_node in sends.values())
    assert total == 5.0 * 3 * 2 * (pipeline - 1) * tensor * data
    assert len(seconds) == pipeline - 1
    sends, _ = data_rings(ranks, [8.0] * pipeline)
    total = sum(sum(by_node.values()) for by_node in sends.values())
    assert total == pytest.approx(8.0 * (data - 1) * pipeline * tensor if data > 1 else 0.0)


def test_neighbouring_stages_share_a_node_under_data_major() -> None:
    by_order = {
        order: price(INCITE_7B, Layout.of(3072, 12, 2, order), WORK, summit())
        for order in ("pipe-major", "data-major")
    }
    pipe, data = by_order["pipe-major"], by_order["data-major"]
    assert set(pipe.traffic[1].node_bytes) == {"network"}
    assert pipe.traffic[1].seconds > 3 * data.traffic[1].seconds
    # Stages of a node that reduce at once share its injection: six rings leave it, not two to four.
    assert data.traffic[2].node_bytes["network"] > 1.2 * pipe.traffic[2].node_bytes["network"]
    assert data.straddled == (1, 4, 7, 10)
    assert pipe.straddled == tuple(range(12))


@pytest.mark.parametrize("how", ["even", "balanced"])
def test_straddled_pairs_sit_on_the_lightest_stages(how: str) -> None:
    found = options(INCITE_7B, LAYOUT, WORK, summit(), order="data-major", how=how)
    best = found[0]
    layers = best.layout.layers_of(32)
    assert [layers[stage] for stage in best.straddled] == [2, 2, 2, 2]
    in_order = next(p for p in found if not p.layout.seats)
    assert best.step_s < in_order.step_s
    assert best.traffic[0].seconds < in_order.traffic[0].seconds


def test_auto_takes_the_cheapest_and_a_name_binds() -> None:
    prices = options(INCITE_7B, LAYOUT, WORK, summit(), how="balanced")
    assert [p.step_s for p in prices] == sorted(p.step_s for p in prices)
    assert {p.layout.order for p in prices} == {"pipe-major", "data-major"}
    chosen = place(INCITE_7B, LAYOUT, WORK, summit(), order="auto", how="balanced")
    assert chosen == prices[0].layout
    for order in ("pipe-major", "data-major"):
        bound = place(INCITE_7B, LAYOUT, WORK, summit(), order=order, how="balanced")
        assert bound.order == order and sum(bound.layers) == 32
    # Nothing to price by: as DeepSpeed has it.
    assert place(INCITE_7B, LAYOUT, WORK, None, order="auto") == LAYOUT


def test_gradients_or_transfers_decide() -> None:
    """Few micro-batches leave the reduction to weigh, many the transfers."""
    orders = {
        m: options(INCITE_7B, LAYOUT, replace(WORK, micro_batches=m), summit())[0].layout.order
        for m in (2, 64)
    }
    assert orders == {2: "pipe-major", 64: "data-major"}


def test_the_table_searches_tensor_one_and_puts_what_fits_first() -> None:
    model = replace(INCITE_7B, num_layers=8)
    rows = table(model, 96, 256, WORK, summit(96), 5e9)
    fits = [row.fits for row in rows]
    assert fits == sorted(fits, reverse=True) and not all(fits)
    times = [row.price.step_s for row in rows if row.fits]
    assert times == sorted(times)
    degrees = {(row.price.layout.tensor, row.price.layout.pipeline) for row in rows}
    assert {1, 2, 4} == {tensor for tensor, _ in degrees}
    for row in rows:
        layout = row.price.layout
        assert layout.world == 96 and layout.data * row.micro_batches == 256
        if layout.tensor == 1:
            assert row.price.straddled == () and row.price.traffic[0].seconds == 0
        assert row.fits or "needs" in str(row)


def test_zb_h1_shortens_the_fill() -> None:
    stages = price(INCITE_7B, LAYOUT, WORK, summit())
    zero = price(INCITE_7B, LAYOUT, replace(WORK, schedule="zb-h1"), summit())
    assert zero.compute_s < stages.compute_s
