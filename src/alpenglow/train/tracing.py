"""Kernel traces of chosen steps on chosen ranks: by the recipe, or asked for while the run goes on.

    echo "ranks=0,5 steps=3" > runs/NAME/TRACE

Rank 0 looks for the file as it looks for STOP, and what it sees travels in the same all-reduce at
the step border; only then do the ranks exchange what it says, and all begin with the same step. The
file is removed when the window begins; one that cannot be understood too, with a sentence.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from alpenglow.train.checkpoint_group import Group
from alpenglow.train.measure_recipe import MeasureRecipe
from alpenglow.train.run_directory import RunDirectory
from alpenglow.train.stop import LOOK_S, StopRequest
from alpenglow_profiling.kernels import KernelWindow, Packing

LOG = logging.getLogger(__name__)
TRACE = "TRACE"
STEPS = 3
"""Steps of a window where the file does not say."""


class RequestError(ValueError):
    """A TRACE file that asks for nothing sensible; the message is one sentence."""


@dataclass(frozen=True)
class Request:
    """Which ranks trace how many steps."""

    ranks: tuple[int, ...]
    steps: int

    @classmethod
    def of_text(cls, text: str, default: tuple[int, ...], world_size: int) -> Request:
        """Read a TRACE file.

        Args:
            text: its content: `ranks=0,5`, `steps=3`, both or nothing.
            default: ranks where it names none.
            world_size: ranks of the job.

        Raises:
            RequestError: it says something else, or names no rank of this job.
        """
        ranks, steps = default, STEPS
        for word in text.split():
            key, _, value = word.partition("=")
            try:
                if key == "ranks":
                    ranks = tuple(int(number) for number in value.split(","))
                elif key == "steps":
                    steps = int(value)
                else:
                    raise ValueError
            except ValueError:
                raise RequestError(
                    f"TRACE says {word!r}: it may say ranks=0,5 and steps=3, or nothing"
                ) from None
        known = tuple(rank for rank in sorted(set(ranks)) if 0 <= rank < world_size)
        if not known or steps < 1:
            raise RequestError(
                f"TRACE asks for {steps} steps of ranks {list(ranks)}, and this job has ranks 0 to "
                f"{world_size - 1}"
            )
        return cls(known, steps)


class Tracing:
    """The windows of one rank.

    Args:
        recipe: the recipe's table.
        run: where TRACE is looked for, and where traces go.
        group: all ranks.
        stop: whose agreement at each border tells of the file.
        say: prints on rank 0.
    """

    def __init__(
        self,
        recipe: MeasureRecipe,
        run: RunDirectory,
        group: Group,
        stop: StopRequest,
        say: Callable[[str], None],
    ) -> None:
        self._recipe = recipe
        self._run = run
        self._group = group
        self._stop = stop
        self._say = say
        self._file: Path = run.path / TRACE
        self._looked = -LOOK_S
        self._left = 0  # steps of the window under way, on every rank alike
        self._window: KernelWindow | None = None
        self._packing: list[Packing] = []
        stop.also = self.asked

    def asked(self) -> bool:
        """Whether this rank has seen the file and no window is under way."""
        if self._group.rank != 0 or self._left or time.monotonic() - self._looked < LOOK_S:
            return False
        self._looked = time.monotonic()
        return self._file.exists()

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Stand around a step; collective where the last border heard of a file.

        Args:
            number: of the step, 1-based.
        """
        self._begin(number)
        if self._window is None:
            yield
        else:
            with self._window.step(number):
                yield
        self._left = max(0, self._left - 1)
        if not self._left:
            self._end()

    def _begin(self, number: int) -> None:
        request: Request | None = None
        if self._stop.heard:
            self._stop.heard = False
            request = self._group.all_gather_object(self._take())[0]
        if request is None and not self._left:
            request = self._planned(number)
        if request is None or self._left:
            return
        self._left = request.steps
        names = ", ".join(map(str, request.ranks))
        self._say(
            f"tracing rank {names} from step {number} on, {request.steps} steps, "
            f"in {self._run.traces}"
        )
        if self._group.rank in request.ranks:
            try:
                self._window = KernelWindow(self._run.traces, self._group.rank, number)
            except (OSError, RuntimeError) as error:
                LOG.warning("no trace of step %d: %s", number, error)

    def _take(self) -> Request | None:
        """Read the file and remove it, on rank 0."""
        if self._group.rank != 0:
            return None
        try:
            text = self._file.read_text(encoding="utf-8", errors="replace")
            self._file.unlink()
            return Request.of_text(text, self._recipe.trace_ranks, self._group.world_size)
        except OSError as error:
            self._say(f"{self._file} cannot be read and removed: {error.strerror}; nothing traced")
        except RequestError as error:
            self._say(f"{error}; nothing is traced")
        return None

    def _planned(self, number: int) -> Request | None:
        """What the recipe says of this step; a segment that begins within its steps does the rest.

        Ranks that this job has not are passed over: a run may go on with fewer.
        """
        first, count = self._recipe.trace_steps or (0, 0)
        ranks = tuple(r for r in self._recipe.trace_ranks if r < self._group.world_size)
        if not ranks or not first <= number < first + count:
            return None
        return Request(ranks, first + count - number)

    def _end(self) -> None:
        """Write the trace, if this rank has one."""
        window, self._window = self._window, None
        if window is None:
            return
        try:
            self._packing.append(window.end())
        except (OSError, RuntimeError) as error:
            LOG.warning("no trace %s: %s", window.path.name, error)

    def close(self) -> None:
        """End a window that the segment's end cut short, and wait for its file."""
        self._end()
        for packing in self._packing:
            packing.wait()
