"""Seconds of collectives and messages, by group and bytes.

`bytes` are what every rank ends or begins with (the whole buffer of an all-gather and of a
reduce-scatter). `bus_rate` is nccl-tests' bus bandwidth (NVIDIA/nccl-tests, doc/PERFORMANCE.md):
bytes a second times 2 (n-1)/n for an all-reduce, (n-1)/n for its halves, 1 for a message. A
message's time is half of a ping-pong, an exchange's that of both directions at once.

All groups of a grouping start together behind a barrier of all ranks, and a repeat takes as long as
the slowest rank of any of them: that is what a step waits for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from alpenglow_profiling.curve import Point
from alpenglow_profiling.curves_recipe import NetworkRecipe
from alpenglow_profiling.groups import Grouping, groupings, pairings
from alpenglow_profiling.meeting import Meeting
from alpenglow_profiling.stopwatch import Stopwatch, Timing, Work, at_once

COLLECTIVES = ("all_reduce", "reduce_scatter", "all_gather")
MESSAGES = ("message", "exchange")


def sizes(recipe: NetworkRecipe) -> list[int]:
    """Bytes to try: the ends first, then the middles between them."""
    left = [recipe.smallest_bytes]
    while left[-1] * recipe.factor <= recipe.largest_bytes:
        left.append(left[-1] * recipe.factor)
    found = [left.pop(0)] + ([left.pop()] if left else [])
    while left:
        found.append(left.pop(len(left) // 2))
    return found


def bus_factor(what: str, ranks: int) -> float:
    """Bus bandwidth over bytes a second, as nccl-tests define it."""
    share = (ranks - 1) / ranks
    return {"all_reduce": 2 * share, "reduce_scatter": share, "all_gather": share}.get(what, 1.0)


class Network:
    """The groups of all groupings, made once.

    Args:
        meeting: all ranks.
        recipe: sizes, repeats, budget.
        nodes: of the job, all with as many ranks.
        dtype: torch's.

    Raises:
        RuntimeError: the library failed.
    """

    def __init__(self, meeting: Meeting, recipe: NetworkRecipe, nodes: int, dtype: Any) -> None:
        import torch.distributed as dist

        self._meeting, self._recipe, self._dtype = meeting, recipe, dtype
        each = meeting.place.world_size // nodes
        socket = recipe.socket if recipe.socket and each % recipe.socket == 0 else each
        self._plan = [(g, what) for g in groupings(nodes, each, socket) for what in COLLECTIVES]
        self._plan += [(g, what) for g in pairings(nodes, each, socket) for what in MESSAGES]
        # Every rank makes every group, in one order.
        self._groups: dict[tuple[int, ...], Any] = {
            ranks: dist.new_group(list(ranks))
            for grouping, _ in self._plan
            for ranks in grouping.members
            if len(ranks) < meeting.place.world_size
        }

    def measure(self, watch: Stopwatch, end: float) -> Iterator[tuple[Point, Timing | None]]:
        """Time each point; None for those that come after `end` (time.monotonic()) on any rank.

        Raises:
            RuntimeError: the library failed, or another rank has gone.
        """
        late = False
        for nbytes in sizes(self._recipe):
            for grouping, what in self._plan:
                ranks = grouping.size
                item = self._dtype.itemsize
                count = max(1, nbytes // (item * ranks)) * ranks
                point: Point = {
                    "what": what,
                    "group": grouping.name,
                    "ranks": ranks,
                    "first": grouping.members[0][0],
                    "stride": grouping.stride,
                    "on_node": grouping.on_node,
                    "bytes": count * item,
                }
                late = late or self._meeting.worst([float(time.monotonic() > end)])[0] > 0
                timing = None if late else self._time(watch, grouping, what, count)
                if timing is not None:
                    rate = count * item / timing.seconds
                    point["bus_rate"] = round(bus_factor(what, ranks) * rate, 1)
                yield point, timing

    def _time(self, watch: Stopwatch, grouping: Grouping, what: str, count: int) -> Timing:
        group = grouping.of(self._meeting.place.rank)
        work = None if group is None else self._work(group, what, count)
        once = 0.0
        for _ in range(2):  # the first one makes connections
            self._meeting.wait()
            once = 0.0 if work is None else watch.once(work)
        many = at_once(self._meeting.worst([once])[0])
        found = []
        for _ in range(self._recipe.repeats):
            self._meeting.wait()
            found.append(0.0 if work is None else watch.once(work, many))
        halves = 2 if what == "message" else 1
        return Timing.of([seconds / halves for seconds in self._meeting.worst(found)])

    def _work(self, ranks: tuple[int, ...], what: str, count: int) -> Work:
        import torch

        meeting = self._meeting
        whole = torch.zeros(count, dtype=self._dtype, device=meeting.device)
        if what in MESSAGES:
            return _message(whole, meeting.place.rank, ranks, what)
        part = torch.zeros(count // len(ranks), dtype=self._dtype, device=meeting.device)
        return _collective(what, whole, part, self._groups.get(ranks))


def _collective(what: str, whole: Any, part: Any, group: Any) -> Work:
    import torch.distributed as dist

    def named(*names: str) -> Any:
        return next(getattr(dist, name) for name in names if hasattr(dist, name))

    # torch's names for one thing over the years.
    scatter = named("reduce_scatter_single", "reduce_scatter_tensor", "_reduce_scatter_base")
    gather = named("all_gather_single", "all_gather_into_tensor", "_all_gather_base")
    made: dict[str, Callable[[], object]] = {
        "all_reduce": lambda: dist.all_reduce(whole, group=group),
        "reduce_scatter": lambda: scatter(part, whole, group=group),
        "all_gather": lambda: gather(whole, part, group=group),
    }
    return made[what]


def _message(whole: Any, rank: int, pair: tuple[int, ...], what: str) -> Work:
    import torch
    import torch.distributed as dist

    peer = pair[1] if rank == pair[0] else pair[0]
    other = torch.empty_like(whole)

    def there_and_back() -> None:
        if rank == pair[0]:
            dist.send(whole, peer)
            dist.recv(other, peer)
        else:
            dist.recv(other, peer)
            dist.send(whole, peer)

    def exchange() -> None:
        both = [dist.P2POp(dist.isend, whole, peer), dist.P2POp(dist.irecv, other, peer)]
        for request in dist.batch_isend_irecv(both):
            request.wait()

    return there_and_back if what == "message" else exchange
