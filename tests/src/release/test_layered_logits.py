"""Logits with one layer in memory: those of whole models, in the memory of one layer."""

from __future__ import annotations

import ctypes
import dataclasses
import multiprocessing
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from release_run import CONFIG, VOCABULARY, write_checkpoint
from released_folder import (
    Released,
    change_json,
    doubled_bias,
    extra_tensor,
    lost_tensor,
    make_release,
)

from alpenglow.exchange.fragments import FragmentSource
from alpenglow.model.config import ModelConfig
from alpenglow.release.conversion import Conversion
from alpenglow.release.error import ReleaseError
from alpenglow.release.huggingface import write_release
from alpenglow.release.verification import layered_logits, whole_logits
from alpenglow.release.verification.memory import available, choose
from alpenglow.release.verification.row_blocks import row_blocks
from alpenglow.release.verification.verify import (
    LOGIT_TOLERANCE,
    compare_hashes,
    compare_tensors,
    record,
    verify,
)
from alpenglow.release.verification.weight_files import WeightFiles


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Released:
    return make_release(tmp_path_factory.mktemp("verify"))


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("parallel", [False, True])
def test_layers_one_at_a_time_give_what_whole_models_give(
    released: Released, tmp_path: Path, tied: bool, parallel: bool, dtype: str
) -> None:
    config = dataclasses.replace(CONFIG, tie_word_embeddings=tied, use_parallel_residual=parallel)
    source = FragmentSource.open(write_checkpoint(tmp_path, 20, config))
    folder = tmp_path / "release"
    folder.mkdir()
    tokenizer = released.folder / "tokenizer.json"
    write_release(folder, source, tokenizer, dtype=dtype, shard_bytes=40_000)
    found = {}
    for memory in ("whole", "layers"):
        found[memory] = verify(folder, source, released.trial, "The ", memory=memory)
    whole, layers = found["whole"], found["layers"]
    assert (whole.memory, layers.memory) == ("whole", "layers")
    assert whole.difference < LOGIT_TOLERANCE
    assert layers.difference == pytest.approx(whole.difference, abs=2e-6)
    assert layers.largest == pytest.approx(whole.largest, abs=1e-5)
    assert whole.largest > 1
    assert whole.sample.startswith("The ")
    assert layers.sample == ""
    ours, theirs = released.tokens, WeightFiles.open(folder)
    one, _ = whole_logits.released_logits(folder, ours, "")
    other = layered_logits.released_logits(folder, theirs, ours)
    torch.testing.assert_close(one, other, atol=1e-6, rtol=0)
    kept = torch.float16 if dtype == "fp16" else torch.float32
    torch.testing.assert_close(
        whole_logits.training_logits(source, kept, ours),
        layered_logits.training_logits(source, kept, ours),
        atol=1e-6,
        rtol=0,
    )
    record(folder, layers)
    said = Conversion.load(folder).verification
    assert said == layers.table()
    assert (said["tensors"], said["positions"]) == (28 - tied, 64)


def test_layers_need_the_tensors_that_transformers_has(released: Released, tmp_path: Path) -> None:
    for number, (change, sentence) in enumerate(
        [
            (lost_tensor, "transformers would miss gpt_neox.layers.1"),
            (extra_tensor, "transformers has no place for gpt_neox.layers.9"),
            (lambda f: change_json(f / "config.json", intermediate_size=64), r"wants \[64, 32\]"),
            (lambda f: change_json(f / "config.json", model_type="none"), "does not load it"),
        ]
    ):
        folder = released.copy(tmp_path / f"{number}")
        change(folder)
        with pytest.raises(ReleaseError, match=sentence):
            layered_logits.released_logits(folder, WeightFiles.open(folder), released.tokens)


M_MMAP_THRESHOLD = -3


def peak_growth(act: Callable[[], object]) -> int:
    """Bytes by which the largest resident size of a process grows while `act` runs in it."""

    def size(field: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))

    def measure() -> None:
        torch.set_num_threads(1)  # the pool's threads are not in a forked child
        # Memory goes back as it is freed, as that of large tensors always does.
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 65536)
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = size("VmRSS")
        act()
        growths.put(size("VmHWM") - before)

    fork = multiprocessing.get_context("fork")
    growths = fork.SimpleQueue()
    child = fork.Process(target=measure)
    child.start()
    child.join(timeout=60)
    child.kill()
    assert child.exitcode == 0
    return int(growths.get())


def test_layers_need_the_memory_of_one_layer(released: Released, tmp_path: Path) -> None:
    config = ModelConfig(
        num_layers=24,
        hidden_size=384,
        num_attention_heads=6,
        vocab_size=VOCABULARY,
        max_position_embeddings=64,
    )
    source = FragmentSource.open(write_checkpoint(tmp_path, 20, config))
    folder = tmp_path / "release"
    folder.mkdir()
    write_release(folder, source, released.folder / "tokenizer.json")

    tokens, weights = released.tokens, WeightFiles.open(folder)
    layers: list[Callable[[], object]] = [
        lambda: layered_logits.training_logits(source, torch.float32, tokens),
        lambda: layered_logits.released_logits(folder, weights, tokens),
    ]
    small = released.folder  # brings what is loaded once, transformers' code above all
    layered_logits.released_logits(small, WeightFiles.open(small), tokens)
    size = 4 * config.parameters()
    for act in layers:
        assert peak_growth(act) < size / 3
    whole = peak_growth(lambda: whole_logits.training_logits(source, torch.float32, tokens))
    assert whole > 0.9 * size


@pytest.fixture
def system(tmp_path: Path) -> Path:
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    8000 kB\n")
    return tmp_path


def test_memory_that_is_left(system: Path) -> None:
    assert available(system) == 8000 * 1024
    (system / "proc/self/cgroup").write_text("0::/jobs/7\n")
    job = system / "sys/fs/cgroup/jobs/7"
    job.mkdir(parents=True)
    (job / "memory.max").write_text("max\n")
    assert available(system) == 8000 * 1024
    (job.parent / "memory.max").write_text("5000000\n")
    (job.parent / "memory.current").write_text("4000000\n")
    (job.parent / "memory.stat").write_text("anon 1000\ninactive_file 500000\n")
    assert available(system) == 1_500_000, "the parent's limit holds, and its page cache can go"
    (system / "proc/self/cgroup").write_text("5:cpu,memory:/jobs/7\n1:name=systemd:/\n")
    old = system / "sys/fs/cgroup/memory/jobs/7"
    old.mkdir(parents=True)
    (old / "memory.limit_in_bytes").write_text("2000000")
    (old / "memory.usage_in_bytes").write_text("1900000")
    (old / "memory.stat").write_text("total_inactive_file 0\n")
    assert available(system) == 100_000
    assert available(system / "nowhere") == float("inf")


def test_whole_models_are_loaded_where_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    large = ModelConfig(num_layers=32, hidden_size=4096, num_attention_heads=32, vocab_size=50432)
    left = 24 * 2**30
    monkeypatch.setattr("alpenglow.release.verification.memory.available", lambda: left)
    assert choose("auto", CONFIG, 512) == "whole"
    assert choose("auto", large, 512) == "layers"
    assert choose("whole", large, 512) == "whole"
    left = 128 * 2**30
    assert choose("auto", large, 512) == "whole"


def test_blocks_of_rows_cover_a_tensor(
    released: Released, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [*row_blocks((5, 3), 24)] == [((0, 2), (0, 3)), ((2, 4), (0, 3)), ((4, 5), (0, 3))]
    assert [*row_blocks((3, 100), 24)] == [((i, i + 1), (0, 100)) for i in range(3)]
    assert [*row_blocks((7,), 24)] == [((0, 6),), ((6, 7),)]
    before = layered_logits.training_logits(released.source, torch.float32, released.tokens)
    small = partial(row_blocks, block_bytes=1000)
    monkeypatch.setattr("alpenglow.release.verification.verify.row_blocks", small)
    monkeypatch.setattr("alpenglow.release.verification.layered_logits.row_blocks", small)
    after = layered_logits.training_logits(released.source, torch.float32, released.tokens)
    assert torch.equal(before, after)
    folder = released.copy(tmp_path)
    assert compare_tensors(folder, released.source) == compare_hashes(folder) == 28
    doubled_bias(folder)
    with pytest.raises(ReleaseError, match="differs from the checkpoint's"):
        compare_tensors(folder, released.source)
    with pytest.raises(ReleaseError, match="does not have the hash"):
        compare_hashes(folder)
