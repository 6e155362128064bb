"""Simulated steps: the predicted one without disturbances, known laws with them."""

from __future__ import annotations

from dataclasses import replace
from math import erf, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alpenglow.model.config import ModelConfig
from alpenglow.parallel.disturbance import (
    Disturbance,
    DisturbanceError,
    Hiccups,
    Jitter,
    SlowLinks,
    SlowRanks,
    Spread,
)
from alpenglow.parallel.framework import COMPOSER_2023, DEEPSPEED, MEGATRON_2021, P2P, Framework
from alpenglow.parallel.hardware import Hardware
from alpenglow.parallel.job_lengths import JobLengths
from alpenglow.parallel.layout import Layout
from alpenglow.parallel.seats import Seats
from alpenglow.parallel.simulation import simulate
from alpenglow.parallel.slowdown import numbered, slowdown
from alpenglow.parallel.step_cost import step_cost
from alpenglow.parallel.work import Work
from alpenglow_lsf.machine import load

INCITE_7B = ModelConfig(32, 4096, 32, 50432, rotary_pct=1.0, use_parallel_residual=False)
TIED = ModelConfig(
    12, 1024, 16, 50432, rotary_pct=1.0, use_parallel_residual=False, tie_word_embeddings=True
)
SUMMIT = Hardware.of(load("summit"), 3072)
SCHEDULES = ("1f1b", "gpipe", "zb-h1", "interleaved-2")


def plain(
    layout: Layout,
    m: int,
    *,
    schedule: str = "1f1b",
    passes: tuple[float, float, float] = (1.0, 2.0, 0.0),
    hop: float = 0.0,
    reduce: float = 0.0,
    behind: float | None = None,
    p2p: P2P = "blocking",
    each: int = 6,
) -> JobLengths:
    """A job of like stages, by hand."""
    p = layout.pipeline
    return JobLengths(
        layout=layout,
        schedule=schedule,
        micro_batches=m,
        ranks_per_node=each,
        own=np.tile(passes, (1, p, 1)),
        tensor=np.zeros((1, p, 3)),
        hops=np.full((1, p), hop),
        reduce=np.full(p, reduce),
        behind=np.full(p, reduce if behind is None else behind),
        update=np.zeros(p),
        gather=np.zeros(p),
        p2p=p2p,
    )


def cost_of(
    layout: Layout, work: Work, how: Framework = DEEPSPEED, model: ModelConfig = INCITE_7B
) -> JobLengths:
    return JobLengths.of(step_cost(model, layout, work, SUMMIT, how))


EVERYTHING: tuple[Disturbance, ...] = (
    Jitter(0.05),
    SlowRanks(0.1, Spread((1.1, 1.3))),
    SlowRanks(0.05, Spread((1.2,)), per="gpu", number=1),
    SlowLinks(0.2, Spread((1.5, 3.0))),
    Hiccups(100.0, Spread((0.01, 0.5))),
)


@pytest.mark.parametrize(
    "how", [DEEPSPEED, MEGATRON_2021, COMPOSER_2023], ids=["blocking", "exchange", "buffered"]
)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    "layout",
    [
        Layout(8, 2, 192, "data-major"),
        Layout(8, 2, 6),
        Layout(1, 2, 24),
        Layout(4, 1, 24, "data-major", seats=(2, 0, 3, 1), layers=(10, 8, 8, 6)),
        Layout(2, 3, 8, layers=(18, 14)),
    ],
    ids=["pp8", "pipe-major", "pp1", "seated", "tp3"],
)
def test_without_disturbances_the_step_is_the_predicted_one(
    layout: Layout, schedule: str, how: Framework
) -> None:
    if schedule.startswith("interleaved") and layout.pipeline == 1:
        with pytest.raises(ValueError, match="two stages or more"):
            simulate(cost_of(layout, Work(1, 8, 2048, schedule=schedule), how), steps=1)
        return
    heads = ModelConfig(32, 4608, 48, 50688, rotary_pct=1.0)
    model = heads if layout.tensor == 3 else INCITE_7B
    for m in (8, 16, 48):
        for overlapped in (True, False):
            work = Work(1, m, 2048, schedule=schedule, overlapped=overlapped)
            job = cost_of(layout, work, how, model)
            got = simulate(job, steps=2)
            # Pipelines of eight are played by both; the sum may be taken in another order.
            assert got.seconds == pytest.approx(job.predicted, rel=1e-12)
            assert got.slowdown == pytest.approx(1.0, abs=1e-12)


def test_the_published_stages_are_uneven_and_equal_the_prediction_too() -> None:
    for order in ("data-major", "pipe-major"):
        for schedule in ("1f1b", "gpipe", "zb-h1"):
            layout = Layout(12, 2, 128, order)
            job = cost_of(layout, Work(1, 16, 2048, schedule=schedule))
            assert len(set(job.own[0, :, 0].tolist())) > 2
            assert job.kinds == (3 if order == "pipe-major" else 1)
            assert simulate(job, steps=1).mean == pytest.approx(job.predicted, rel=1e-12)


def test_a_tied_embedding_is_summed_behind_the_reductions() -> None:
    layout = Layout(4, 1, 6)
    job = cost_of(layout, Work(1, 8, 2048), model=TIED)
    assert job.tied > 0
    assert simulate(job, steps=1).mean == pytest.approx(job.predicted, rel=1e-12)


def test_deep_pipelines_are_played_where_the_prediction_has_a_closed_form() -> None:
    job = cost_of(Layout(32, 2, 3, "data-major"), Work(1, 64, 2048))
    assert simulate(job, steps=1).mean == pytest.approx(job.predicted, rel=0.04)


def test_two_stages_and_two_micro_batches_by_hand() -> None:
    layout = Layout(2, 1, 1)
    # F0 F1 on stage 0; F0 B0 F1 B1 on stage 1; forward 1, backward 2: (m + p - 1) 3.
    assert simulate(plain(layout, 2), steps=1).mean == 9.0
    # Messages of 0.5, both ends held: F0 on stage 1 from 1.5, B0 2.5 to 4.5, its gradient at 5,
    # only then F1's activation, as the lists say: at 5.5; F1 to 6.5, B1 to 8.5, at 9 on stage 0.
    assert simulate(plain(layout, 2, hop=0.5), steps=1).mean == 11.0
    # Buffered, what is sent does not hold stage 0: B0 there begins at 5, and the end is the same.
    assert simulate(plain(layout, 2, hop=0.5, p2p="buffered"), steps=1).mean == 11.0
    three = [plain(layout, 3, hop=0.5, p2p=how) for how in ("blocking", "buffered")]
    # A third round: blocking 4 more (3 and two messages), buffered the same 4: 15 and 15.
    assert [simulate(job, steps=1).mean for job in three] == [15.0, 15.0]
    # Exchange: each forward and backward is 0.5 longer.
    assert simulate(plain(layout, 2, hop=0.5, p2p="exchange"), steps=1).mean == 12.0
    # All forwards first: F0 F1 | F0 F1 B1 B0 | B1 B0: 1 + 2 + 2 + 2 + 2.
    assert simulate(plain(layout, 2, schedule="gpipe"), steps=1).mean == 9.0
    # Of ZB-H1 3m + p - 1 units.
    parts = (1.0, 1.0, 1.0)
    assert simulate(plain(layout, 2, schedule="zb-h1", passes=parts), steps=1).mean == 7.0


def test_a_reduction_runs_beside_the_last_backward_pass() -> None:
    layout = Layout(2, 1, 2)
    # Stage 0 is the last: its last backward pass begins at 7, and 2 more are hidden.
    assert simulate(plain(layout, 2, reduce=5.0, behind=0.5), steps=1).mean == 12.0
    assert simulate(plain(layout, 2, reduce=1.0, behind=0.5), steps=1).mean == 9.5
    assert simulate(plain(layout, 2, reduce=5.0), steps=1).mean == 14.0


def test_idle_shares_by_hand() -> None:
    got = simulate(plain(Layout(2, 1, 1), 2), steps=1)
    # Two micro-batches of 3 in 9.
    assert got.idle_by_stage == pytest.approx([1 / 3, 1 / 3])
    # One rank of a pair is slow: it works 7.5 of 11, the others wait for it 6 of 7.5.
    slow = SlowRanks(0.0, Spread((1.25,)), per="gpu", named=(0,))
    got = simulate(plain(Layout(1, 2, 1), 2), [slow], steps=1)
    assert got.mean == 7.5
    assert got.idle == pytest.approx((0.0 + 1.5 / 7.5) / 2)


@pytest.mark.parametrize("order", ["pipe-major", "data-major"])
@pytest.mark.parametrize("seats", [(), (2, 0, 1)])
def test_seats_are_those_of_the_layout(order: str, seats: tuple[int, ...]) -> None:
    layout = Layout(3, 2, 4, order, seats)  # type: ignore[arg-type]
    found = Seats.of(layout, 6)
    for rank in range(layout.world):
        stage, data, tensor = layout.coordinates(rank)
        assert found.rank[stage, tensor, data] == rank
        assert found.node[stage, tensor, data] == rank // 6


def largest_normal(count: int) -> float:
    """Mean of the largest of so many standard normal values, by integration."""
    x = np.linspace(-9, 9, 20001)
    below = np.array([(1 + erf(each / sqrt(2))) / 2 for each in x.tolist()]) ** count
    return float(9 - np.trapezoid(below, x))


@pytest.mark.parametrize("law", ["lognormal", "gamma"])
@pytest.mark.parametrize("data", [8, 512])
def test_independent_jitter_costs_the_largest_of_its_sums(law: str, data: int) -> None:
    """One stage: the step is the largest of D sums of passes, nearly normal."""
    m, cv = 32, 0.05
    job = plain(Layout(1, 1, data), m)
    jitter = Jitter(cv, law)  # type: ignore[arg-type]
    got = simulate(job, [jitter], steps=400)
    spread = cv * sqrt(m * (1.0**2 + 2.0**2))
    assert largest_normal(2) == pytest.approx(1 / sqrt(np.pi), rel=1e-6)
    lost, known = got.mean - 3.0 * m, spread * largest_normal(data)
    # 400 steps: the standard error of the mean of maxima is about 2 % of it; skewness adds 3 %.
    assert lost == pytest.approx(known, rel=0.06)
    assert got.replica.mean() == pytest.approx(3.0 * m, rel=1e-3)


def test_a_tensor_group_goes_as_its_slowest_rank_pass_by_pass() -> None:
    m, cv, tensor = 16, 0.02, 4
    got = simulate(plain(Layout(1, tensor, 1), m), [Jitter(cv)], steps=500)
    assert got.mean - 3 * m == pytest.approx(cv * 3 * m * largest_normal(tensor), rel=0.03)


def test_the_shortcut_for_what_is_alike_changes_nothing() -> None:
    cases: list[tuple[Layout, str, Framework]] = [
        (Layout(4, 2, 12, "data-major"), "1f1b", DEEPSPEED),
        (Layout(4, 2, 12), "zb-h1", MEGATRON_2021),
        (Layout(4, 2, 9), "gpipe", COMPOSER_2023),
        (Layout(4, 2, 9), "interleaved-2", DEEPSPEED),
    ]
    for layout, schedule, how in cases:
        job = cost_of(layout, Work(1, 8, 2048, schedule=schedule), how)
        without: list[Disturbance] = [one for one in EVERYTHING if one.key != "jitter"]
        for some in ([], without[:1], without[2:3], without[3:], without, list(EVERYTHING)):
            short, whole = (
                simulate(job, some, steps=20, allocations=4, alike=alike) for alike in (True, False)
            )
            assert np.array_equal(short.seconds, whole.seconds)
            assert np.allclose(short.replica, whole.replica, rtol=1e-12)
            assert np.allclose(short.working, whole.working, rtol=1e-6)


def test_the_same_rank_has_the_same_luck() -> None:
    job = cost_of(Layout(4, 2, 12), Work(1, 8, 2048))
    few, many = (simulate(job, EVERYTHING, steps=n, allocations=4) for n in (7, 500))
    assert np.array_equal(few.seconds, many.seconds[:7])
    other = simulate(job, EVERYTHING, steps=7, allocations=4, seed=2)
    assert not np.any(few.seconds == other.seconds)
    jitter = Jitter(0.1)
    assert np.array_equal(jitter.factors(3, 9, 24, 16), jitter.factors(3, 9, 96, 16)[:24])
    slow = SlowRanks(0.3, Spread((1.1, 1.4)))
    one, two = (Seats.of(Layout(4, 1, d, "data-major"), 4) for d in (6, 24))
    assert np.array_equal(slow.factors(one, 1, 5), slow.factors(two, 1, 5)[:, :, :6])
    # Two of a kind have dice of their own.
    assert not np.array_equal(slow.factors(two, 1, 5), replace(slow, number=1).factors(two, 1, 5))


@pytest.mark.parametrize("law", ["lognormal", "gamma"])
def test_jitter_keeps_the_mean_and_has_its_variation(law: str) -> None:
    drawn = Jitter(0.3, law).factors(1, 1, 1000, 400).astype(float)  # type: ignore[arg-type]
    assert drawn.mean() == pytest.approx(1.0, abs=0.003)
    assert drawn.std() == pytest.approx(0.3, rel=0.01)
    assert drawn.min() > 0


def test_the_six_gpus_of_a_node_are_slow_together() -> None:
    layout = Layout(12, 2, 8, "data-major")
    seats = Seats.of(layout, 6)
    factors = SlowRanks(0.0, Spread((1.2,)), named=(5,)).factors(seats, 1, 0)
    slow = {layout.rank(s, d, t) for s, t, d in np.argwhere(factors != 1).tolist()}
    assert slow == set(range(30, 36))
    share = SlowRanks(0.1, Spread((1.2,)))
    big = Seats.of(Layout(12, 2, 1024, "data-major"), 6)
    assert (share.factors(big, 1, 0) > 1).mean() == pytest.approx(0.1, abs=0.02)


def test_a_slow_link_takes_what_crosses_its_node_and_nothing_else() -> None:
    layout = Layout(4, 1, 4, "data-major")  # two ranks a node: stages 0, 1 and 2, 3
    seats = Seats.of(layout, 2)
    hops, groups = SlowLinks(0.0, Spread((2.0,)), named=(2,)).factors(seats, 1, 0)
    # Node 2 has stages 0 and 1 of replica 1: its message 1 to 2, and 3 to 0 of interleaved chunks.
    assert np.argwhere(hops == 2).tolist() == [[1, 1], [3, 1]]
    assert groups.tolist() == [2, 2, 1, 1]
    alone = SlowLinks(0.0, Spread((2.0,)), named=(0,)).factors(Seats.of(Layout(1, 1, 2), 2), 1, 0)
    assert alone[1].tolist() == [1]


def test_a_pause_costs_what_outlasts_the_wait_it_falls_into() -> None:
    layout = Layout(2, 1, 1)
    job = plain(layout, 2)
    # Stage 1 computes from 1 to 7, stage 0 in 0..2, 4..6 (B0), 7..9 (B1).
    from alpenglow.parallel.pauses import _met

    moments = np.array([0.5, 3.0, 3.0, 6.5, 7.5, 8.0])
    lasts = np.array([1.0, 0.5, 2.0, 1.0, 0.3, 5.0])
    stage = np.array([0, 0, 0, 1, 1, 1])
    turn, longer = _met(job, stage, np.zeros(6, np.int64), moments, lasts)
    # Turns: forward 0 and 1, backward 2 and 3.
    assert turn.tolist() == [0, 2, 2, 3, -1, -1]
    assert longer == pytest.approx([1.0, 0.0, 1.0, 1.0, 0.0, 0.0])


def test_pauses_are_as_many_and_as_long_as_said() -> None:
    job = plain(Layout(1, 1, 1), 4, passes=(0.1, 0.2, 0.0))
    # 1.2 s a step, one rank that never waits: each pause counts whole.
    got = simulate(job, [Hiccups(300.0, Spread((0.5,)))], steps=4000)
    chance = 1 - np.exp(-300 * 1.2 / 3600)
    assert (got.seconds > 1.3).mean() == pytest.approx(chance, abs=0.02)
    assert got.mean - 1.2 == pytest.approx(0.5 * chance, rel=0.15)


SMALL = {
    schedule: cost_of(Layout(4, 2, 6, "data-major"), Work(1, 8, 2048, schedule=schedule))
    for schedule in SCHEDULES
}


@settings(max_examples=25, deadline=None)
@given(
    schedule=st.sampled_from(SCHEDULES),
    shares=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    factors=st.tuples(st.floats(1, 2), st.floats(1, 2)),
    rates=st.tuples(st.floats(0, 200), st.floats(0, 200)),
    lasts=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    seed=st.integers(0, 1000),
)
def test_more_of_a_disturbance_never_makes_a_step_shorter(
    schedule: str,
    shares: tuple[float, float],
    factors: tuple[float, float],
    rates: tuple[float, float],
    lasts: tuple[float, float],
    seed: int,
) -> None:
    """With the same dice, step by step."""
    job = SMALL[schedule]

    def steps(share: float, factor: float, rate: float, lasting: float) -> np.ndarray:
        spread = Spread((1.0, factor))
        some: list[Disturbance] = [
            SlowRanks(share, spread),
            SlowLinks(share, spread),
            Hiccups(rate, Spread((lasting,))),
        ]
        return simulate(job, some, steps=12, allocations=3, seed=seed).seconds

    low = [min(pair) for pair in (shares, factors, rates, lasts)]
    high = [max(pair) for pair in (shares, factors, rates, lasts)]
    base = steps(*low)
    assert np.all(base >= job.predicted * (1 - 1e-12))  # type: ignore[operator]
    for i in range(4):
        one = [*low[:i], high[i], *low[i + 1 :]]
        assert np.all(steps(*one) >= base * (1 - 1e-9))


@settings(max_examples=10, deadline=None)
@given(
    schedule=st.sampled_from(SCHEDULES),
    cv=st.floats(0.005, 0.2),
    times=st.floats(1.5, 3.0),
    seed=st.integers(0, 1000),
)
def test_more_jitter_costs_more(schedule: str, cv: float, times: float, seed: int) -> None:
    """In the mean: a larger one is larger in the convex order, and a step is convex in passes."""
    one, more = (
        simulate(SMALL[schedule], [Jitter(x)], steps=24, seed=seed).mean for x in (cv, cv * times)
    )
    assert SMALL[schedule].predicted < one < more  # type: ignore[operator]


def test_costs_add_up_and_meeting_explains_jitter() -> None:
    job = cost_of(Layout(12, 2, 32, "data-major"), Work(1, 16, 2048))
    found = slowdown(job, EVERYTHING, steps=30, allocations=6)
    total = found.together.mean - found.together.undisturbed
    assert sum(cost.added for cost in found.costs) == pytest.approx(total)
    assert [cost.disturbance.key for cost in found.costs] == [
        "slow_ranks", "slow_ranks", "jitter", "slow_links", "hiccups",
    ]  # fmt: skip
    assert [one.number for one in numbered(EVERYTHING)] == [0, 1, 0, 0, 0]
    for cost in found.costs:
        assert cost.alone > 0
        assert cost.of_one + cost.of_meeting == pytest.approx(cost.alone)
    whole = sum(found.equivalents(cost.added) for cost in found.costs)
    assert whole == pytest.approx(found.together.equivalents)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Jitter(-0.1), "coefficient of variation"),
        (lambda: SlowRanks(1.5, Spread((1.1,))), "share of 1.5"),
        (lambda: SlowLinks(0.1, Spread((0.9,))), "factor of 0.9"),
        (lambda: Hiccups(-1.0, Spread((1.0,))), "0 or more"),
        (lambda: Hiccups(1.0, Spread((-1.0,))), "0 or longer"),
        (
            lambda: simulate(
                plain(Layout(2, 1, 1), 2), [SlowRanks(0, Spread((2.0,)), named=(9,))], steps=1
            ),
            "number 9 is not one of 1",
        ),
        (
            lambda: simulate(plain(Layout(2, 1, 1), 2), [Hiccups(1e6, Spread((1.0,)))], steps=1),
            "is jitter",
        ),
    ],
)
def test_what_cannot_be_is_refused(make: object, says: str) -> None:
    with pytest.raises(DisturbanceError, match=says):
        make()  # type: ignore[operator]
