"""Curves of a machine: products, copies, attention, collectives, timed by all ranks of a step.

    jsrun -r1 -a6 -g6 -c42 ... python -m alpenglow_profiling.curves jobs/calibrate.toml

Every rank runs this. Rank 0 writes RUN/curves/SEGMENT/{products,copies,attention,network}.jsonl,
each whole or not at all, when all ranks have measured it, and done.json at the end. On GPUs through
NCCL, else on CPUs through gloo. Each curve has a budget of seconds; what did not fit into it is
counted in the file's header and told in a sentence. KEY=VALUE behind the recipe goes over it.
`python -m alpenglow.parallel.curve_fit RUN` makes a machine file of the curves.

Exit code 0: all curves are there. 1: a rank failed or did not come; curves that were finished
before stay.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alpenglow_profiling import attention, copies, products
from alpenglow_profiling.curve import FORMAT, SUFFIX, Curve, CurveError, Point
from alpenglow_profiling.curves_recipe import CurvesRecipe
from alpenglow_profiling.meeting import Meeting
from alpenglow_profiling.network import Network
from alpenglow_profiling.place import Place, PreflightError
from alpenglow_profiling.preflight import BY_HAND
from alpenglow_profiling.reports import write_first
from alpenglow_profiling.stopwatch import Stopwatch, Timing

DONE, FAILED = "done.json", "failed.json"
JOIN_S = 120.0
"""How long a rank waits for the others."""
ROOM = 0.4
"""Share of the free memory that one measurement may fill."""


class Curves:
    """One rank's part in all curves.

    Args:
        meeting: all ranks.
        recipe: what to measure.
        folder: where rank 0 writes.
        end: time.monotonic() by which the last curve is to begin its last point.
    """

    def __init__(self, meeting: Meeting, recipe: CurvesRecipe, folder: Path, end: float) -> None:
        import torch

        self._meeting, self._recipe, self._folder, self._end = meeting, recipe, folder, end
        name = recipe.dtype
        if name == "auto":
            name = "fp16" if meeting.backend == "nccl" else "fp32"
        self._dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[name]
        self._watch = Stopwatch(meeting.device)
        self._hosts = meeting.hosts()
        self._header = {
            "host": meeting.place.host,
            "hosts": self._hosts,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "dtype": name,
            "ranks": meeting.place.world_size,
            "each": meeting.place.world_size // len(self._hosts),
            "socket": recipe.network.socket,
            **described(meeting),
        }

    def run(self) -> dict[str, int]:
        """Measure all curves; curve -> points.

        Raises:
            RuntimeError: a device or the library failed, or another rank has gone.
        """
        recipe, counts = self._recipe, {}
        for name, one in (
            ("products", recipe.products), ("copies", recipe.copies),
            ("attention", recipe.attention),
        ):  # fmt: skip
            points: Iterator[tuple[Point, Timing | None]] = iter(())
            if one.budget_s and (recipe.together or self._meeting.place.rank == 0):
                measure = {"products": products, "copies": copies, "attention": attention}[name]
                points = measure.measure(
                    one, self._watch, self._meeting.device, self._dtype, self._room()
                )
            self._meeting.wait()
            counts[name] = self._write(name, self._together(self._kept(points, one.budget_s)))
        if self._meeting.alone:
            _say("network: one rank has nobody to talk to")
        elif self._meeting.place.world_size % len(self._hosts):
            _say("network: nodes with different counts of ranks are not compared")
        elif recipe.network.budget_s:
            end = min(self._end, time.monotonic() + recipe.network.budget_s)
            found = Network(self._meeting, recipe.network, len(self._hosts), self._dtype)
            counts["network"] = self._write("network", [*found.measure(self._watch, end)])
        return counts

    def _kept(
        self, points: Iterator[tuple[Point, Timing | None]], budget_s: float
    ) -> list[tuple[Point, Timing | None]]:
        """What one rank measures within a budget; it alone decides when it ends."""
        end = min(self._end, time.monotonic() + budget_s)
        found = []
        for point, timing in points:
            found.append((point, timing))
            if time.monotonic() > end:
                break
        return found

    def _together(
        self, own: list[tuple[Point, Timing | None]]
    ) -> list[tuple[Point, Timing | None]]:
        """All ranks' times of the points that each of them reached."""
        if not self._recipe.together:
            return own
        reached = -int(self._meeting.worst([-float(len(own))])[0])
        own = own[:reached]
        mine = [-1.0 if timing is None else timing.seconds for _, timing in own]
        theirs = [*zip(*self._meeting.gather(mine), strict=True)] if mine else []
        merged: list[tuple[Point, Timing | None]] = []
        for (point, timing), seconds in zip(own, theirs, strict=True):
            if timing is None or min(seconds) <= 0:
                merged.append((point, None))
                continue
            median = statistics.median(seconds)
            many = {"measured_by": len(seconds)}
            merged.append(
                (point | many, Timing(median, min(seconds), max(seconds), timing.repeats))
            )
        return merged

    def _write(self, name: str, found: list[tuple[Point, Timing | None]]) -> int:
        points = [point | vars(timing) for point, timing in found if timing is not None]
        out = [point for point, timing in found if timing is None]
        if self._meeting.place.rank == 0 and points:
            rest = self._left(name, len(found)) + len(out)
            header = {**self._header, "together": self._recipe.together, "left_out": rest}
            path = Curve(name, header, points).write(self._folder)
            _say(f"{name}: {len(points)} points in {path}" + _left_words(rest, out))
        return len(points)

    def _left(self, name: str, reached: int) -> int:
        """Points of a recipe that nobody came to."""
        if name != "products":
            return 0
        from alpenglow_profiling.shapes import shapes

        return len(shapes(self._recipe.products)) - reached

    def _room(self) -> float:
        import torch

        if self._meeting.device.type == "cuda":
            free, _ = torch.cuda.mem_get_info()
            return ROOM * float(free)
        return ROOM * memory_bytes() / self._meeting.place.local_size


def _left_words(rest: int, out: Sequence[Point]) -> str:
    if not rest:
        return ""
    example = ""
    if out:
        shown = ("what", "group", "bytes", "m", "n", "k", "pass", "sequence")
        example = ", such as " + " ".join(str(out[0][key]) for key in shown if key in out[0])
    return f"; {rest} were left out, for memory or time{example}"


def memory_bytes() -> float:
    """Memory of this node."""
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def described(meeting: Meeting) -> dict[str, Any]:
    """Devices and libraries, for a curve's header."""
    import torch

    told: dict[str, Any] = {
        "backend": meeting.backend,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "memory_bytes": memory_bytes(),
        "device": "cpu",
    }
    if meeting.backend == "nccl":
        own = torch.cuda.get_device_properties(meeting.device)
        told |= {
            "device": own.name,
            "device_memory_bytes": own.total_memory,
            "multiprocessors": own.multi_processor_count,
            "cuda": torch.version.cuda,
            "nccl": ".".join(map(str, torch.cuda.nccl.version())),  # type: ignore[no-untyped-call]
        }
    return told


def _say(text: str) -> None:
    sys.stdout.write(f"curves: {text}\n")
    sys.stdout.flush()


def _fail(folder: Path, place: Place, text: str) -> int:
    """Say once, whoever is first, why the step fails."""
    try:
        first = write_first(folder / FAILED, {"format": FORMAT, "rank": place.rank, "text": text})
    except OSError:
        first = True
    if first:
        sys.stderr.write(f"curves: {text}\n")
        sys.stderr.flush()
    return 1


def _prepare(place: Place, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    # Every rank looks: nobody waits for one that turned away.
    if any(folder.glob(f"*{SUFFIX}")):
        raise CurveError(f"{folder} holds curves already: remove it to measure again")
    if place.rank == 0:
        (folder / FAILED).unlink(missing_ok=True)


def _measure(place: Place, recipe: CurvesRecipe, folder: Path) -> int:
    begin = time.monotonic()

    def overdue() -> None:
        _fail(folder, place, f"not done after {recipe.limit_s:.0f} s: a rank or a device hangs")
        os._exit(1)

    # Beside the budgets, which end each curve: a rank that hangs in a library returns to nobody.
    alarm = threading.Timer(recipe.limit_s, overdue)
    alarm.daemon = True
    alarm.start()
    try:
        meeting = Meeting(place, folder, JOIN_S, recipe.limit_s)
        counts = Curves(meeting, recipe, folder, begin + 0.9 * recipe.limit_s).run()
        meeting.part()
    except (RuntimeError, OSError) as error:
        first = str(error).strip().partition("\n")[0]
        text = first if isinstance(error, CurveError) else f"a rank or its device failed: {first}"
        code = _fail(folder, place, f"rank {place.rank} on {place.host}: {text}")
        sys.stdout.flush()
        os._exit(code)  # a library that lost a peer may wait for it at exit
    alarm.cancel()
    if place.rank == 0:
        took = round(time.monotonic() - begin, 1)
        write_first(folder / DONE, {"format": FORMAT, "points": counts, "seconds": took})
        _say(f"done in {took:.0f} s: python -m alpenglow.parallel.curve_fit {folder}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run on one rank; see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m alpenglow_profiling.curves")
    parser.add_argument("recipe", type=Path, help="jobs/calibrate.toml")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="over the recipe's")
    parser.add_argument("--run", type=Path, help="run directory; default $ALPENGLOW_RUN")
    given = parser.parse_args(sys.argv[1:] if arguments is None else list(arguments))
    try:
        place = Place.from_environment(os.environ)
    except PreflightError as error:
        sys.stderr.write(f"curves: {error}\n")
        return 1
    try:
        run = given.run or os.environ.get("ALPENGLOW_RUN")
        if not run:
            raise CurveError("say --run DIR, or start this through alpenglow_lsf.run")
        recipe = CurvesRecipe.read(
            given.recipe, os.environ.get("ALPENGLOW_MACHINE"), given.overrides
        )
        folder = Path(run) / "curves" / (os.environ.get("ALPENGLOW_SEGMENT") or BY_HAND)
        _prepare(place, folder)
        return _measure(place, recipe, folder)
    except (CurveError, OSError) as error:
        if place.rank == 0:
            sys.stderr.write(f"curves: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
