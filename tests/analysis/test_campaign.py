"""Campaigns: closed forms where there are any, an independent replay where there are none."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alpenglow.train.save_interval import daly_interval
from alpenglow_analysis.campaign import Campaign, Hazards, Overheads, Work
from alpenglow_analysis.campaign_job import CampaignError, Job
from alpenglow_analysis.campaign_outcome import PIECES
from alpenglow_analysis.campaign_simulation import simulate
from alpenglow_analysis.campaign_stretch import NS, Stretch, play
from alpenglow_analysis.queue_wait import QueueWait
from alpenglow_lsf.machine import load

SUMMIT = load("summit")
ENDLESS = 1e9
"""Seconds of a walltime that no campaign here reaches."""


def job(walltime_s: float = ENDLESS, nodes: int = 512, spare: int = 0) -> Job:
    return Job(nodes, walltime_s, 6, "none", "none", spare=spare)


def campaign(
    steps: int = 10_000,
    step_s: float = 2.0,
    walltime_s: float = ENDLESS,
    hazards: Hazards | None = None,
    wait: QueueWait | None = None,
    spare: int = 0,
    **overheads: float,
) -> Campaign:
    return Campaign(
        job=job(walltime_s, 512 + spare, spare),
        work=Work(tokens=1000.0 * steps, batch_tokens=1000.0, step_s=step_s),
        wait=wait or QueueWait.none(),
        overheads=Overheads(**{"evaluate_every": 0, **overheads}),  # type: ignore[arg-type]
        hazards=hazards or Hazards(gpu_hours=None),
    )


def test_one_quiet_job_is_the_sum_of_its_parts() -> None:
    plan = campaign(
        steps=1000, step_s=2.0, startup_s=100.0, read_s=50.0, save_s=5.0, drain_s=20.0,
        leave_s=7.0, interval_s=60.0, evaluate_every=300, evaluate_s=11.0,
    )  # fmt: skip
    got = simulate(plan, count=3)
    # Saves at 30, 60 ... 990 and the last one; evaluations at 300, 600, 900.
    wanted = {
        "startup": 100.0, "restart": 0.0, "lost": 0.0, "checkpoint": 33 * 5.0 + 5.0 + 20.0,
        "evaluate": 33.0, "launch": 7.0, "slow_ranks": 0.0, "steps": 2000.0,
    }  # fmt: skip
    assert {name: set((ns / NS).tolist()) for name, ns in got.pieces.items()} == {
        name: {value} for name, value in wanted.items()
    }
    assert set(got.segments.tolist()) == {1}
    assert (got.days == sum(wanted.values()) / 86_400).all()
    assert got.effective_training_time == pytest.approx(2000 / sum(wanted.values()))


def test_quiet_jobs_fill_their_walltime_up_to_the_reserve() -> None:
    plan = campaign(
        steps=10_000, step_s=2.0, walltime_s=3600.0, startup_s=100.0, read_s=50.0, save_s=5.0,
        drain_s=20.0, leave_s=7.0, interval_s=ENDLESS, reserve_s=60.0,
        wait=QueueWait("given", False, values=(1800.0,)),
    )  # fmt: skip
    got = simulate(plan, count=2)
    first = math.floor((3600 - 100 - 60) / 2) + 1
    other = math.floor((3600 - 150 - 60) / 2) + 1
    jobs = 1 + math.ceil((10_000 - first) / other)
    assert set(got.segments.tolist()) == {jobs}
    elapsed = 10_000 * 2 + jobs * (100 + 5 + 20 + 7) + (jobs - 1) * 50
    assert (got.elapsed_ns == elapsed * NS).all()
    assert (got.wait_ns == jobs * 1800 * NS).all()
    assert got.node_hours == pytest.approx(512 * elapsed / 3600)


def test_without_a_reserve_the_walltime_takes_what_is_not_durable() -> None:
    plan = campaign(
        steps=4000, step_s=2.0, walltime_s=3600.0, startup_s=100.0, read_s=50.0, save_s=5.0,
        drain_s=20.0, leave_s=7.0, interval_s=600.0, reserve_s=0.0,
    )  # fmt: skip
    got = simulate(plan, count=1)
    assert int(got.killed[0]) == int(got.segments[0]) - 1 > 0
    assert int(got.pieces["lost"][0]) > 0
    kept = simulate(plan.changed({"reserve_s": None}), count=1)
    assert int(kept.killed[0]) == 0 == int(kept.pieces["lost"][0])
    assert kept.elapsed_ns[0] < got.elapsed_ns[0]


def test_a_ramp_has_more_steps_and_takes_longer() -> None:
    flat = Work(1e9, 1e6, 2.0)
    ramp = Work(1e9, 1e6, 2.0, ramp_batch_tokens=1e5, ramp_tokens=1e8, ramp_fixed=0.5)
    # 100 steps become the integral 100 / 0.9 x ln 10 = 255.8.
    assert ramp.steps == 900 + math.ceil(100 / 0.9 * math.log(10))
    more = 0.5 * (100 / 0.9 * math.log(10) - 100)
    assert ramp.full_steps == math.ceil(1000 + more)
    assert flat.steps == flat.full_steps == 1000
    # With nothing fixed a step takes as long as its tokens: the time is that of full steps.
    assert replace(ramp, ramp_fixed=0.0).full_steps == 1000


@pytest.mark.parametrize("interval_s", [300.0, 1500.0, 6000.0])
def test_lost_work_is_what_daly_computes(interval_s: float) -> None:
    """The complete model of Daly 2006, equation 20: M e^(R/M) (e^((t+d)/M) - 1) Ts/t.

    It holds where every failure is gone over at once and a checkpoint is durable when it is saved.
    """
    steps, step, save, restart = 42_000, 1.0, 30.0, 120.0
    mean, cycle = 4 * 3600.0, interval_s + save
    plan = campaign(
        steps=steps, step_s=step, save_s=save, drain_s=0.0, startup_s=restart, read_s=0.0,
        leave_s=0.0, detect_s=0.0, interval_s=interval_s,
        hazards=Hazards(gpu_hours=mean / 3600 * 6 * 512),
    )  # fmt: skip
    got = simulate(plan, count=4000)
    total = got.elapsed_ns / NS
    wanted = steps / interval_s * mean * math.exp(restart / mean) * math.expm1(cycle / mean)
    wanted += mean * math.expm1(restart / mean)  # the first start, which follows no failure
    error = float(total.std()) / math.sqrt(len(got))
    assert float(total.mean()) == pytest.approx(wanted, abs=4 * error)
    # A failure at x of a cycle loses min(x, interval): the mean of a truncated exponential. Of all
    # failures e^(-R/M) come in a cycle. To first order that is Young's half of an interval.
    part = mean - (mean + interval_s) * math.exp(-interval_s / mean)
    part += interval_s * (math.exp(-interval_s / mean) - math.exp(-cycle / mean))
    exact = math.exp(-restart / mean) * part / -math.expm1(-cycle / mean)
    each = float(got.pieces["lost"].sum() / NS / got.failures.sum())
    failures = int(got.failures.sum())
    assert each == pytest.approx(exact, abs=4 * interval_s / math.sqrt(12 * failures))
    assert each == pytest.approx(interval_s / 2, rel=0.15)


def test_the_best_interval_is_dalys() -> None:
    save, mean = 60.0, 3600 * 50.7e3 / 3072
    best = daly_interval(save, mean)
    plan = campaign(
        steps=200_000, step_s=2.0, save_s=save, drain_s=0.0, startup_s=120.0, detect_s=0.0,
        leave_s=0.0, hazards=Hazards(),
    )  # fmt: skip
    assert plan.interval_s == best
    factors = np.array([0.25, 0.5, 0.7, 1.0, 1.4, 2.0, 4.0])
    hours = [
        float(simulate(plan.changed({"interval_s": f * best}), 4000).elapsed_ns.mean())
        for f in factors.tolist()
    ]
    found = float(np.log(factors[int(np.argmin(hours))]))
    assert abs(found) <= math.log(1.5)
    assert hours[3] <= 1.001 * min(hours)
    assert hours[0] > hours[1] > hours[3] < hours[5] < hours[6]


def test_weibull_gaps_keep_their_mean_and_change_their_shape() -> None:
    plain = campaign(steps=40_000, hazards=Hazards(gpu_hours=10_000), drain_s=1.0)
    some = simulate(plain, 3000)
    infant = simulate(plain.changed({"shape": 0.7}), 3000)
    assert float(some.failures.std()) < float(infant.failures.std())
    # A renewal process with more than its share of short gaps has more of them at its start:
    # by half of (coefficient of variation squared - 1), asymptotically.
    g1, g2 = math.gamma(1 + 1 / 0.7), math.gamma(1 + 2 / 0.7)
    running = (infant.elapsed_ns.mean() - some.elapsed_ns.mean()) / NS / (plain.mean_time_s or 1)
    more = float(infant.failures.mean() - some.failures.mean()) - running
    assert more == pytest.approx((g2 / g1**2 - 2) / 2, abs=0.2)


def test_relaunch_saves_the_queue_and_spares_run_out() -> None:
    wait = QueueWait("given", False, values=(7200.0,))
    plan = campaign(
        steps=60_000, walltime_s=12 * 3600.0, hazards=Hazards(gpu_hours=30_000), wait=wait, spare=2,
    )  # fmt: skip
    chain = simulate(plan, 500)
    again = simulate(plan.changed({"relaunch": True}), 500)
    assert int(chain.relaunches.sum()) == 0 < int(again.relaunches.sum())
    assert again.days.mean() < chain.days.mean()
    assert (again.relaunches <= 2 * again.segments).all()
    assert (again.failed_jobs == again.failures - again.relaunches).all()
    # A failure in the last seconds of a job is no reason to start again.
    assert int(again.failed_jobs.sum()) > 0


def test_slow_nodes_cost_what_they_should() -> None:
    calm = campaign(steps=30_000, walltime_s=12 * 3600.0)
    hours = 30_000 * 2 / 3600
    slow = calm.changed({"slow_node_hours": 100_000.0, "slow_factor": 1.2, "slow_hours": 1.0})
    got = simulate(slow, 4000)
    # Poisson episodes of an hour each, rare enough not to overlap, cut at the end of a job.
    rate = 512 / 100_000
    assert float(got.pieces["slow_ranks"].mean()) / NS == pytest.approx(
        hours * rate * 0.2 * 3600, rel=0.1
    )
    assert (got.pieces["steps"] == 60_000 * NS).all()


def test_a_seed_is_reproduced_and_more_campaigns_begin_alike() -> None:
    plan = _eventful()
    one, two, more = simulate(plan, 300, 7), simulate(plan, 300, 7), simulate(plan, 300, 8)
    assert (one.elapsed_ns == two.elapsed_ns).all() and (one.wait_ns == two.wait_ns).all()
    assert (one.elapsed_ns != more.elapsed_ns).any()


def test_the_same_luck_meets_both_plans() -> None:
    """With one seed a change of the queue moves days and nothing else."""
    plan = _eventful()
    one = simulate(plan, 400)
    two = simulate(plan.changed({"wait": plan.wait.scaled(2.0)}), 400)
    assert (one.elapsed_ns == two.elapsed_ns).all()
    assert np.allclose(2 * one.wait_ns, two.wait_ns, rtol=0, atol=1000)


def _eventful() -> Campaign:
    return Campaign(
        job=Job.of(SUMMIT, 514, spare=2),
        work=Work(1e11, 4194304, 1.9, step_error=0.1),
        wait=QueueWait.default(SUMMIT.queues[0], 514, 4608),
        hazards=Hazards(gpu_hours=20_000, shape=0.8, relaunch=True, slow_node_hours=20_000),
    )


def test_the_charge_is_divided_to_the_ns() -> None:
    got = simulate(_eventful(), 1000)
    assert np.array_equal(np.stack(list(got.pieces.values())).sum(axis=0), got.elapsed_ns)
    charged = got.elapsed_ns.astype(object) * 514
    assert np.array_equal(np.stack(list(got.node_ns().values())).sum(axis=0), charged)
    assert list(got.split()) == list(PIECES)
    assert sum(got.split().values()) == pytest.approx(float(got.node_hours.mean()), rel=1e-12)
    steps = got.campaign.work.full_steps
    assert (got.pieces["steps"] == steps * got.step_ns).all()
    assert (got.ettr < got.effective_training_time).all()


@dataclass
class Replay:
    """A job played event by event, as its docstring says, for one campaign: the slow oracle."""

    rules: Stretch
    step: int
    done: int
    left: int
    fails_in: int

    def run(self) -> tuple[int, int, int, dict[str, int]]:
        """Elapsed ns, gained steps, whole lost steps, pieces."""
        rules, pieces = self.rules, dict.fromkeys(PIECES, 0)
        self.now, self.end = 0, min(self.left, self.fails_in)
        every = max(1, -(-rules.interval // self.step))
        steps = gained = partial = 0
        draining: tuple[int, int] | None = None

        def spend(piece: str, ns: int) -> bool:
            took = min(ns, self.end - self.now)
            pieces[piece] += took
            self.now += took
            return took == ns

        alive = spend("startup", rules.startup) and (not self.done or spend("restart", rules.read))
        while alive:
            before = self.now
            if not spend("steps", self.step):
                partial = self.now - before
                break
            steps += 1
            if draining is not None and self.now >= draining[0]:
                gained, draining = draining[1], None
            last = self.done + steps == rules.steps
            if last or self.left - self.now < rules.reserve:
                alive = spend("checkpoint", rules.save) and spend("checkpoint", rules.drain)
                if alive:
                    gained, draining = steps, None
                    spend("launch", rules.leave)
                break
            due = rules.evaluate_every and (self.done + steps) % rules.evaluate_every == 0
            if due and not spend("evaluate", rules.evaluate):
                break
            if steps % every == 0:
                if not spend("checkpoint", rules.save):
                    break
                draining = (self.now + rules.drain, steps)
        if draining is not None and self.now >= draining[0]:
            gained = draining[1]
        pieces["lost"] = (steps - gained) * self.step + partial
        pieces["steps"] = gained * self.step
        return self.now, gained, steps - gained, pieces


TIMES = st.integers(0, 60)


@settings(max_examples=400, deadline=None)
@given(
    steps=st.integers(1, 60), step=st.integers(1, 12), startup=TIMES, read=TIMES,
    save=st.integers(0, 8), leave=TIMES, reserve=TIMES, interval=st.integers(1, 90),
    evaluate_every=st.integers(0, 9), evaluate=st.integers(1, 20), drain=st.integers(0, 30),
    done=st.integers(0, 40), left=st.integers(1, 900), fails_in=st.integers(1, 900),
)  # fmt: skip
def test_a_stretch_is_what_a_replay_event_by_event_gives(  # noqa: PLR0917
    steps: int, step: int, startup: int, read: int, save: int, leave: int, reserve: int,
    interval: int, evaluate_every: int, evaluate: int, drain: int, done: int, left: int,
    fails_in: int,
) -> None:  # fmt: skip
    drain = min(drain, interval)
    rules = Stretch(
        steps + done, startup, read, save, drain, leave, reserve, interval, evaluate_every, evaluate
    )
    one = [np.array([value], np.int64) for value in (step, step, done, left, fails_in)]
    got = play(rules, *one)
    elapsed, gained, lost, pieces = Replay(rules, step, done, left, fails_in).run()
    assert (int(got.elapsed[0]), int(got.gained[0]), int(got.lost_steps[0])) == (
        elapsed, gained, lost,
    )  # fmt: skip
    assert {name: int(ns[0]) for name, ns in got.pieces.items()} == {
        name: ns for name, ns in pieces.items() if name != "unused"
    }
    assert sum(int(ns[0]) for ns in got.pieces.values()) == elapsed


@settings(max_examples=60, deadline=None)
@given(
    nodes=st.integers(92, 4608), spare=st.integers(0, 8), step_s=st.floats(0.2, 40.0),
    tokens=st.floats(1e9, 3e10), error=st.floats(0, 0.5), gpu_hours=st.floats(2e3, 1e6),
    shape=st.floats(0.5, 2.0), relaunch=st.booleans(), seed=st.integers(0, 2**31),
)  # fmt: skip
def test_any_campaign_adds_up(
    nodes: int, spare: int, step_s: float, tokens: float, error: float, gpu_hours: float,
    shape: float, relaunch: bool, seed: int,
) -> None:  # fmt: skip
    try:
        plan = Campaign(
            Job.of(SUMMIT, nodes, spare=spare),
            Work(tokens, 4194304, step_s, step_error=error),
            QueueWait.default(SUMMIT.queues[0], nodes, 4608),
            hazards=Hazards(gpu_hours=gpu_hours, shape=shape, relaunch=relaunch),
        )
    except CampaignError as refused:
        assert "nearest" in str(refused)
        return
    try:
        got = simulate(plan, 20, seed)
    except CampaignError as endless:
        # Failures nearly as close as checkpoints: refused once most starts gain nothing.
        assert plan.mean_time_s is not None and plan.mean_time_s < 3600
        assert "had not finished" in str(endless)
        return
    assert np.array_equal(np.stack(list(got.pieces.values())).sum(axis=0), got.elapsed_ns)
    assert all(int(ns.min()) >= 0 for ns in got.pieces.values())
    assert (got.pieces["steps"] == plan.work.full_steps * got.step_ns).all()
    assert (got.elapsed_ns <= got.segments * round(plan.job.walltime_s * NS)).all()
    assert (got.segments >= got.failed_jobs).all()
