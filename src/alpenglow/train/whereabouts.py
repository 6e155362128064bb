"""Where each rank stands, readable by its neighbours even when it is frozen.

A rank notes every instruction, span and wait in a slot of 64 bytes. The slots of a node lie in one
small shared memory, which a neighbour reads whatever has become of the writer. For the other nodes
the watchdogs copy it, every few seconds, into one file a node of the run directory.

Noting costs under a microsecond and no system call. The shared memory has no name once all ranks of
the node have it, so a killed job leaves none behind.
"""

from __future__ import annotations

import enum
import mmap
import os
import struct
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic_ns
from types import TracebackType

from alpenglow_profiling.kind import Kind
from alpenglow_profiling.span_recorder import OpenSpan, SpanRecorder

# rank, pid, start of the process, step, activity, wait inside it, micro-batch, notes, beats
_SLOT = struct.Struct("<iiQiHHiQQ")
SLOT_BYTES = 64


class Activity(enum.IntEnum):
    """What a rank is at; the text is how a sentence says it."""

    START = 0, "start-up"
    RESUME = 1, "reading a checkpoint"
    BETWEEN = 2, "between two steps"
    STEP = 3, "sharing the loss"
    LOAD = 4, "loading"
    FORWARD = 5, "forward"
    BACKWARD = 6, "backward"
    WEIGHT = 7, "the weight gradients"
    SEND_ACTIVATION = 8, "sending activations"
    RECEIVE_ACTIVATION = 9, "receiving activations"
    SEND_GRADIENT = 10, "sending gradients"
    RECEIVE_GRADIENT = 11, "receiving gradients"
    REDUCE = 12, "the gradient reduction"
    OPTIMIZER = 13, "the optimizer"
    TENSOR_REDUCE = 14, "a tensor-parallel reduction"
    AGREE = 15, "agreeing on whether to stop"
    SAVE = 16, "saving a checkpoint"
    EVALUATE = 17, "validation"
    OTHER = 18, "another instruction"
    NONE = 19, ""

    text: str

    def __new__(cls, number: int, text: str) -> Activity:
        """Make a member with its words."""
        member = int.__new__(cls, number)
        member._value_ = number
        member.text = text
        return member


_ACTIVITIES = tuple(Activity)
WAITS = frozenset(
    {
        Activity.STEP,  # between two instructions: sharing the loss
        Activity.SEND_ACTIVATION,
        Activity.RECEIVE_ACTIVATION,
        Activity.SEND_GRADIENT,
        Activity.RECEIVE_GRADIENT,
        Activity.REDUCE,
        Activity.OPTIMIZER,
        Activity.TENSOR_REDUCE,
        Activity.AGREE,
    }
)
"""Activities in which a rank waits for others: it is their victim before it is suspected."""
OUTSIDE_STEPS = frozenset(
    {Activity.START, Activity.RESUME, Activity.BETWEEN, Activity.SAVE, Activity.EVALUATE}
)
OF_INSTRUCTION = {
    "LoadMicroBatch": Activity.LOAD,
    "ForwardPass": Activity.FORWARD,
    "BackwardPass": Activity.BACKWARD,
    "BackwardInput": Activity.BACKWARD,
    "BackwardWeight": Activity.WEIGHT,
    "SendActivation": Activity.SEND_ACTIVATION,
    "RecvActivation": Activity.RECEIVE_ACTIVATION,
    "SendGrad": Activity.SEND_GRADIENT,
    "RecvGrad": Activity.RECEIVE_GRADIENT,
    "ReduceGrads": Activity.REDUCE,
    "ReduceTiedGrads": Activity.REDUCE,
    "OptimizerStep": Activity.OPTIMIZER,
}
OF_KIND = {
    Kind.RESTART: Activity.RESUME,
    Kind.STEP: Activity.STEP,
    Kind.TENSOR_REDUCE: Activity.TENSOR_REDUCE,
    Kind.CHECKPOINT: Activity.SAVE,
    Kind.EVALUATE: Activity.EVALUATE,
}
"""Spans that say where a rank is beyond its instructions."""
_NUMBERED = frozenset(range(Activity.LOAD, Activity.REDUCE))


@dataclass(frozen=True)
class Place:
    """Where one rank stood when its slot was read."""

    rank: int
    host: str
    pid: int
    started: int
    """Start of its process in clock ticks since boot: with the pid, this process and no other."""
    step: int
    activity: Activity
    inside: Activity
    """The wait inside it, such as a tensor-parallel reduction in forward; else NONE."""
    micro_batch: int
    notes: int
    """Counts what it noted: two reads with one count found it standing still."""
    beats: int
    """Counts the signs of life of its watchdog thread."""

    @property
    def waits(self) -> bool:
        """Whether it waits for another rank."""
        return self.activity in WAITS or self.inside in WAITS

    def __str__(self) -> str:
        """`rank 3 on h02 stood in backward of micro-batch 2 of step 17`."""
        where = self.activity.text
        if self.inside is not Activity.NONE:
            where = f"{self.inside.text} in {where}"
        if self.activity in _NUMBERED:
            where += f" of micro-batch {self.micro_batch}"
        if self.activity not in (Activity.START, Activity.RESUME):
            where += f" of step {self.step}" if self.activity != Activity.BETWEEN else (
                f" after step {self.step}"
            )  # fmt: skip
        return f"rank {self.rank} on {self.host} stood in {where}"


class Board:
    """The slots of one node's ranks.

    Args:
        memory: shared by the ranks of the node, or a copy of it.
        host: its name.
    """

    def __init__(self, memory: mmap.mmap | bytearray | bytes, host: str) -> None:
        self.memory = memory
        self.host = host

    @classmethod
    def shared(cls, name: str, host: str, ranks: int) -> tuple[Board, Path]:
        """Map the node's memory, made by whichever rank comes first.

        Returns:
            The board, and the file to unlink once every rank of the node has mapped it.
        """
        folder = Path("/dev/shm")
        if not folder.is_dir():
            folder = Path(tempfile.gettempdir())
        path = folder / name
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            size = ranks * SLOT_BYTES
            # Written, not only made longer: a page that cannot be had is an error here and now,
            # not a SIGBUS later.
            if os.fstat(descriptor).st_size < size:
                os.posix_fallocate(descriptor, 0, size)
            return cls(mmap.mmap(descriptor, size), host), path
        finally:
            os.close(descriptor)

    def places(self) -> list[Place]:
        """What the slots say; ranks that have noted nothing yet are left out."""
        found = []
        for offset in range(0, len(self.memory), SLOT_BYTES):
            rank, pid, started, step, activity, inside, batch, notes, beats = _SLOT.unpack_from(
                self.memory, offset
            )
            if pid:
                found.append(
                    Place(
                        rank, self.host, pid, started, step, _ACTIVITIES[activity],
                        _ACTIVITIES[inside], batch, notes, beats,
                    )
                )  # fmt: skip
        return found


class Whereabouts:
    """One rank's own slot; only its training thread notes, only its watchdog thread beats.

    Args:
        rank: global rank.
        board: None keeps the notes in this process.
        local_rank: whose slot.
    """

    def __init__(self, rank: int, board: Board | None = None, local_rank: int = 0) -> None:
        self.board = board or Board(bytearray(SLOT_BYTES), "")
        self.rank = rank
        self.step = 0
        self.notes = 0
        self.beats = 0
        self.noted_ns = monotonic_ns()
        self.settled = False
        """Whether the first step is over, after which a step has its usual length."""
        self._offset = local_rank * SLOT_BYTES
        self._pid = os.getpid()
        self._started = process_start(self._pid) or 0
        self._place = (Activity.START, Activity.NONE, 0)
        self._note()

    @property
    def activity(self) -> Activity:
        """What this rank is at."""
        return self._place[0]

    def _note(self) -> None:
        self.notes += 1
        self.noted_ns = monotonic_ns()
        activity, inside, batch = self._place
        _SLOT.pack_into(
            self.board.memory, self._offset, self.rank, self._pid, self._started, self.step,
            activity, inside, batch, self.notes, self.beats,
        )  # fmt: skip

    def leave_board(self) -> None:
        """Take this rank's slot away: it ends by itself."""
        struct.pack_into(f"{SLOT_BYTES}x", self.board.memory, self._offset)

    def note_again(self) -> None:
        """Say that this rank still stands there and gets on."""
        self._note()

    def beat(self) -> None:
        """Give a sign of life, from the watchdog's thread."""
        self.beats += 1
        # Only its own eight bytes: the training thread may be writing the rest.
        struct.pack_into("<Q", self.board.memory, self._offset + _SLOT.size - 8, self.beats)

    def enter(self, name: str, micro_batch: int) -> None:
        """See `InstructionHook`."""
        activity = OF_INSTRUCTION.get(name, Activity.OTHER)
        self._place = (activity, Activity.NONE, micro_batch)
        self._note()

    def leave(self, name: str) -> None:
        """See `InstructionHook`."""
        del name
        self._place = (Activity.STEP, Activity.NONE, 0)
        self._note()

    @contextmanager
    def at(self, activity: Activity) -> Iterator[None]:
        """Stand there inside the `with` block; inside an instruction it is a wait of it."""
        before = self._place
        if before[0] in OF_INSTRUCTION.values():
            self._place = (before[0], activity, before[2])
        else:
            self._place = (activity, Activity.NONE, 0)
        self._note()
        yield  # what raises leaves the rank where it stood, for those who ask
        self._place = before
        self._note()

    def stand(self, activity: Activity) -> None:
        """Stand there from now on."""
        self._place = (activity, Activity.NONE, 0)
        self._note()


class _Standing:
    """A recorder's span that is also a place."""

    def __init__(
        self, span: AbstractContextManager[OpenSpan], place: AbstractContextManager[None]
    ) -> None:
        self._span = span
        self._place = place

    def __enter__(self) -> OpenSpan:
        self._place.__enter__()
        return self._span.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._span.__exit__(kind, error, trace)
        self._place.__exit__(kind, error, trace)


class WatchedRecorder:
    """A span recorder whose spans also say where the rank is.

    Args:
        recorder: gets every span.
        whereabouts: told of those in `OF_KIND`.
    """

    def __init__(self, recorder: SpanRecorder, whereabouts: Whereabouts) -> None:
        self._recorder = recorder
        self._whereabouts = whereabouts
        self.record = recorder.record
        self.spent_ns = recorder.spent_ns
        self.flush = recorder.flush
        self.close = recorder.close

    @property
    def step(self) -> int:
        """See `SpanRecorder.step`."""
        return self._recorder.step

    @step.setter
    def step(self, step: int) -> None:
        self._recorder.step = step
        self._whereabouts.step = step

    def span(
        self,
        kind: Kind,
        micro_batch: int = -1,
        bytes: int = -1,
        group: int = -1,
        peer: int = -1,
    ) -> AbstractContextManager[OpenSpan]:
        """See `SpanRecorder.span`."""
        span = self._recorder.span(kind, micro_batch, bytes, group, peer)
        activity = OF_KIND.get(kind)
        return span if activity is None else _Standing(span, self._whereabouts.at(activity))


def process_start(pid: int) -> int | None:
    """When a process began, in clock ticks since boot; None if it is gone, dead or not to be seen.

    From /proc/PID/stat (proc(5)): the third field is the state, the 22nd the start.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZXx" else int(fields[19])
