"""Where groups lie: Summit's triplets, a switched node, agreement with the list of all ranks."""

from __future__ import annotations

import pytest

from alpenglow.parallel.hardware import Hardware
from alpenglow.parallel.layout import Layout, Order
from alpenglow.parallel.links import RankMap
from alpenglow.parallel.spans import data_span, ends_span, hop_seconds, patterns, tensor_span
from alpenglow_lsf.machine import load

SUMMIT = Hardware.of(load("summit"), 3072)
SELENE = Hardware.of(load("selene"), 3072)


def test_tensor_groups_of_a_summit_node() -> None:
    # 20 of 25 GB/s a link, two links a pair; in a triplet two rings run side by side.
    assert tensor_span(SUMMIT, 2, 0).rate == pytest.approx(40e9)
    assert tensor_span(SUMMIT, 3, 3).rate == pytest.approx(80e9)
    # The third pair straddles the X-bus; a group of six has it in its ring too.
    assert tensor_span(SUMMIT, 2, 2).inside == "bus"
    assert tensor_span(SUMMIT, 2, 2).rate == pytest.approx(0.8 * 32e9)
    assert tensor_span(SUMMIT, 6, 0).inside == "bus"
    assert tensor_span(SUMMIT, 4, 4).nodes == 2


def test_tensor_groups_behind_a_switch_and_beyond_the_node() -> None:
    assert {tensor_span(SELENE, t, 0).rate for t in (2, 4, 8)} == {240e9}
    wide = tensor_span(SELENE, 16, 0)
    assert wide.nodes == 2 and wide.rate == pytest.approx(192e9)


def test_replicas_share_a_nodes_injection() -> None:
    # Eight rings a node over eight ports; one ring that has the node's eight ranks has all ports.
    assert data_span(SELENE, Layout(8, 8, 48)).rate == pytest.approx(24e9)
    assert data_span(SELENE, Layout(1, 1, 3072)).rate == pytest.approx(192e9)
    assert data_span(SELENE, Layout(1, 1, 8)).nodes == 1
    # Six GPUs share 23 GB/s; with three ranks of a ring on the node two rings do, over the bus.
    assert data_span(SUMMIT, Layout(12, 2, 128, "data-major")).rate == pytest.approx(
        0.96 * 23e9 / 6
    )
    assert data_span(SUMMIT, Layout(12, 2, 128)).rate == pytest.approx(0.96 * 23e9 / 2)


def test_first_and_last_stage_meet_over_the_network() -> None:
    assert ends_span(SELENE, Layout(8, 8, 48)).nodes == 2
    assert ends_span(SELENE, Layout(4, 2, 1)).nodes == 1


@pytest.mark.parametrize("order", ["pipe-major", "data-major"])
@pytest.mark.parametrize("degrees", [(12, 2), (6, 2), (4, 3), (8, 1), (3, 4), (2, 6), (32, 1)])
@pytest.mark.parametrize("hardware", [SUMMIT, SELENE], ids=["summit", "selene"])
def test_hops_are_those_of_the_list_of_all_ranks(
    hardware: Hardware, degrees: tuple[int, int], order: Order
) -> None:
    pipeline, tensor = degrees
    layout = Layout(pipeline, tensor, 24, order)
    ranks = RankMap(layout, hardware.site)
    listed = {
        tuple(
            ranks.link(firsts[d], ranks.first[(stage + 1) % pipeline][d])
            for stage, firsts in enumerate(ranks.first)
        )
        for d in range(layout.data)
    }
    assert {pattern.hops for pattern in patterns(hardware, layout)} == listed


def test_the_number_of_ranks_costs_nothing() -> None:
    assert len(patterns(SELENE, Layout(8, 8, 192))) == 1
    assert len(patterns(SUMMIT, Layout(12, 2, 4096))) <= 6


def test_ranks_that_send_together_share_the_ports() -> None:
    alone = hop_seconds(SELENE, Layout(8, 1, 1, "data-major"), "network", 1e9)
    eight = hop_seconds(SELENE, Layout(8, 8, 48), "network", 1e9)
    assert alone == pytest.approx(1 / 24, rel=0.01) and eight == pytest.approx(alone)
    # Two ports for six.
    assert hop_seconds(SUMMIT, Layout(12, 2, 128), "network", 1e9) == pytest.approx(
        6 / (0.96 * 23), rel=0.01
    )
