"""Checkpoints of GPT-NeoX's code: every naming and merge comes out as the model."""

from __future__ import annotations

import dataclasses
import json
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import yaml
from own_memory import anonymous
from release_run import tensors
from small_neox import (
    CONFIG,
    ENGINE,
    ENGINE_NORMS,
    LEGACY,
    NEW,
    STEP,
    State,
    configure,
    cut,
    weights_of,
    write,
)

from alpenglow.exchange.error import ExchangeError
from alpenglow.exchange.neox import NeoxSource
from alpenglow.exchange.source import open_source


@pytest.mark.parametrize(
    ("ranks", "names", "parallel", "tied", "sequential", "layers"),
    [
        (1, NEW, True, False, False, 1),
        (2, NEW, False, False, False, 3),
        (4, NEW, True, True, False, 2),
        (1, LEGACY, False, True, False, 1),
        (2, LEGACY, True, False, False, 3),
        (4, LEGACY, False, False, True, 2),
        (2, ENGINE, False, True, False, 2),
        (
            2,
            ENGINE | ENGINE_NORMS | {"qkv": "attention.query_key_value.{}"},
            False,
            False,
            False,
            1,
        ),
        (2, NEW, True, True, True, 2),
        (1, ENGINE, True, False, True, 1),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_model_comes_out_whatever_the_form(
    tmp_path: Path,
    ranks: int,
    names: State,
    parallel: bool,
    tied: bool,
    sequential: bool,
    layers: int,
    dtype: torch.dtype,
) -> None:
    config = dataclasses.replace(
        CONFIG, num_layers=layers, use_parallel_residual=parallel, tie_word_embeddings=tied
    )
    weights = weights_of(config)
    write(tmp_path, config, weights, ranks, names=names, sequential=sequential, dtype=dtype)
    source = open_source(tmp_path)
    assert (source.form, source.step, source.dtype) == ("neox", STEP, dtype)
    assert source.config == config
    assert source.path == tmp_path / f"global_step{STEP}"

    def look(name: str) -> None:
        found = source.tensor(name)
        assert found.dtype == source.stored(name)
        assert torch.equal(found, weights[name].to(found.dtype)), name
        box = tuple((n // 3, n - n // 4) for n in weights[name].shape)
        index = tuple(slice(start, stop) for start, stop in box)
        assert torch.equal(source.tensor(name, box), found[index]), name

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(look, config.tensor_shapes()))
    summed = {n for n in weights if source.stored(n) != dtype}
    biases = {n for n in weights if n.endswith(("n.dense.bias", "mlp.dense_4h_to_h.bias"))}
    assert summed == (biases if parallel and ranks > 1 and dtype == torch.float16 else set())


def test_old_files_without_zip_are_read(tmp_path: Path) -> None:
    weights = weights_of(CONFIG)
    source = open_source(write(tmp_path, CONFIG, weights, 2, zipped=False))
    for name in weights:
        assert torch.equal(source.tensor(name), weights[name])


def test_a_head_that_was_cut_by_columns(tmp_path: Path) -> None:
    """output_layer_parallelism was "row" by default in early releases."""
    weights = weights_of(CONFIG)

    def columns(slot: int, rank: int, state: State) -> None:
        if slot == CONFIG.num_layers + 4:
            state["final_linear.weight"] = cut(weights["embed_out.weight"], 1, rank, 2)

    source = open_source(write(tmp_path, CONFIG, weights, 2, change=columns))
    assert torch.equal(source.tensor("embed_out.weight"), weights["embed_out.weight"])


def test_replicas_that_drifted_are_averaged_and_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weights = weights_of(CONFIG)

    def drift(slot: int, rank: int, state: State) -> None:
        if slot == 3:
            state["input_layernorm.weight"] += rank / 8
        if slot == 4:
            state["mlp.linear2.bias"] += rank / 4
            state["attention.dense.bias"] += rank / 16

    with caplog.at_level(logging.WARNING, "alpenglow.exchange"):
        source = open_source(write(tmp_path, CONFIG, weights, 2, change=drift))
        for name in weights:
            source.tensor(name)
    assert isinstance(source, NeoxSource)
    assert source.notes == (
        "tensor ranks' replicas of layer norms have drifted apart, by up to 0.125 in "
        "layers.1.input_layernorm.weight; their mean is taken",
        "tensor ranks' replicas of row-parallel biases have drifted apart, by up to 0.25 in "
        "layers.2.mlp.dense_4h_to_h.bias; their mean is taken",
    )
    assert [
        record.message.count(note)
        for record, note in zip(caplog.records, source.notes, strict=True)
    ] == [1, 1]
    for name, apart in {
        "layers.1.input_layernorm.weight": 1 / 16,
        "layers.2.mlp.dense_4h_to_h.bias": 1 / 8,
        "layers.2.attention.dense.bias": 1 / 32,
        "layers.1.mlp.dense_4h_to_h.bias": 0,
    }.items():
        assert torch.equal(source.tensor(name), weights[name] + apart)


def test_three_equal_replicas_stay_what_they_are(tmp_path: Path) -> None:
    config = dataclasses.replace(
        CONFIG, hidden_size=48, num_attention_heads=3, intermediate_size=192
    )
    weights = tensors(config, seed=5)
    source = open_source(write(tmp_path, config, weights, 3, dtype=torch.bfloat16))
    for name, whole in weights.items():
        assert torch.equal(source.tensor(name), whole.bfloat16())


def test_only_the_bytes_that_are_asked_for_are_read(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, vocab_size=1 << 19, num_layers=1)  # 64 MiB each way
    weights = weights_of(config)
    place = write(tmp_path, config, weights, 1)

    source = open_source(place)
    before = anonymous()
    part = source.tensor("embed_in.weight", ((1000, 1100), (0, 32)))
    assert anonymous() - before < 16 << 20
    assert torch.equal(part, weights["embed_in.weight"][1000:1100])


def test_defaults_are_those_of_gpt_neox(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, tie_word_embeddings=True, rotary_pct=1.0)
    place = write(tmp_path, config, weights_of(config))
    model = place / "configs/model.yml"
    said = yaml.safe_load(model.read_text())
    for key in ("rotary_pct", "gpt_j_residual", "no-weight-tying", "attention-config"):
        del said[key]
    model.write_text("# as upstream writes them\n" + json.dumps(said)[:-1] + ', "zero": True,}')
    (place / "configs/setup.yml").unlink()
    assert open_source(place).config == config
    del said["pos-emb"]
    model.write_text(yaml.safe_dump(said))
    with pytest.raises(ExchangeError, match=r"pos_emb = 'learned' .GPT-NeoX's default. cannot be"):
        open_source(place)


def test_notes_of_what_was_computed_otherwise(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, use_parallel_residual=True)
    place = write(tmp_path, config, weights_of(config), 2, names=ENGINE)
    configure(place, bias_gelu_fusion=True)
    source = open_source(place)
    assert isinstance(source, NeoxSource)
    (note,) = source.notes
    assert note.startswith("bias_gelu_fusion: ")
