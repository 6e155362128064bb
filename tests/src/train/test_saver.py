"""Saves in the background: what they hold, what a kill or a full disk leaves, what ranks agree."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from thread_ranks import ThreadRank, ThreadWorld
from training_ranks import STEPS, assert_same_checkpoint, metrics, tiny_recipe, train

from alpenglow.train.checkpoint import Checkpoint, Fragment, SingleProcess, steps
from alpenglow.train.saver import Abandoned, Durable, Saver
from alpenglow_profiling.events import NullRecorder

LAST = f"checkpoints/step-{STEPS:08d}"


def pairs(value: float, count: int = 1000) -> list[tuple[Fragment, torch.Tensor]]:
    weight = torch.full((count,), value)
    half = torch.full((3, 5), value, dtype=torch.bfloat16)
    return [(Fragment.of("weight", "w", weight), weight), (Fragment.of("exp_avg", "w", half), half)]


def saver(folder: Path, **more: Any) -> Saver:
    return Saver(folder, SingleProcess(), NullRecorder(), keep_last=2, **more)


def held(folder: Path) -> float:
    found = Checkpoint.newest(folder, pytest.fail)
    assert found is not None
    weight = found.tensor("weight", "w")
    assert (weight == weight[0]).all()
    return float(weight[0])


@pytest.mark.parametrize("tier", ["local", "straight"])
def test_a_snapshot_is_of_its_moment(tmp_path: Path, tier: str) -> None:
    local = tmp_path / "nvme/rank-0.section" if tier == "local" else None
    folder = tmp_path / "checkpoints"
    held_back: list[int] = []

    def slow(descriptor: int, data: memoryview, offset: int) -> int:
        if local is not None and not held_back:
            assert local.stat().st_size > 4000, "the local copy is whole before the drain"
        while not held_back:
            time.sleep(0.001)
        return os.pwrite(descriptor, data, offset)

    own = saver(folder, local=local, pwrite=slow)
    tensors = pairs(1.0)
    own.prepare(tensors)
    assert own.begin(1, tensors, {"a": 1}) is None
    for _, tensor in tensors:
        tensor.fill_(2.0)  # training goes on
    assert own.settle(own.votes()) is None
    assert steps(folder) == []
    held_back.append(1)
    former = own.begin(2, tensors, {})  # waits for the first
    assert isinstance(former, Durable)
    assert (former.step, own.waits) == (1, 1)
    assert held(folder) == 1.0
    outcome = own.finish()
    assert isinstance(outcome, Durable)
    assert outcome.nbytes == (folder / "step-00000002/node.fragments").stat().st_size
    assert held(folder) == 2.0
    assert own.finish() is None
    assert local is None or list(local.parent.iterdir()) == []


def test_old_checkpoints_go_after_the_new_one_exists(tmp_path: Path) -> None:
    own = saver(tmp_path, keep_every=4)
    for step in (2, 4, 6, 8, 10):
        own.begin(step, pairs(float(step)), {})
        own.finish()
    assert steps(tmp_path) == [4, 8, 10]


@pytest.mark.parametrize("damage", ["full", "other", "gone"])
def test_local_storage_is_a_help_and_no_condition(
    tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No room in it, other bytes read back than were written, no such folder."""
    said: list[str] = []
    local = tmp_path / "nvme/rank-0.section"
    if damage == "full":
        word = "No space left on device"

        def full(*_: int) -> None:
            raise OSError(28, word)

        monkeypatch.setattr(os, "posix_fallocate", full)
    elif damage == "gone":
        local.parent.write_text("a file where the folder should be")
        word = "File exists"
    else:
        read = os.preadv
        word = "it gave back other bytes than it got"

        def flipped(descriptor: int, buffers: list[memoryview], offset: int) -> int:
            count = read(descriptor, buffers, offset)
            buffers[0][count // 2] ^= 1
            return count

        monkeypatch.setattr(os, "preadv", flipped)
    folder = tmp_path / "checkpoints"
    own = saver(folder, local=local, say=said.append)
    for step in (1, 2):
        own.begin(step, pairs(float(step)), {})
        assert isinstance(own.finish(), Durable)
    monkeypatch.undo()
    assert held(folder) == 2.0
    (sentence,) = said
    assert sentence.startswith("local storage left out, straight to the file system: ")
    assert word in sentence
    assert not local.exists()


def test_a_save_that_fails_leaves_the_former_and_no_room_taken(tmp_path: Path) -> None:
    failing: list[int] = []

    def pwrite(descriptor: int, data: memoryview, offset: int) -> int:
        if failing:
            raise OSError(failing[0], os.strerror(failing[0]))
        return os.pwrite(descriptor, data, offset)

    own = saver(tmp_path, pwrite=pwrite)
    own.begin(1, pairs(1.0), {})
    own.finish()
    for error in (28, 122, 5):  # ENOSPC, EDQUOT, EIO
        failing[:] = [error]
        own.begin(2, pairs(2.0), {})
        outcome = own.finish()
        assert isinstance(outcome, Abandoned)
        assert os.strerror(error) in outcome.sentence
        assert "rank 0 on node" in outcome.sentence
        assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
        assert held(tmp_path) == 1.0
    failing.clear()
    own.begin(3, pairs(3.0), {})
    assert isinstance(own.finish(), Durable)
    assert held(tmp_path) == 3.0


def test_ranks_of_two_nodes_agree(tmp_path: Path) -> None:
    """Two ranks share a container, the third has its own node; its first save fails."""
    world = ThreadWorld(["a", "a", "b"])

    def act(rank: ThreadRank) -> list[Any]:
        calls: list[int] = []

        def pwrite(descriptor: int, data: memoryview, offset: int) -> int:
            calls.append(offset)
            if rank.rank == 2 and len(calls) == 1:
                raise OSError(122, os.strerror(122))
            return os.pwrite(descriptor, data, offset)

        own = Saver(tmp_path, rank, NullRecorder(), keep_last=1, pwrite=pwrite)
        part = torch.full((5,), float(rank.rank))
        place = [(5 * rank.rank, 5 * rank.rank + 5)]
        fragment = Fragment.of("weight", "w", part, global_shape=(15,), slice=place)
        outcomes: list[Any] = []
        for step in (1, 2):
            own.begin(step, [(fragment, part)], {"step": step})
            outcomes.append(own.finish())
        return outcomes

    results = world.run(act)
    for first, second in results:
        assert isinstance(first, Abandoned)
        assert "rank 2 on b: " in first.sentence
        assert isinstance(second, Durable)
    assert sorted(path.name for path in (tmp_path / "step-00000002").iterdir()) == [
        "a.fragments",
        "b.fragments",
        "manifest.json",
    ]
    found = Checkpoint.newest(tmp_path, pytest.fail)
    assert found is not None
    assert found.tensor("weight", "w").tolist() == [0.0] * 5 + [1.0] * 5 + [2.0] * 5
    assert steps(tmp_path) == [2]


CALLS = [
    *("mkdir", "open", "pwrite", "preadv", "fsync", "close", "rename", "replace", "unlink"),
    *("posix_fallocate", "rmdir"),
]


def dying_save(folder: Path, local: Path | None, step: int, value: float, at: int) -> bool:
    """Save in a child that kills itself at its at-th file-system call; says whether it died."""
    child = os.fork()
    if child == 0:
        own = saver(folder, local=local)
        own.prepare(pairs(value))
        left = at

        def dying(call: Callable[..., Any]) -> Callable[..., Any]:
            def act(*arguments: Any, **named: Any) -> Any:
                nonlocal left
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1
                return call(*arguments, **named)

            return act

        for name in CALLS:
            setattr(os, name, dying(getattr(os, name)))
        own.begin(step, pairs(value), {})
        os._exit(0 if isinstance(own.finish(), Durable) else 3)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


@pytest.mark.parametrize("again", [False, True], ids=["a new step", "the same step again"])
def test_a_kill_at_any_point_of_a_save_leaves_the_former_checkpoint(
    tmp_path: Path, again: bool
) -> None:
    folder, local = tmp_path / "checkpoints", tmp_path / "nvme/rank-0.section"
    assert not dying_save(folder, local, 1, 1.0, 10_000)
    at, found = 0, {1.0}
    while dying_save(folder, local, 1 if again else 2, 2.0 + at, at):
        found.add(held(folder))  # whole, and nothing said of damage
        assert held(folder) == 1.0 or held(folder) >= 2.0
        at += 3 if again else 1
    assert at > 20
    assert held(folder) == 2.0 + at
    assert len(found) > 1
    assert not local.exists()
    left = [path.suffix for path in (folder / f"step-0000000{1 if again else 2}").iterdir()]
    assert sorted(left) == [".fragments", ".json"], "leftovers of the kills are gone"


@pytest.mark.distributed
def test_a_full_disk_on_one_rank_costs_a_save_and_no_step(tmp_path: Path) -> None:
    """pp 2 x dp 2; the last rank may write no large file from step 4 on, until step 6."""
    recipe = tiny_recipe(2, 1, train={"checkpoint_every": 2})
    quiet, loud = tmp_path / "quiet", tmp_path / "loud"
    train(recipe, 4, quiet)
    ranks = train(recipe, 4, loud, local=tmp_path / "nvme", largest_file={4: 10_000, 6: -1})
    assert {rank["code"] for rank in ranks} == {0}
    (sentence,) = [text for text in ranks[0]["said"] if "not written" in text]
    assert "rank 3 on node00" in sentence
    assert "File too large" in sentence
    assert "step 2 is the newest, training goes on" in sentence
    assert steps(loud / "checkpoints") == [2, 6]
    assert not (loud / "checkpoints/step-00000004").exists(), "its room was cleared"
    assert_same_checkpoint(loud / LAST, quiet / LAST)
    same = ("step", "loss", "grad_norm")
    assert [[line[key] for key in same] for line in metrics(loud)] == [
        [line[key] for key in same] for line in metrics(quiet)
    ]
    assert list((tmp_path / "nvme").iterdir()) == []


@pytest.mark.distributed
def test_a_last_save_that_fails_ends_the_segment_with_an_error(tmp_path: Path) -> None:
    recipe = tiny_recipe(2, 1, train={"checkpoint_every": 2})
    ranks = train(recipe, 2, tmp_path, largest_file={5: 10_000})
    assert {rank["code"] for rank in ranks} == {1}
    assert len({rank["failure"] for rank in ranks}) == 1, "all ranks alike"
    assert "step 6: the checkpoint was not written: rank 1 on node00" in ranks[0]["failure"]
    assert steps(tmp_path / "checkpoints") == [2, 4]


@pytest.mark.distributed
def test_time_decides_when_to_save(tmp_path: Path) -> None:
    """So many failures that a save is due after every step."""
    recipe = tiny_recipe(1, 1, train={"checkpoint_every": "auto", "keep_last": 100})
    ranks = train(recipe, 2, tmp_path, mean_time_s=1e-9)
    said = "\n".join(ranks[0]["said"])
    assert said.count("checkpoints: every") == 2, "at the start, and after the first measured save"
    assert "Daly 2006" in said
    assert len(steps(tmp_path / "checkpoints")) > 1
