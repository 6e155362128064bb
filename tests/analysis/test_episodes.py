"""Slow spells in a heat of known factors."""

from __future__ import annotations

import numpy as np
import pytest

from alpenglow_analysis.episodes import Episode, episodes
from alpenglow_analysis.heat import Heat


def heat(steps: int, ranks: int, noise: float, seed: int = 0) -> Heat:
    dice = np.random.default_rng(seed)
    ratio = 1 + noise * dice.standard_normal((steps, ranks))
    nodes = tuple(f"n{rank // 6:03d}" for rank in range(ranks))
    return Heat(np.arange(1, steps + 1), ratio.astype(np.float32), nodes, "its peers")


def test_a_node_a_rank_and_a_short_spell_are_found_with_their_size() -> None:
    shown = heat(1000, 96, 0.02)
    shown.ratio[300:700, 12:18] *= 1.3
    shown.ratio[:, 40] *= 1.08
    shown.ratio[100:105, 50] *= 2
    node, rank, spell = episodes(shown)
    assert (node.where, node.ranks, node.whole_node) == ("n002", tuple(range(12, 18)), True)
    assert (node.first_step, node.last_step) == (301, 700)
    assert node.factor == pytest.approx(1.3, rel=0.005)
    assert rank.where == "rank 40 on n006"
    assert rank.whole_run
    assert rank.factor == pytest.approx(1.08, rel=0.005)
    assert (spell.ranks, spell.first_step, spell.last_step) == ((50,), 101, 105)
    assert not spell.whole_run
    assert spell.factor == pytest.approx(2, rel=0.05)


def test_a_node_may_be_slow_twice() -> None:
    shown = heat(400, 24, 0.01)
    shown.ratio[50:100, :6] *= 1.2
    shown.ratio[250:300, :6] *= 1.5
    found = [(one.first_step, one.last_step, round(one.factor, 2)) for one in episodes(shown)]
    assert found == [(251, 300, 1.5), (51, 100, 1.2)]


@pytest.mark.parametrize("seed", range(5))
def test_noise_makes_no_spell(seed: int) -> None:
    """In a thousand ranks and steps of noise chance finds next to nothing."""
    assert len(episodes(heat(1000, 1024, 0.05, seed))) <= 2


def test_what_is_not_known_is_not_slow() -> None:
    shown = heat(20, 12, 0.01)
    shown.ratio[:, 3] = np.nan
    shown.ratio[5:, 6:] = np.nan
    assert episodes(shown) == []
    nothing = Heat(np.arange(2), np.full((2, 4), np.nan, np.float32), ("a", "a", "b", "b"), "")
    assert episodes(nothing) == []


def test_a_run_of_one_step_names_a_rank_far_off() -> None:
    shown = heat(1, 12, 0.0)
    shown.ratio[0, 7] = 1.5
    (found,) = episodes(shown)
    assert found == Episode("n001", (7,), False, 1, 1, 1, 1.5, True)
