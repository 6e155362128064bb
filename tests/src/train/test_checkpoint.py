"""Checkpoints: any layout round-trips bit for bit, a crash leaves none, damage is named."""

from __future__ import annotations

import itertools
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from thread_ranks import ThreadRank, ThreadWorld

from alpenglow.train.checkpoint import (
    Checkpoint,
    CheckpointError,
    Fragment,
    SingleProcess,
    prune,
    save,
    step_directory,
    steps,
)

Pairs = list[tuple[Fragment, torch.Tensor]]
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8]


def random_bits(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> torch.Tensor:
    """Any bit pattern, NaNs and infinities included."""
    generator = torch.Generator().manual_seed(seed)
    count = int(torch.Size(shape).numel()) * dtype.itemsize
    raw = torch.randint(0, 256, (count,), dtype=torch.uint8, generator=generator)
    return raw.view(dtype).reshape(shape)


def bits(tensor: torch.Tensor) -> bytes:
    flat = tensor.flatten().clone(memory_format=torch.contiguous_format)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


@st.composite
def layouts(draw: st.DrawFn) -> tuple[torch.Tensor, Pairs]:
    """A tensor cut into a grid of slices, some of them cut again into flat ranges, in any order."""
    shape = tuple(draw(st.lists(st.integers(1, 7), min_size=0, max_size=3)))
    dtype = draw(st.sampled_from(DTYPES))
    tensor = random_bits(shape, dtype, draw(st.integers(0, 2**31)))
    boxes: list[tuple[tuple[int, int], ...]] = [()]
    for size in shape:
        cuts = sorted({0, size, *draw(st.lists(st.integers(0, size), max_size=2))})
        parts = list(itertools.pairwise(cuts))
        boxes = [(*box, part) for box in boxes for part in parts]
    pairs: Pairs = []
    for box in boxes:
        piece = tensor[tuple(slice(a, b) for a, b in box)]
        if draw(st.booleans()):
            count = piece.numel()
            cuts = sorted([0, count, *draw(st.lists(st.integers(0, count), max_size=3))])
            for flat in itertools.pairwise(cuts):
                data = piece.reshape(-1)[flat[0] : flat[1]]
                fragment = Fragment.of(
                    "weight", "a.b", data, global_shape=shape, slice=box, flat=flat
                )
                pairs.append((fragment, data))
        else:
            fragment = Fragment.of("weight", "a.b", piece, global_shape=shape, slice=box)
            pairs.append((fragment, piece))
            if draw(st.booleans()):
                pairs.append((fragment, piece))  # a replica
    nothing = tensor[tuple(slice(0, 0) for _ in shape)]
    if shape:
        empty = Fragment.of(
            "weight", "a.b", nothing, global_shape=shape, slice=[(0, 0) for _ in shape]
        )
        pairs.append((empty, nothing))
    return tensor, draw(st.permutations(pairs))


@settings(max_examples=120, deadline=None)
@given(layout=layouts(), ranks=st.integers(1, 4), data=st.data())
def test_any_layout_round_trips_bit_for_bit(
    layout: tuple[torch.Tensor, Pairs],
    ranks: int,
    data: st.DataObject,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    tensor, pairs = layout
    folder = tmp_path_factory.mktemp("layout") / "step-00000001"
    world = ThreadWorld([f"node{rank % 2}" for rank in range(ranks)])
    world.run(lambda r: save(folder, pairs[r.rank :: ranks], step=1, state={}, group=r))
    box = []
    for size in tensor.shape:
        start, stop = sorted([data.draw(st.integers(0, size)), data.draw(st.integers(0, size))])
        box.append((start, stop))
    part = tensor[tuple(slice(a, b) for a, b in box)]
    low, high = sorted(data.draw(st.integers(0, part.numel())) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch:
        size = data.draw(st.sampled_from([8, 24, 1 << 20]))
        for module in ("fragment_read", "checkpoint"):
            patch.setattr(f"alpenglow.train.{module}.CHUNK", size)
        if tensor.dim():
            wanted = data.draw(st.none() | st.integers(0, tensor.shape[0]))
            checkpoint = Checkpoint.open(folder)
            for _ in range(2):  # checked, and known to be sound
                pieces = checkpoint.rows("weight", "a.b", wanted)
                assert b"".join(map(bits, pieces)) == bits(tensor[:wanted])
        checkpoint = Checkpoint.open(folder)
        assert bits(checkpoint.tensor("weight", "a.b", box)) == bits(part)
        assert Checkpoint.open(folder).verify() == []
        assert bits(checkpoint.tensor("weight", "a.b")) == bits(tensor)
        assert checkpoint.shape("weight", "a.b") == tensor.shape
        flat = checkpoint.flat("weight", "a.b", box, (low, high))
    assert flat.dtype == tensor.dtype
    assert bits(flat) == bits(part.reshape(-1)[low:high])


def two_tensors(seed: int = 0) -> Pairs:
    weight = random_bits((8, 6), torch.bfloat16, seed)
    moment = random_bits((8, 6), torch.float32, seed + 1)
    return [
        (
            Fragment.of("weight", "w", weight[:4], global_shape=(8, 6), slice=[(0, 4), (0, 6)]),
            weight[:4],
        ),
        (
            Fragment.of("weight", "w", weight[4:], global_shape=(8, 6), slice=[(4, 8), (0, 6)]),
            weight[4:],
        ),
        (Fragment.of("exp_avg", "w", moment), moment),
    ]


def write(checkpoints: Path, step: int, seed: int = 0) -> Path:
    folder = step_directory(checkpoints, step)
    save(folder, two_tensors(seed), step=step, state={"seed": seed}, group=SingleProcess())
    return folder


def newest(checkpoints: Path) -> tuple[Checkpoint | None, list[str]]:
    said: list[str] = []
    return Checkpoint.newest(checkpoints, said.append), said


def test_what_is_in_it(tmp_path: Path) -> None:
    folder = write(tmp_path, 7)
    assert {p.name for p in folder.iterdir()} == {"manifest.json", "node.fragments"}
    checkpoint = Checkpoint.open(folder)
    assert (checkpoint.step, checkpoint.state) == (7, {"seed": 0})
    assert checkpoint.kinds() == ["exp_avg", "weight"]
    assert checkpoint.names("weight") == ["w"]
    assert checkpoint.dtype("weight", "w") == torch.bfloat16
    for row in json.loads(_index(folder / "node.fragments"))["fragments"]:
        assert row[6] % 64 == 0
    with pytest.raises(CheckpointError, match="holds no weight absent"):
        checkpoint.tensor("weight", "absent")
    with pytest.raises(CheckpointError, match="do not fit the global shape"):
        checkpoint.tensor("weight", "w", [(0, 9), (0, 6)])


def _index(container: Path) -> bytes:
    raw = container.read_bytes()
    length = int.from_bytes(raw[-24:-16], "little")
    return raw[-24 - length : -24]


CALLS = ["mkdir", "open", "pwrite", "ftruncate", "fsync", "close", "rename", "replace", "unlink"]


def _dying_save(checkpoints: Path, step: int, seed: int, at: int) -> bool:
    """Save in a child that kills itself at its at-th file-system call; says whether it died."""
    child = os.fork()
    if child == 0:
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
        write(checkpoints, step, seed)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def test_a_kill_at_any_point_leaves_no_checkpoint_or_a_whole_one(tmp_path: Path) -> None:
    write(tmp_path, 1)
    at, seen = 0, set()
    while _dying_save(tmp_path, 2, seed=at, at=at):
        found, said = newest(tmp_path)
        assert found is not None
        assert said == [], "a cut save is no checkpoint at all, not a damaged one"
        seen.add(found.step)
        if found.step == 2:
            # From here on the kills hit a save over a whole checkpoint of the same step.
            assert found.state["seed"] <= at
            assert bits(found.tensor("exp_avg", "w")) == bits(
                two_tensors(found.state["seed"])[2][1]
            )
        at += 1
    assert at > 12
    assert seen == {1, 2}
    last, _ = newest(tmp_path)
    assert last is not None
    assert last.state["seed"] == at
    assert len(list(last.directory.iterdir())) == 2, "leftovers were cleared"


def test_kills_over_a_whole_checkpoint_of_the_same_step(tmp_path: Path) -> None:
    at = 0
    write(tmp_path, 2, seed=1000)
    while _dying_save(tmp_path, 2, seed=at, at=at):
        found, said = newest(tmp_path)
        assert found is not None
        assert said == []
        assert bits(found.tensor("exp_avg", "w")) == bits(two_tensors(found.state["seed"])[2][1])
        at += 1


def truncate(folder: Path) -> None:
    file = folder / "node.fragments"
    os.truncate(file, file.stat().st_size - 10)


def flip(folder: Path) -> None:
    file = folder / "node.fragments"
    raw = bytearray(file.read_bytes())
    raw[70] ^= 4
    file.write_bytes(raw)


def flip_index(folder: Path) -> None:
    file = folder / "node.fragments"
    raw = bytearray(file.read_bytes())
    raw[-30] ^= 1
    file.write_bytes(raw)


def remove(folder: Path) -> None:
    (folder / "node.fragments").unlink()


def edit_manifest(folder: Path) -> None:
    file = folder / "manifest.json"
    file.write_text(file.read_text().replace('"step": 3', '"step": 4'))


def cut_manifest(folder: Path) -> None:
    file = folder / "manifest.json"
    file.write_text(file.read_text()[:40])


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (truncate, "bytes where the manifest says"),
        (flip, "fragment of weight w .* has the wrong checksum"),
        (flip_index, "index does not have the checksum"),
        (remove, "No such file"),
        (edit_manifest, "checksum that it names"),
        (cut_manifest, "not a manifest"),
    ],
)
def test_newest_names_and_passes_over_damage(
    tmp_path: Path, damage: Callable[[Path], None], word: str
) -> None:
    write(tmp_path, 2)
    damage(write(tmp_path, 3))
    found, said = newest(tmp_path)
    assert found is not None
    assert found.step == 2
    assert len(said) == 1
    assert said[0].startswith("checkpoint step-00000003 is damaged and passed over: ")
    with pytest.raises(CheckpointError, match=word):
        raise CheckpointError(said[0])
    # Saved again after the rewind, the step is whole.
    write(tmp_path, 3, seed=5)
    found, said = newest(tmp_path)
    assert found is not None
    assert (found.step, found.state, said) == (3, {"seed": 5}, [])


def test_reading_a_flipped_fragment_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, 3)
    flip(folder)
    checkpoint = Checkpoint.open(folder)
    with pytest.raises(CheckpointError, match="wrong checksum"):
        checkpoint.tensor("weight", "w")
    assert checkpoint.tensor("weight", "w", [(4, 8), (0, 6)]).shape == (4, 6)


def test_verification_is_shared_and_every_rank_hears_of_it(tmp_path: Path) -> None:
    write(tmp_path, 2)
    flip(write(tmp_path, 3))
    said: list[str] = []
    found = ThreadWorld(["a", "a", "b"]).run(
        lambda rank: Checkpoint.newest(tmp_path, said.append, group=rank)
    )
    assert [checkpoint.step for checkpoint in found] == [2, 2, 2]
    assert len(said) == 1
    below = Checkpoint.newest(tmp_path, said.append, below=2)
    assert below is None


def test_a_gap_and_an_overlap_are_refused(tmp_path: Path) -> None:
    weight = torch.arange(12.0).reshape(4, 3)

    def piece(name: str, a: int, b: int) -> tuple[Fragment, torch.Tensor]:
        flat = weight.reshape(-1)[a:b]
        whole = [(0, 4), (0, 3)]
        return Fragment.of("w", name, flat, global_shape=(4, 3), slice=whole, flat=(a, b)), flat

    folder = step_directory(tmp_path, 1)
    pieces = [piece("gap", 0, 4), piece("gap", 5, 12), piece("over", 0, 7), piece("over", 6, 12)]
    save(folder, pieces, step=1, state={}, group=SingleProcess())
    checkpoint = Checkpoint.open(folder)
    with pytest.raises(CheckpointError, match=r"fragment of w gap \[1:2, 1:2\] missing"):
        checkpoint.tensor("w", "gap")
    assert checkpoint.tensor("w", "gap", [(2, 4), (0, 3)]).tolist() == weight[2:].tolist()
    with pytest.raises(CheckpointError, match="overlap"):
        checkpoint.tensor("w", "over")
    assert len(checkpoint.verify()) == 1
    found, said = newest(tmp_path)
    assert found is None
    assert "missing" in said[0]


def test_a_rank_that_cannot_write_fails_every_rank_and_leaves_nothing(tmp_path: Path) -> None:
    folder = step_directory(tmp_path, 1)
    good = torch.zeros(3)
    fragment = Fragment.of("weight", "w", good)

    def act(rank: ThreadRank) -> object:
        tensor = torch.zeros(2) if rank.rank == 1 else good
        return save(folder, [(fragment, tensor)], step=1, state={}, group=rank)

    results = ThreadWorld(["a", "b", "b"]).run(act)
    for result in results:
        assert isinstance(result, CheckpointError)
        assert "rank 1 on b: fragment of weight w: 3 elements" in str(result)
    assert not folder.exists()
    assert steps(tmp_path) == []


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(CheckpointError, match=r"rank 0 on node: .*No space left on device"):
        write(tmp_path, 1)
    assert not step_directory(tmp_path, 1).exists()


def test_state_that_json_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not JSON serializable"):
        save(tmp_path / "step-00000001", [], step=1, state={"x": {1, 2}}, group=SingleProcess())
    with pytest.raises(CheckpointError, match="cannot name a file"):
        save(tmp_path / "step-00000001", [], step=1, state={}, group=SingleProcess(node="a/b"))


def test_fragments_of_one_name_must_agree(tmp_path: Path) -> None:
    one, other = torch.zeros(2), torch.zeros(2, dtype=torch.float16)
    pairs = [(Fragment.of("weight", "w", t), t) for t in (one, other)]
    save(step_directory(tmp_path, 1), pairs, step=1, state={}, group=SingleProcess())
    with pytest.raises(CheckpointError, match="disagree"):
        Checkpoint.open(step_directory(tmp_path, 1))


def test_prune_keeps_last_and_every_and_the_newest_whole_one(tmp_path: Path) -> None:
    for step in (10, 20, 25, 30, 35, 40):
        write(tmp_path, step)
    (step_directory(tmp_path, 5)).mkdir()
    (step_directory(tmp_path, 45)).mkdir()
    (step_directory(tmp_path, 45) / "node.fragments.tmp").touch()
    truncate(step_directory(tmp_path, 40))
    assert prune(tmp_path, keep_last=2, keep_every=20) == [5, 10, 25]
    assert steps(tmp_path) == [20, 30, 35, 40]
    assert prune(tmp_path, keep_last=1) == [20, 30]
    assert steps(tmp_path) == [35, 40]
    found, _ = newest(tmp_path)
    assert found is not None
    assert found.step == 35
    assert step_directory(tmp_path, 45).is_dir(), "perhaps being written"
    with pytest.raises(CheckpointError, match="keep_last = 0"):
        prune(tmp_path, keep_last=0)
    assert prune(tmp_path / "absent", keep_last=1) == []
