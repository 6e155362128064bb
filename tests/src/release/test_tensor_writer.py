"""Safetensors written by threads: the same bytes for any number, a budget, one error ends all."""

from __future__ import annotations

import _thread
import errno
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import xxhash
from convert_memory import WholeTensors
from safetensors.torch import load_file

from alpenglow.exchange.error import ExchangeError
from alpenglow.exchange.fragments import FragmentSource
from alpenglow.exchange.source import Source
from alpenglow.model.config import ModelConfig
from alpenglow.release.error import ReleaseError
from alpenglow.release.huggingface import huggingface_name, write_release
from alpenglow.release.synthetic_checkpoint import write_synthetic
from alpenglow.release.tensor_writer import memory_budget, write_model
from alpenglow.release.tensors import CHUNK, Shapes, as_bytes, cast
from alpenglow.train.checkpoint import CheckpointError

CONFIG = ModelConfig(7, 96, 4, 1280)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("stored", "dtype"),
    [
        (torch.float16, "fp16"),
        (torch.float32, "fp16"),
        (torch.float32, "bf16"),
        (torch.bfloat16, "fp32"),
    ],
)
def test_the_same_bytes_for_any_number_of_workers(
    tmp_path: Path, stored: torch.dtype, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_synthetic(tmp_path / "checkpoints", CONFIG, stored)
    source = FragmentSource.open(folder)
    # Cut by tensor ranks and by ZeRO: some tensor has pieces of several ranks.
    assert max(len(source._checkpoint.fragments("weight", n)) for n in CONFIG.tensor_shapes()) > 2
    tokenizer = folder.parent / "tokenizer.json"
    outputs = []
    monkeypatch.setattr("alpenglow.release.pieces.BAND", 10_000)  # some tensors in several
    for workers, form in ((1, "rows"), (2, "rows"), (5, "rows"), (4, "bands")):
        out = tmp_path / f"{workers}"
        out.mkdir()
        opened: Source = FragmentSource.open(folder)
        if form == "bands":
            opened = WholeTensors(FragmentSource.open(folder))
        write_release(out, opened, tokenizer, dtype=dtype, workers=workers, shard_bytes=500_000)
        outputs.append(files(out))
    assert outputs[0] == outputs[1] == outputs[2] == outputs[3]
    assert len([name for name in outputs[0] if name.endswith(".safetensors")]) > 2
    hashes = json.loads(outputs[0]["conversion.json"])["xxh3_64"]
    assert [*hashes] == [huggingface_name(name) for name in CONFIG.tensor_shapes()]
    found: dict[str, torch.Tensor] = {}
    for path in (tmp_path / "1").glob("*.safetensors"):
        found |= load_file(path)
    for name in CONFIG.tensor_shapes():
        released = found[huggingface_name(name)]
        assert torch.equal(released, source.tensor(name).to(released.dtype))
        assert hashes[huggingface_name(name)] == xxhash.xxh3_64_hexdigest(as_bytes(released))


def write(
    folder: Path,
    get: Callable[[str], Any],
    shapes: Shapes,
    dtype: torch.dtype = torch.float16,
    **named: Any,
) -> None:
    write_model(folder, shapes, get, dtype, shard_bytes=1 << 30, **named)


def test_tensors_in_memory_stay_within_twice_the_largest(tmp_path: Path) -> None:
    sizes = [10, 10, 60, 50, 10, 60, 5, 5, 5, 5, 60, 1, 1]
    shapes = {f"t{number}": (size, 1000) for number, size in enumerate(sizes)}
    now, most, together = 0, 0, 0
    lock = threading.Lock()
    holders = 0
    both = threading.Barrier(2)

    def get(name: str) -> Iterator[torch.Tensor]:
        nonlocal now, most, together, holders
        tensor = torch.zeros(shapes[name])
        with lock:
            now, holders = now + tensor.nbytes, holders + 1
            most, together = max(most, now), max(together, holders)
        if name in ("t0", "t1"):
            both.wait(60)  # two workers have one each
        yield tensor
        with lock:
            now, holders = now - tensor.nbytes, holders - 1

    held = {name: 4 * rows * columns for name, (rows, columns) in shapes.items()}
    released = {name: nbytes // 2 for name, nbytes in held.items()}
    assert memory_budget(released, held) == 240_000, "twice the largest as released"
    assert memory_budget(held, released) == 240_000
    assert memory_budget(held, held) == 480_000
    assert max(held.values()) == 240_000, "one alone is all of it"
    write(tmp_path, get, shapes, workers=6, stored=held.__getitem__)
    assert most <= 240_000
    assert together > 1


def test_a_cast_that_overflows_names_tensor_and_value(tmp_path: Path) -> None:
    large = torch.zeros(2 * CHUNK + 5)
    large[-2] = -70000.0
    with pytest.raises(ReleaseError, match=r"^big: its value 70000 overflows torch.float16 .*bf16"):
        write(tmp_path, lambda _: [large], {"big": (2 * CHUNK + 5,)})
    with pytest.raises(ReleaseError, match=r"^big: its value 70000 overflows"):
        cast(large, torch.float16, "big")
    # The largest fp16 number is one, and so is what rounds to it.
    limit = torch.tensor([65504.0, 65519.0, -65504.0])
    assert torch.equal(
        cast(limit, torch.float16, "x"), torch.tensor([65504.0, 65504, -65504]).half()
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_what_is_not_finite_is_refused(
    tmp_path: Path, value: float, stored: torch.dtype, dtype: torch.dtype
) -> None:
    tensor = torch.zeros(70, dtype=stored)
    tensor[69] = value
    with pytest.raises(ReleaseError, match=r"^t: holds values that are not finite"):
        write(tmp_path, lambda _: [tensor], {"t": (70,)}, dtype)
    with pytest.raises(ReleaseError, match=r"^t: holds values that are not finite"):
        cast(tensor, dtype, "t")


SHAPES = {f"t{number}": (4, 50) for number in range(40)}


@pytest.mark.parametrize(
    ("error", "kind", "sentence"),
    [
        (ExchangeError("file x is short"), ExchangeError, "t7: file x is short"),
        (
            CheckpointError("fragment of t7 is damaged"),
            CheckpointError,
            "fragment of t7 is damaged",
        ),
        (RuntimeError("no memory"), ReleaseError, "t7: no memory"),
        (MemoryError(), ReleaseError, "t7: MemoryError"),
        (KeyError("a bug"), KeyError, "'a bug'"),
    ],
)
@pytest.mark.parametrize("workers", [1, 3])
def test_one_error_ends_all_and_names_the_tensor(
    tmp_path: Path, error: Exception, kind: type[Exception], sentence: str, workers: int
) -> None:
    asked: list[str] = []

    def get(name: str) -> list[torch.Tensor]:
        asked.append(name)
        if name == "t7":
            raise error
        return [torch.zeros(SHAPES[name])]

    before = threading.active_count()
    teams = torch.get_num_threads()
    with pytest.raises(kind) as caught:
        write(tmp_path, get, SHAPES, workers=workers)
    assert str(caught.value) == sentence
    assert threading.active_count() == before
    assert torch.get_num_threads() == teams
    assert len(asked) < len(SHAPES), "the others stopped"


@pytest.mark.parametrize("size", [199, 201])
def test_a_tensor_of_another_size_is_refused(tmp_path: Path, size: int) -> None:
    with pytest.raises(ReleaseError, match=r"^t0: (more|less) than the model's shape \(4, 50\)"):
        write(tmp_path, lambda _: [torch.zeros(size)], SHAPES)


def test_a_disk_that_fills_up_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, room = os.pwrite, 5000

    def full(descriptor: int, data: memoryview, offset: int) -> int:
        nonlocal room
        if not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = data[:room]  # a disk takes what fits, then nothing
        room -= len(taken)
        return real(descriptor, taken, offset)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(ReleaseError) as caught:
        write(tmp_path, lambda name: [torch.zeros(SHAPES[name])], SHAPES, workers=2)
    assert "model.safetensors: No space left on device while t" in str(caught.value)
    assert str(caught.value).endswith("was written")


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_ends_the_workers(tmp_path: Path) -> None:
    stop = threading.Event()

    def get(name: str) -> list[torch.Tensor]:
        if name == "t5" and not stop.is_set():
            stop.set()
            _thread.interrupt_main()
        return [torch.zeros(4, 50)]

    shapes = dict.fromkeys((f"t{number}" for number in range(20_000)), (4, 50))
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, get, shapes, workers=2)
    assert threading.active_count() == before
