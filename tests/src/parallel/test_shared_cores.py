from __future__ import annotations

import random

import pytest

from alpenglow.parallel.replay import Event, place, program
from alpenglow.parallel.schedule import Action
from alpenglow.parallel.shared_cores import Compute, Meet, Played, Task, Wait, play, speed


def test_two_on_one_core_take_twice_as_long() -> None:
    assert play([[Compute(1.0)], [Compute(1.0)]], cores=1).ends == [2.0, 2.0]
    # The shorter one has had half a core for 2 s; then the longer one is alone.
    assert play([[Compute(1.0)], [Compute(3.0)]], cores=1).ends == [2.0, 4.0]


def test_three_on_two_cores() -> None:
    # 1 s of work each at 2/3: 1.5 s. Then two have 1 and 2 s left, at full speed.
    played = play([[Compute(1.0)], [Compute(2.0)], [Compute(3.0)]], cores=2)
    assert played.ends == pytest.approx([1.5, 2.5, 3.5])
    assert played.work == pytest.approx(6.0)


def test_a_wait_takes_no_core() -> None:
    played = play([[Wait(1.0), Compute(1.0)], [Compute(2.0)]], cores=1)
    # Alone until 1 s, then both share: each has 1 s of work left.
    assert played.ends == pytest.approx([3.0, 3.0])
    assert played.occupied == pytest.approx(3.0)
    assert play([[Wait(1.0)]] * 5, cores=1).ends == [1.0] * 5


def test_who_waits_for_another_gives_its_core_away() -> None:
    both: tuple[int, ...] = (0, 1)
    ranks: list[list[Task]] = [
        [Compute(1.0), Meet("sum", both, 0.1)],
        [Meet("sum", both, 0.1)],
        [Compute(0.5)],
    ]
    # Rank 2 shares with rank 0 only: done at 1.0. Rank 0 has then had 0.5 s; its work ends at 1.5.
    played = play(ranks, cores=1)
    assert played.ends == pytest.approx([1.7, 1.7, 1.0])
    assert play(ranks, cores=3).ends == pytest.approx([1.1, 1.1, 0.5])


def test_busy_cores_are_slower() -> None:
    assert speed(1, 2, 0.8) == 1.0
    assert speed(2, 2, 0.8) == 0.8
    assert speed(4, 2, 0.8) == pytest.approx(0.4)
    assert speed(2, 3, 0.8) == pytest.approx(0.9)
    assert speed(3, 1, 1.0) == pytest.approx(1 / 3)
    # Two at 0.8 until the shorter is done, then one at full speed.
    played = play([[Compute(0.8)], [Compute(1.8)]], cores=2, beside=0.8)
    assert played.ends == pytest.approx([1.0, 2.0])


def test_a_meeting_is_told_apart_from_the_wait_for_it() -> None:
    told = []
    ranks: list[list[Task]] = [
        [Compute(2.0), Meet("m", (0, 1), 0.5, "send")],
        [Meet("m", (0, 1), 0.5, "receive")],
    ]
    play(ranks, cores=2, noted=lambda rank, task, *times: told.append((rank, task.label, times)))
    assert (0, "send", (2.0, 2.0, 2.5)) in told
    assert (1, "receive", (0.0, 2.0, 2.5)) in told


def random_ranks(dice: random.Random, count: int) -> list[list[Task]]:
    ranks: list[list[Task]] = [[] for _ in range(count)]
    for number in range(60):
        members = tuple(sorted(dice.sample(range(count), dice.randint(1, count))))
        if len(members) > 1:
            for rank in members:
                ranks[rank].append(Meet(number, members, 0.01 * (number % 5)))
        else:
            kind = Compute if dice.random() < 0.8 else Wait
            ranks[members[0]].append(kind(dice.random()))
    return ranks


@pytest.mark.parametrize("cores", [1, 2, 3, 8])
@pytest.mark.parametrize("seed", range(5))
def test_the_work_done_is_the_work_asked_for(seed: int, cores: int) -> None:
    ranks = random_ranks(random.Random(seed), 5)
    played = play(ranks, cores)
    asked = sum(t.seconds for tasks in ranks for t in tasks if not isinstance(t, Wait))
    assert played.work == pytest.approx(asked)
    # Cores of full speed: the work is what they were occupied with.
    assert played.occupied == pytest.approx(asked)
    assert played.seconds <= sum(t.seconds for tasks in ranks for t in tasks) + 1e-9
    slow = play(ranks, cores, beside=0.7)
    assert slow.work == pytest.approx(asked)
    assert played.seconds <= slow.seconds + 1e-9
    assert play(ranks, cores + 1).seconds <= 1.5 * played.seconds


@pytest.mark.parametrize("schedule", ["1f1b", "gpipe", "zb-h1"])
def test_enough_cores_are_the_plain_simulation(schedule: str) -> None:
    stages, count = 4, 6
    events = program(schedule, stages, count)

    def length(event: Event) -> float:
        if event.other >= 0:
            return 0.05
        return {Action.forward: 1.0, Action.backward: 2.0}.get(event.action, 0.9) + event.stage / 8

    played = play(programs(events, stages, length), cores=stages)
    assert played.ends == pytest.approx(place(events, length, [0.0] * stages))
    # On one core nothing idles, so the step is all the work.
    alone = play(programs(events, stages, length), cores=1)
    assert alone.seconds == pytest.approx(played.work)
    assert isinstance(alone, Played)


def programs(events, stages, length):  # type: ignore[no-untyped-def]
    ranks: list[list[Task]] = [[] for _ in range(stages)]
    for event in events:
        if event.other < 0:
            ranks[event.stage].append(Compute(length(event)))
        else:
            pair = (event.stage, event.other)
            for rank in pair:
                ranks[rank].append(Meet(event, pair, length(event)))
    return ranks


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="rank 0 waits for ever in Meet"):
        play([[Meet("a", (0, 1))], [Meet("b", (0, 1))]], cores=2)
    with pytest.raises(ValueError, match="less than no time"):
        play([[Compute(-1.0)]], cores=1)
    with pytest.raises(ValueError, match="cores = 0"):
        play([[Compute(1.0)]], cores=0)
