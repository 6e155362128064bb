"""Ranks that share a few cores: who runs how fast while how many want to run.

Torch-free. On a computer without accelerators a rank is a process of one thread, and more ranks
than cores take turns. Turns are short beside passes, so a core is taken to be shared evenly: of n
ranks that want to run on c cores each goes on at min(1, c/n) of its speed (processor sharing;
Kleinrock, "Queueing Systems" II, 1976, section 4.4). A rank that waits for another one gives its
core away, as ranks over gloo do. Cores that are all busy may each be slower than one alone, since
they share caches, memory and power: `beside` is what is left of a core's speed then.

    played = play([[Compute(1.0), Meet("sum", (0, 1), 0.1)], [Meet("sum", (0, 1), 0.1)]], cores=1)
    played.ends                                                  # [1.2, 1.2]

What an accelerator does, or a device that only waits, is a `Wait`: it takes time and no core.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Compute(NamedTuple):
    """Seconds of a whole core."""

    seconds: float
    label: Hashable = None


class Wait(NamedTuple):
    """Seconds without a core: something else works meanwhile."""

    seconds: float
    label: Hashable = None


class Meet(NamedTuple):
    """A message or a collective: it begins when all members are there and ends for all together."""

    key: Hashable
    """Names the meeting; a later one may have the same key."""
    members: tuple[int, ...]
    seconds: float = 0.0
    """Of a core, that each member needs once all are there."""
    label: Hashable = None


Task = Compute | Wait | Meet
Noted = Callable[[int, Task, float, float, float], object]
"""Rank, task, when the rank came to it, when it began in earnest (of a meeting: when the last
member came), when it ended."""


@dataclass(frozen=True)
class Played:
    """What came of it; seconds."""

    ends: list[float]
    """When each rank has done its last task."""
    work: float
    """Seconds of a core that all ranks were given, at the speed of a core alone."""
    occupied: float
    """Seconds that cores were occupied, summed over cores."""

    @property
    def seconds(self) -> float:
        """When the last rank is done."""
        return max(self.ends, default=0.0)


def speed(running: int, cores: int, beside: float = 1.0) -> float:
    """Speed of each of so many running ranks; that of a rank alone is 1.

    Args:
        running: ranks that want to run.
        cores: that they share.
        beside: speed of a core while all are busy; in between it falls evenly.
    """
    busy = min(running, cores)
    alone = 1.0 if busy < 2 else 1 - (1 - beside) * (busy - 1) / (cores - 1)
    return alone * min(1.0, cores / max(1, running))


def play(
    ranks: Sequence[Sequence[Task]],
    cores: int,
    *,
    beside: float = 1.0,
    noted: Noted | None = None,
) -> Played:
    """Play the lists of all ranks.

    Args:
        ranks: what each does, in order.
        cores: that they share.
        beside: as in `speed`.
        noted: told of every task when it ends.

    Raises:
        ValueError: no cores, a task that takes less than no time, or ranks that wait for one
            another for ever.
    """
    if cores < 1 or not 0 < beside <= 1:
        raise ValueError(f"cores = {cores}, beside = {beside}: at least 1, and above 0 to 1")
    return _Play(ranks, cores, beside, noted).run()


class _Play:
    """Every runner goes on at one speed, so it ends at a known amount of work done by each."""

    def __init__(
        self, ranks: Sequence[Sequence[Task]], cores: int, beside: float, noted: Noted | None
    ) -> None:
        self.ranks, self.cores, self.beside, self.noted = ranks, cores, beside, noted
        self.now = self.each = 0.0
        """Time, and work that a rank has done which ran since the beginning."""
        self.place = [0] * len(ranks)
        self.came = [0.0] * len(ranks)
        self.began = [0.0] * len(ranks)
        self.ends = [0.0] * len(ranks)
        self.running: list[tuple[float, int]] = []
        self.waiting: list[tuple[float, int]] = []
        self.there: dict[Hashable, list[int]] = {}
        self.at_work: dict[Hashable, int] = {}
        self.work = self.occupied = 0.0

    def run(self) -> Played:
        for rank in range(len(self.ranks)):
            self.begin(rank)
        while self.running or self.waiting:
            self.step()
        stuck = [r for r, tasks in enumerate(self.ranks) if self.place[r] < len(tasks)]
        if stuck:
            task = self.ranks[stuck[0]][self.place[stuck[0]]]
            raise ValueError(f"rank {stuck[0]} waits for ever in {task}")
        return Played(self.ends, self.work, self.occupied)

    def step(self) -> None:
        count = len(self.running)
        rate = speed(count, self.cores, self.beside)
        until = self.waiting[0][0] if self.waiting else float("inf")
        if self.running:
            until = min(until, self.now + (self.running[0][0] - self.each) / rate)
        passed = until - self.now
        self.work += count * rate * passed
        self.occupied += min(count, self.cores) * passed
        self.each += rate * passed
        self.now = until
        if not self.waiting or (self.running and until < self.waiting[0][0]):
            # Exactly the work that the next to end had left, whatever rounding made of it.
            self.each = self.running[0][0]
        while self.waiting and self.waiting[0][0] <= self.now:
            self.end(heapq.heappop(self.waiting)[1])
        while self.running and self.running[0][0] <= self.each:
            self.worked(heapq.heappop(self.running)[1])

    def begin(self, rank: int) -> None:
        """Let a rank come to its next task."""
        if self.place[rank] == len(self.ranks[rank]):
            self.ends[rank] = self.now
            return
        task = self.ranks[rank][self.place[rank]]
        if task.seconds < 0:
            raise ValueError(f"rank {rank}: {task} takes less than no time")
        self.came[rank] = self.began[rank] = self.now
        if isinstance(task, Wait):
            heapq.heappush(self.waiting, (self.now + task.seconds, rank))
        elif isinstance(task, Compute):
            heapq.heappush(self.running, (self.each + task.seconds, rank))
        else:
            there = self.there.setdefault(task.key, [])
            there.append(rank)
            if len(there) == len(task.members):
                del self.there[task.key]
                self.at_work[task.key] = len(there)
                for member in there:
                    self.began[member] = self.now
                    heapq.heappush(self.running, (self.each + task.seconds, member))

    def worked(self, rank: int) -> None:
        """A rank has done its work; a meeting ends with its last member's."""
        task = self.ranks[rank][self.place[rank]]
        if not isinstance(task, Meet):
            self.end(rank)
            return
        self.at_work[task.key] -= 1
        if not self.at_work[task.key]:
            for member in task.members:
                self.end(member)

    def end(self, rank: int) -> None:
        task = self.ranks[rank][self.place[rank]]
        if self.noted is not None:
            self.noted(rank, task, self.came[rank], self.began[rank], self.now)
        self.place[rank] += 1
        self.begin(rank)
