"""A tiny run directory for the release tests: tokenizer, one shard, run.toml, segments, metrics."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import tomli_w
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from alpenglow.data.catalogue import Catalogue
from alpenglow.data.ledger import Ledger
from alpenglow.data.shards import ShardWriter
from alpenglow.model.config import ModelConfig
from alpenglow.model.neox import initial_tensor
from alpenglow.train.checkpoint import Fragment, SingleProcess, save, step_directory

TEXT = (Path(__file__).parents[2] / "LICENSE").read_text(encoding="utf-8")
VOCABULARY = 384

CONFIG = ModelConfig(
    num_layers=2,
    hidden_size=32,
    num_attention_heads=4,
    vocab_size=VOCABULARY,
    max_position_embeddings=64,
    rotary_pct=0.25,
    use_parallel_residual=False,
)


def tensors(config: ModelConfig, seed: int = 0) -> dict[str, torch.Tensor]:
    """Initial weights with biases and norms that are neither 0 nor 1."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, shape in config.tensor_shapes().items():
        tensor = initial_tensor(config, name, tuple((0, n) for n in shape), seed)
        if len(shape) == 1:
            tensor = tensor + torch.empty(shape).normal_(0, 0.3, generator=generator)
        found[name] = tensor
    return found


def write_checkpoint(
    run: Path, step: int, config: ModelConfig, weights: dict[str, torch.Tensor] | None = None
) -> Path:
    weights = tensors(config) if weights is None else weights
    folder = step_directory(run / "checkpoints", step)
    recipe = {"model": dataclasses.asdict(config)}
    state = {"recipe": recipe, "model": {"parameters": config.parameters()}}
    state |= {"tokens": step * 1024, "samples": step * 16, "dtype": "fp32"}
    pairs = [(Fragment.of("weight", name, tensor), tensor) for name, tensor in weights.items()]
    save(folder, pairs, step=step, state=state, group=SingleProcess())
    return folder


def make_run(root: Path) -> Path:
    """runs/tiny with everything but a checkpoint, and shards/ beside runs/."""
    shards, run = root / "shards", root / "runs" / "tiny"
    shards.mkdir()
    (run / "segments").mkdir(parents=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    tokenizer.save(str(shards / "tokenizer.json"))
    hashes = {"tokenizer_hash": "t", "recipe_hash": "r"}
    writer = ShardWriter(shards / "github-00000.h5", slice="github", dtype="uint16", **hashes)
    for number, text in enumerate([TEXT[:3000], TEXT[3000:]]):
        writer.add(np.array(tokenizer.encode(text).ids), bytes([number] * 16), "LICENSE")
    catalogue = Catalogue.build(
        shards, [writer.close()], tokenizer="tokenizer.json", vocab_size=VOCABULARY, **hashes
    )
    catalogue.write()
    ledger = Ledger()
    account = ledger.slice("github")
    stage = account.stage("filters")
    stage.read.add(3, len(TEXT) + 5)
    stage.drop("too short", 1, 5)
    for text in (TEXT[:3000], TEXT[3000:]):
        stage.kept.add(1, len(text), 100)
        account.licence("Apache-2.0").add(1, len(text), 100)
    ledger.skipped["books"] = "no raw files"
    (shards / "ledger.json").write_text(json.dumps(ledger.tables()))
    facts = {
        "run": {"name": 'tiny: a "test"', "activity": "pretrain", "code_version": "0.1+abc"},
        "machine": {"name": "laptop", "nodes": 2, "ranks": 8},
        "layout": {"pipeline": 2, "tensor": 2, "data": 2},
        "batch": {"sequence_length": 64, "tokens_per_step": 1024},
        "data": {"catalogue": "shards/catalogue.json", "fingerprint": catalogue.fingerprint},
        "recipe": {
            "data": {"mixture": {"github": 1.0, "books": 3.0}, "seed": 7},
            "optimizer": {"name": "adamw", "lr": 1e-3, "min_lr": 1e-4, "betas": [0.9, 0.95]},
            "train": {"steps": 20},
        },
    }
    (run / "run.toml").write_text(tomli_w.dumps(facts))
    closed = {"activity": "pretrain", "nodes_charged": 2, "started": 0.0, "ended": 3600.0}
    (run / "segments" / "1.1.json").write_text(json.dumps(closed | {"reason": "more to do"}))
    opened = {"activity": "pretrain", "nodes_charged": 2, "started": 4000.0, "ended": None}
    (run / "segments" / "2.1.json").write_text(json.dumps(opened))
    (run / "segments" / "2.1.rank0.json").write_text(json.dumps({"heartbeat": 5800.0}))
    other = {"activity": "convert", "nodes_charged": 1, "started": 0.0, "ended": 36000.0}
    (run / "segments" / "3.1.json").write_text(json.dumps(other))
    lines = [
        json.dumps({"step": 19, "loss": 5.5}),
        json.dumps({"step": 20, "loss": 9.0}),
        '{"step": 20, "lo',
        json.dumps({"step": 20, "loss": 4.25}),
    ]
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return run
