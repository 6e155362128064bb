"""A tiny release, as one file and as several, and changes that spoil it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from release_run import CONFIG, VOCABULARY, make_run, write_checkpoint
from safetensors.torch import load_file, save_file

from alpenglow.data.catalogue import Catalogue
from alpenglow.exchange.fragments import FragmentSource
from alpenglow.release.huggingface import write_release
from alpenglow.release.verification.trial_tokens import Trial, real_tokens

WEIGHTS = "model.safetensors"
QKV = "gpt_neox.layers.1.attention.query_key_value.weight"


@dataclass(frozen=True)
class Released:
    """A release of one file, the same in several, and what they came from."""

    folder: Path
    cut: Path
    source: FragmentSource
    trial: Trial

    @property
    def tokens(self) -> torch.Tensor:
        return self.trial.tokens

    def copy(self, target: Path, *, cut: bool = False) -> Path:
        return shutil.copytree(self.cut if cut else self.folder, target / "release")


def make_release(root: Path) -> Released:
    run = make_run(root)
    source = FragmentSource.open(write_checkpoint(run, 20, CONFIG))
    tokenizer = root / "shards" / "tokenizer.json"
    for name, limit in (("whole", 10**9), ("cut", 40_000)):
        (root / name).mkdir()
        write_release(root / name, source, tokenizer, shard_bytes=limit)
    tokens = real_tokens(Catalogue.load(root / "shards"), VOCABULARY, 32)
    return Released(root / "whole", root / "cut", source, Trial(tokens, "training text"))


def change_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def extra_tensor(folder: Path) -> None:
    def change(weights: dict[str, torch.Tensor]) -> None:
        weights["gpt_neox.layers.9.mlp.dense_h_to_4h.bias"] = torch.zeros(4)

    change_weights(folder, change)


def lost_tensor(folder: Path) -> None:
    def change(weights: dict[str, torch.Tensor]) -> None:
        del weights[QKV]

    change_weights(folder, change)


def doubled_bias(folder: Path) -> None:
    """What the upstream converter does to a serial model of tensor degree 2."""

    def change(weights: dict[str, torch.Tensor]) -> None:
        weights["gpt_neox.layers.0.attention.dense.bias"] *= 2

    change_weights(folder, change)
