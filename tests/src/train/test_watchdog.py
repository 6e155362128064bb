"""Who holds a job up, told from where ranks stood; the hang itself is in the fault campaign."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Event

import pytest

from alpenglow.train import watchdog
from alpenglow.train.watchdog import Watchdog, judge
from alpenglow.train.whereabouts import (
    SLOT_BYTES,
    Activity,
    Board,
    Place,
    Whereabouts,
    process_start,
)


def place(
    rank: int, activity: Activity, *, beats: int = 5, step: int = 17, notes: int = 9
) -> Place:
    return Place(rank, f"h0{rank // 2}", 1, 1, step, activity, Activity.NONE, 2, notes, beats)


def test_the_frozen_the_hung_and_their_victims() -> None:
    before = {
        0: place(0, Activity.RECEIVE_GRADIENT),
        1: place(1, Activity.RECEIVE_ACTIVATION),
        2: place(2, Activity.OPTIMIZER),
        3: place(3, Activity.BACKWARD),
    }
    alive = {r: place(r, p.activity, beats=8) for r, p in before.items()}
    hung = judge(before, alive, 4, 30.0)
    assert hung.frozen == ()
    assert hung.sentence == (
        "rank 3 on h01 stood in backward of micro-batch 2 of step 17 and got no further"
    )
    frozen = judge(before, alive | {1: before[1]}, 4, 30.0)
    assert frozen.frozen == (before[1],)
    assert "rank 1 on h00 stood in receiving activations of micro-batch 2" in frozen.sentence
    assert "gives no sign of life" in frozen.sentence
    waiting = {r: place(r, Activity.AGREE, beats=r, step=20 - r) for r in range(4)}
    later = {r: place(r, Activity.AGREE, beats=r + 9, step=20 - r) for r in range(4)}
    told = judge(waiting, later, 4, 30.0).sentence
    assert told.startswith("all ranks wait for each other; rank 3 on h01 stood in agreeing")
    assert "nothing is known of rank 4" in judge(waiting, later, 5, 30.0).sentence


def test_a_wait_inside_an_instruction_is_a_wait() -> None:
    where = Whereabouts(0)
    where.step = 3
    where.enter("ForwardPass", 1)
    (here,) = where.board.places()
    assert not here.waits
    with where.at(Activity.TENSOR_REDUCE):
        (here,) = where.board.places()
        assert here.waits
        assert str(here).endswith(
            "in a tensor-parallel reduction in forward of micro-batch 1 of step 3"
        )
    with pytest.raises(RuntimeError), where.at(Activity.TENSOR_REDUCE):
        raise RuntimeError  # it stays where it failed, for those who ask
    assert where.board.places()[0].inside is Activity.TENSOR_REDUCE
    where.leave("ForwardPass")
    assert where.activity is Activity.STEP


def test_a_neighbour_is_read_through_shared_memory_without_a_name() -> None:
    name = f"alpenglow-test-{os.getpid()}"
    board, file = Board.shared(name, "h00", 2)
    other, same = Board.shared(name, "h00", 2)
    assert file == same
    file.unlink()
    one, two = Whereabouts(6, board, 0), Whereabouts(7, other, 1)
    two.step = 9
    two.enter("OptimizerStep", 0)
    two.beat()
    seen = board.places()
    assert [(p.rank, p.pid, p.beats) for p in seen] == [(6, os.getpid(), 0), (7, os.getpid(), 1)]
    assert str(seen[1]) == "rank 7 on h00 stood in the optimizer of step 9"
    one.leave_board()
    assert [p.rank for p in board.places()] == [7]
    assert len(board.memory) % SLOT_BYTES == 0


def test_a_process_is_told_from_its_zombie_and_its_successor() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        started = process_start(child.pid)
        assert started is not None
        child.send_signal(signal.SIGSTOP)
        assert process_start(child.pid) == started
    finally:
        child.kill()
    while process_start(child.pid) is not None:
        time.sleep(0.01)  # dead, and not yet reaped: a zombie
    child.wait()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "TURNS", 0)


@pytest.mark.usefixtures("quick")
def test_it_tells_once_and_ends_with_a_code_for_the_chain(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two ranks on two nodes; the second one hangs in forward, and both leave."""
    left: dict[int, int] = {}
    done = Event()

    def leave(rank: int, code: int) -> None:
        left[rank] = code
        if len(left) == 2:
            done.set()

    ranks = []
    for rank in range(2):
        where = Whereabouts(rank, Board(bytearray(SLOT_BYTES), f"h{rank}"))
        where.settled = True
        where.step = 17
        where.enter("ForwardPass" if rank else "RecvGrad", 2)
        ranks.append(
            Watchdog(
                where,
                tmp_path / "places",
                2,
                hang_s=1.0,
                patience_s=60.0,
                leave=lambda code, rank=rank: leave(rank, code),  # type: ignore[misc]
            )
        )
    assert done.wait(60)
    assert left == {0: 1, 1: 1}
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "rank 1 on h1 stood in forward of micro-batch 2 of step 17 and got no further" in said
    assert json.loads((tmp_path / "places/verdict.json").read_text())["frozen"] == []


def test_progress_and_slow_starts_are_no_hang(tmp_path: Path) -> None:
    left: list[int] = []
    where = Whereabouts(0, Board(bytearray(SLOT_BYTES), "h0"))
    watch = Watchdog(where, tmp_path / "w/1.1", 1, hang_s=0.2, patience_s=600.0, leave=left.append)
    file = tmp_path / "w/1.1/h0.places"
    while not file.exists():
        time.sleep(0.01)
    before = where.beats
    while where.beats < before + 50:  # two and a half times hang_s, in the start-up
        time.sleep(0.01)
    assert left == []
    watch.close()
    assert not file.exists()
