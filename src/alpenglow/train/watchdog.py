"""Ends a job whose ranks stand still, and says which rank stood where.

A thread in every rank looks at that rank's own progress. Where there has been none for `hang_s`,
one rank reads where all of them stand: a rank whose own watchdog is silent is frozen, one that
moves no further while it waits for nobody is hung, and all others are their victims. It says so in
one sentence, and every rank leaves with an exit code that lets the chain go on. A frozen process
cannot leave: its neighbours kill it.

From the last progress to the end it takes at most 1.2 x hang_s + 10 s.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from alpenglow.train.checkpoint_group import DistributedGroup
from alpenglow.train.failure import FAILED, tell
from alpenglow.train.whereabouts import OUTSIDE_STEPS, Board, Place, Whereabouts, process_start

VERDICT = "verdict.json"
FIRST_LOOK = 0.6
"""Share of the limit after which places are read, to be compared with those at its end."""
LONGEST_BEAT_S = 15.0
TURNS = 8
"""Ranks that take turns in telling, a second apart, in case that the first ones are frozen."""


class NotingGroup(DistributedGroup):
    """All ranks, with a note after each collective: a long save gets on from one to the next.

    Args:
        node: this rank's node.
        whereabouts: this rank's.
    """

    def __init__(self, node: str, whereabouts: Whereabouts) -> None:
        super().__init__(node)
        self._whereabouts = whereabouts

    def all_gather_object(self, item: Any) -> list[Any]:
        """See `Group`."""
        items = super().all_gather_object(item)
        self._whereabouts.note_again()
        return items

    def all_reduce_max(self, values: Sequence[int]) -> list[int]:
        """See `Group`."""
        largest = super().all_reduce_max(values)
        self._whereabouts.note_again()
        return largest


@dataclass(frozen=True)
class Verdict:
    """Which ranks hold the job up."""

    sentence: str
    frozen: tuple[Place, ...]
    """Those whose processes do nothing at all."""


class Watchdog:
    """Watches this rank; made before the first step, closed at the end of training.

    Args:
        whereabouts: this rank's.
        folder: `runs/NAME/whereabouts/SEGMENT`, shared by all nodes.
        world_size: number of ranks.
        hang_s: seconds without progress inside a step; 0 watches nothing.
        patience_s: the same outside of steps and in the first step of a segment.
        leave: ends the process.
    """

    def __init__(
        self,
        whereabouts: Whereabouts,
        folder: Path,
        world_size: int,
        *,
        hang_s: float,
        patience_s: float,
        leave: Callable[[int], object] = os._exit,
    ) -> None:
        self.whereabouts = whereabouts
        self.folder = folder
        self._world_size = world_size
        self._hang_s = hang_s
        self._patience_s = max(hang_s, patience_s)
        self._leave = leave
        self._beat_s = min(LONGEST_BEAT_S, hang_s / 20)
        self._over = threading.Event()
        self._before: dict[int, Place] | None = None
        self._seen: dict[int, int] = {}
        self._thread: threading.Thread | None = None
        if hang_s > 0:
            folder.mkdir(parents=True, exist_ok=True)
            self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Watch no longer; the node's file goes, as nothing happened that it could explain."""
        self._over.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
            with contextlib.suppress(OSError):
                self._file(self.whereabouts.board.host).unlink(missing_ok=True)
                self.folder.rmdir()

    def gone(self) -> str | None:
        """Name the ranks of this node that were killed, if any; for a rank that lost a peer.

        This rank, which is about to leave, leaves the board, so that nobody takes it for killed.
        """
        for _ in range(20):  # its sockets close a moment before the process is seen to be dead
            places = [
                p for p in self.whereabouts.board.places() if process_start(p.pid) != p.started
            ]
            if places:
                break
            time.sleep(0.05)
        self.whereabouts.leave_board()
        return "; ".join(f"{place}, and is gone" for place in places) or None

    def _watch(self) -> None:
        since = looked = monotonic()
        notes = -1
        while not self._over.wait(self._beat_s):
            now = monotonic()
            where = self.whereabouts
            # This process itself was stopped and continued (bstop, bresume), or the computer slept.
            paused = now - looked > 5 * self._beat_s + 1.0
            looked = now
            where.beat()
            self._publish()
            if where.notes != notes or paused:
                notes, since, self._before = where.notes, now, None
                continue
            usual = where.settled and where.activity not in OUTSIDE_STEPS
            limit = self._hang_s if usual else self._patience_s
            if now - since < FIRST_LOOK * limit:
                continue
            if (self.folder / VERDICT).exists():
                self._end()
            if self._before is None:
                self._before = self._look()
            turn = min(where.rank, TURNS) * min(1.0, 2 * self._beat_s)
            if now - since >= limit + turn:
                self._tell(now - since)

    def _file(self, host: str) -> Path:
        return self.folder / f"{host}.places"

    def _publish(self) -> None:
        """Copy the node's slots to where other nodes see them; the first rank alive does it."""
        board, where = self.whereabouts.board, self.whereabouts
        for place in board.places():
            if place.rank >= where.rank:
                break
            if place.beats != self._seen.get(place.rank):
                self._seen[place.rank] = place.beats
                return
        file = self._file(board.host)
        temporary = file.with_name(f".{file.name}.{os.getpid()}")
        with contextlib.suppress(OSError):  # a full disk is not the watchdog's business
            temporary.write_bytes(bytes(board.memory))
            temporary.replace(file)

    def _look(self) -> dict[int, Place]:
        """Where all ranks stand, as far as their nodes tell."""
        own = self.whereabouts.board
        boards = [own]
        for file in sorted(self.folder.glob("*.places")):
            host = file.name.removesuffix(".places")
            if host != own.host:
                with contextlib.suppress(OSError):
                    boards.append(Board(file.read_bytes(), host))
        return {place.rank: place for board in boards for place in board.places()}

    def _tell(self, seconds: float) -> None:
        verdict = judge(self._before or {}, self._look(), self._world_size, seconds)
        text = json.dumps(
            {
                "sentence": verdict.sentence,
                "frozen": [[place.host, place.pid, place.started] for place in verdict.frozen],
            }
        )
        path = self.folder / VERDICT
        temporary = path.with_name(f".{path.name}.{self.whereabouts.rank}")
        try:
            temporary.write_text(text, encoding="utf-8")
            os.link(temporary, path)  # of those that speak at once, one is the first
        except FileExistsError:
            self._end()
            return
        except OSError:
            pass  # nowhere to write: the others come to the same end by themselves
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        tell(f"no progress for {seconds:.0f} s: {verdict.sentence}; the job ends here")
        self._end()

    def _end(self) -> None:
        """Leave, and take along the frozen ranks of this node."""
        with contextlib.suppress(OSError, ValueError):
            found = json.loads((self.folder / VERDICT).read_text(encoding="utf-8"))
            for host, pid, started in found["frozen"]:
                if host == self.whereabouts.board.host and process_start(pid) == started:
                    os.kill(pid, signal.SIGKILL)
        sys.stdout.flush()
        self._over.set()
        self._leave(FAILED)


def judge(
    before: dict[int, Place], now: dict[int, Place], world_size: int, seconds: float
) -> Verdict:
    """Find who holds the job up.

    Args:
        before: where the ranks stood some time ago.
        now: where they stand, with nobody having got further for `seconds`.
        world_size: number of ranks.
        seconds: for the sentence.
    """
    absent = [rank for rank in range(world_size) if rank not in now]
    frozen = [p for r, p in now.items() if r in before and p.beats == before[r].beats]
    hung = [
        place
        for rank, place in now.items()
        if not place.waits and rank in before and place.notes == before[rank].notes
    ]
    if frozen:
        sentence = _some(frozen, "and its process gives no sign of life")
    elif hung:
        sentence = _some(hung, "and got no further")
    elif absent:
        sentence = f"nothing is known of rank {', '.join(map(str, absent[:8]))}"
    else:
        behind = sorted(now.values(), key=lambda place: (place.step, place.notes))
        sentence = "all ranks wait for each other; " + _some(behind, "and waited")
    return Verdict(sentence, tuple(frozen))


def _some(places: Sequence[Place], how: str) -> str:
    """Name up to four."""
    more = f" (and {len(places) - 4} ranks more)" if len(places) > 4 else ""
    return "; ".join(f"{place} {how}" for place in places[:4]) + more
