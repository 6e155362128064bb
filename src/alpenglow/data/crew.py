"""The workers of a job: calls given out a few at a time, tried again, and listed if they fail.

Results come as they end; nothing but a few calls a worker is ever in flight, whatever their number.
"""

from __future__ import annotations

import collections
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alpenglow.config import ConfigError
from alpenglow.data import heap
from alpenglow.data.catalogue import CatalogueError
from alpenglow.data.document import DataError, Unit
from alpenglow.data.progress import Progress
from alpenglow.data.recipe import PrepareRecipe
from alpenglow.data.shards import ShardError
from alpenglow_lsf.machine import MachineError
from alpenglow_lsf.ranks import Ranks, RanksError

if TYPE_CHECKING:
    from distributed import Client

RESERVE_S = 60.0
"""Time kept back before the deadline to stop in order."""
IN_FLIGHT = 4
"""Calls given out at once, for each worker."""
LISTED = 5
"""Failed units that are named with their reasons."""
MEGABYTE = 1_000_000
FAILURES = (CatalogueError, ConfigError, DataError, MachineError, OSError, RanksError, ShardError)
"""What a job or a call can end with; each message is one sentence."""

Call = tuple[Callable[..., Any], tuple[Any, ...]]
"""A function and its arguments."""

_MEMORY = "again and again, perhaps out of memory: make unit_bytes smaller"


class TimeOver(Exception):
    """The deadline is near; what is done is marked as done."""


class Crew:
    """Workers that a client reaches.

    Args:
        client: of the cluster.
        recipe: how often a call is tried again, how long nothing may end, how many workers.
        ranks: whose deadline holds.
    """

    def __init__(self, client: Client, recipe: PrepareRecipe, ranks: Ranks) -> None:
        self._client, self._recipe, self._ranks = client, recipe, ranks

    def over(
        self, units: Sequence[Unit], calls: Sequence[Call], words: str, progress: Progress
    ) -> list[Any]:
        """Run a call for each unit; returns the results in the order of the units.

        Raises:
            DataError: units failed, each again and again; the others are done.
            TimeOver: the deadline is near.
        """
        total = sum(unit.size for unit in units) / MEGABYTE
        done = 0.0
        results: dict[int, Any] = {}
        failed: dict[int, Exception] = {}
        progress.show(done, total, words)
        # The longest go first, so that none of them is what the others wait for at the end.
        order = sorted(range(len(units)), key=lambda index: -units[index].size)
        for place, result in self.gather([calls[index] for index in order], failed):
            results[order[place]] = result
            done += units[order[place]].size / MEGABYTE
            progress.show(done, total, words)
        if failed:
            raise _listed(
                {units[order[place]].name: error for place, error in failed.items()}, len(units)
            )
        return [results[index] for index in range(len(units))]

    def gather(
        self, calls: Sequence[Call], failed: dict[int, Exception] | None = None
    ) -> Iterable[tuple[int, Any]]:
        """Run calls on the workers, a few at a time; yields (place, result) as they end.

        Args:
            calls: functions and their arguments.
            failed: takes place -> error of calls that fail `retries` times more, and the others go
                on; None ends with the first.

        Raises:
            TimeOver: the deadline is near.
            DataError: no call ended for too long, or workers died on one.
        """
        from distributed import KilledWorker, wait

        workers = max(1, self._ranks.world_size - 2)
        if self._ranks.world_size == 1:
            workers = self._recipe.cluster.processes
        waiting = iter(range(len(calls)))
        again: collections.deque[int] = collections.deque()
        tried: collections.Counter[int] = collections.Counter()
        running: dict[Any, int] = {}
        heard = time.monotonic()
        try:
            while True:
                while len(running) < IN_FLIGHT * workers:
                    place = again.popleft() if again else next(waiting, None)
                    if place is None:
                        break
                    function, arguments = calls[place]
                    running[self._client.submit(_outcome, function, *arguments, pure=False)] = place
                if not running:
                    return
                self._check_time(heard)
                try:
                    ended = wait(list(running), timeout=5, return_when="FIRST_COMPLETED").done
                except TimeoutError:
                    continue
                heard = time.monotonic()
                for future in ended:
                    place = running.pop(future)
                    try:
                        result = future.result()
                    except KilledWorker as error:
                        if failed is None:
                            raise DataError(f"workers died on a task {_MEMORY} ({error})") from None
                        failed[place] = DataError(f"workers died on it {_MEMORY}")
                        continue
                    if not isinstance(result, _Failure):
                        yield place, result
                    elif failed is None:
                        raise result.error
                    elif tried[place] < self._recipe.retries:
                        tried[place] += 1
                        again.append(place)
                    else:
                        failed[place] = result.error
        finally:
            self._client.cancel(list(running))

    def _check_time(self, heard: float) -> None:
        left = self._ranks.time_left()
        if left is not None and left < RESERVE_S:
            raise TimeOver
        idle = self._recipe.cluster.idle_s
        if time.monotonic() - heard > idle:
            raise DataError(
                f"no task ended for {idle:g} s (cluster.idle_s): a worker hangs or is gone; "
                "submit again to go on with the units that are left"
            )


@dataclass(frozen=True)
class _Failure:
    """What a call ended with: returned, since Dask prints a traceback of what is raised."""

    error: Exception


def _outcome(function: Callable[..., Any], *arguments: Any) -> Any:
    heap.keep()
    try:
        return function(*arguments)
    except (*FAILURES, MemoryError) as error:
        return _Failure(error)
    except Exception as error:
        # A defect of ours in one unit should not end the others; it is listed like any failure.
        where = traceback.extract_tb(error.__traceback__)[-1]
        return _Failure(
            DataError(
                f"unexpected {type(error).__name__} ({error}) in {where.name}, "
                f"{Path(where.filename).name} line {where.lineno}: please report this"
            )
        )


def _listed(failed: Mapping[str, Exception], units: int) -> DataError:
    """One error for all units that failed."""
    first = "; ".join(f"{name}: {error}" for name, error in sorted(failed.items())[:LISTED])
    more = f"; and {len(failed) - LISTED} more" if len(failed) > LISTED else ""
    if len(failed) == units == 1:
        return DataError(first)
    return DataError(
        f"{len(failed)} of {units} units failed, the others are done and will not be done again: "
        f"{first}{more}"
    )
