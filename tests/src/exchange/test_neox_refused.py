"""Checkpoints of GPT-NeoX's code that are refused, each with one sentence that names the file."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from small_neox import CONFIG, STEP, configure, engine_state, weights_of, write

from alpenglow.exchange.error import ExchangeError
from alpenglow.exchange.source import open_source


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return write(tmp_path, CONFIG, weights_of(CONFIG), 2)


def refusal(path: Path, **more: Any) -> str:
    with pytest.raises(ExchangeError) as caught:
        open_source(path, **more)
    text = str(caught.value)
    assert "\n" not in text
    return text


def rewrite(path: Path, **changes: object) -> None:
    body = torch.load(path, weights_only=True)
    torch.save({**body, **changes}, path)


def test_files_that_are_not_there_or_too_many(place: Path) -> None:
    layer = place / "layer_03-model_01-model_states.pt"
    whole = layer.read_bytes()
    layer.unlink()
    about = f"{place / 'configs'} has 2 tensor ranks and parameters in slots 0, 2 to 4, 6 to 7"
    assert refusal(place) == f"{layer}: missing: {about}"
    first = place / "layer_03-model_00-model_states.pt"
    other = first.rename(place / "aside")
    assert refusal(place) == f"{first}: missing: {about}"
    other.rename(first)
    layer.write_bytes(whole[:2000])
    assert refusal(place).startswith(f"{layer}: damaged (")
    layer.write_bytes(whole)
    more = place / "layer_05-model_00-model_states.pt"
    more.write_bytes(whole)
    assert refusal(place) == f"{more}: one file too many: {about}"
    more = more.rename(place / "layer_03-model_02-model_states.pt")
    assert refusal(place) == f"{more}: one file too many: {about}"
    more.unlink()
    configure(place, model_parallel_size=2, num_layers=4)
    (place / "configs/setup.yml").unlink()
    missing = place / "layer_05-model_00-model_states.pt"
    assert refusal(place).startswith(f"{missing}: missing: ")
    configure(place, model_parallel_size=4, num_layers=3)
    assert refusal(place).startswith(f"{place / 'layer_00-model_02-model_states.pt'}: missing: ")
    configure(place, model_parallel_size=1)
    assert "layer_00-model_01-model_states.pt: one file too many: " in refusal(place)
    configure(place, model_parallel_size=2, no_weight_tying=False)
    assert "layer_07-model_01-model_states.pt: one file too many: " in refusal(place)
    (place.parent / "latest").write_text("global_step13")
    assert refusal(place.parent).endswith("latest: it names global_step13, which is not there")


def test_mixed_steps(place: Path) -> None:
    engine = place / "mp_rank_01_model_states.pt"
    torch.save(engine_state(STEP + 1), engine)
    text = refusal(place)
    assert text.startswith(f"{engine}: of step 13, but mp_rank_00_model_states.pt says 12: ")
    other = place.rename(place.with_name("global_step13"))
    engine = other / "mp_rank_00_model_states.pt"
    assert refusal(other).startswith(f"{engine}: of step 12, but the folder's name says 13: ")


def test_tensors_that_do_not_fit(place: Path) -> None:
    layer = place / "layer_04-model_01-model_states.pt"
    rewrite(layer, **{"mlp.linear1.weight": torch.zeros(64, 31)})
    assert refusal(place) == (
        f"{layer}: mlp.linear1.weight is [64, 31], the configuration with 2 tensor ranks wants "
        "[64, 32]"
    )
    rewrite(layer, **{"mlp.linear1.weight": torch.zeros(64, 32, dtype=torch.float16)})
    assert refusal(place).startswith(f"{layer}: mlp.linear1.weight is torch.float16, ")
    rewrite(
        layer,
        **{"mlp.linear1.weight": torch.zeros(64, 32), "attention.q_norm.weight": torch.zeros(2)},
    )
    assert refusal(place).startswith(f"{layer}: attention.q_norm.weight is no part of ")
    body = torch.load(layer, weights_only=True)
    del body["attention.q_norm.weight"]
    body["mlp.up.weight"] = body.pop("mlp.linear1.weight")
    torch.save(body, layer)
    assert refusal(place) == (
        f"{layer}: no layers.2.mlp.dense_h_to_4h.weight under any known name "
        "(mlp.linear1.weight, mlp.dense_h_to_4h.weight, mlp.fc1_weight)"
    )
    body["mlp.linear1.weight"] = body.pop("mlp.up.weight")
    body["mlp.dense_h_to_4h.weight"] = body["mlp.linear1.weight"]
    torch.save(body, layer)
    assert "mlp.dense_h_to_4h.weight is no part" in refusal(place)
    torch.save([1, 2], layer)
    assert refusal(place) == f"{layer}: not a file of named tensors"


class Trap:
    """A pickle that runs a command when it is read by a loader that trusts it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize(
    "file",
    [
        "layer_00-model_00-model_states.pt",
        "layer_03-model_01-model_states.pt",
        "mp_rank_01_model_states.pt",
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_runs_code_is_refused(place: Path, file: str, zipped: bool) -> None:
    path, mark = place / file, place / "ran"
    body = torch.load(path, weights_only=False)
    torch.save({**body, "trap": Trap(mark)}, path, _use_new_zipfile_serialization=zipped)
    torch.load(path, weights_only=False)
    assert mark.exists(), "the trap works on a loader that trusts"
    mark.unlink()
    text = refusal(place)
    assert text.startswith(f"{path}: refused: it asks for posix.system, which could run code")
    assert not mark.exists()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"pos_emb": "alibi"}, "pos_emb = 'alibi' cannot be expressed"),
        ({"norm": "rmsnorm"}, "norm = 'rmsnorm' cannot be expressed"),
        ({"activation": "swiglu"}, "activation = 'swiglu' cannot be expressed"),
        ({"gpt_j_tied": True}, "gpt_j_tied = True cannot be expressed"),
        ({"num_kv_heads": 2}, "num_kv_heads = 2 cannot be expressed"),
        ({"use_bias_in_mlp": False}, "use_bias_in_mlp = False cannot be expressed"),
        ({"use_qk_layernorm": True}, "use_qk_layernorm = True cannot be expressed"),
        ({"use_mup": True}, "use_mup = True cannot be expressed"),
        ({"sliding_window_width": 128}, "sliding_window_width = 128 cannot be expressed"),
        ({"moe_num_experts": 8}, "moe_num_experts = 8 cannot be expressed"),
        ({"num_unique_layers": 1}, "num_unique_layers = 1 cannot be expressed"),
        ({"attention_config": [[["global", "local"], 2]]}, "attention_config = 'local' cannot"),
        ({"soft_prompt_tuning": {"enabled": True}}, "soft_prompt_tuning cannot be expressed"),
        ({"te_mha": True, "gpt_j_residual": True}, "te_mha with the parallel residual on 2 tensor"),
        ({"te_layernorm_mlp": True, "layernorm_epsilon": 1e-6}, "te_layernorm_mlp takes 1e-5"),
        ({"hidden_size": "wide"}, "hidden_size = 'wide' is not a number above 0"),
        ({"rotary_pct": "all"}, "rotary_pct = 'all' is not a number"),
        ({"gpt_j_residual": "yes please"}, "gpt_j_residual = 'yes please' is neither true nor"),
        ({"num_attention_heads": 5}, "hidden_size = 32 is not a multiple of num_attention_heads"),
        ({"num_attention_heads": 1}, "num_attention_heads = 1 does not divide by tensor = 2"),
        ({"intermediate_size": 96}, "is [64, 32], the configuration with 2 tensor ranks wants"),
        ({"num_layers": None}, "num_layers is missing"),
    ],
)
def test_a_configuration_that_cannot_be_expressed(
    place: Path, changes: dict[str, object], told: str
) -> None:
    setup = place / "configs/setup.yml"
    setup.write_text(yaml.safe_dump({"model_parallel_size": 2}))
    configure(place, **changes)
    text = refusal(place)
    assert told in text
    assert text.startswith(str(place))


def test_configurations_from_elsewhere(place: Path) -> None:
    setup = place / "configs/setup.yml"
    setup.write_text(setup.read_text() + "hidden_size: 64\n")
    assert refusal(place) == f"{setup}: hidden_size = 64, but model.yml says 32"
    setup.write_text("a: [1, 2\n")
    assert refusal(place).startswith(f"{setup}: not a configuration file: ")
    setup.write_text("")
    assert refusal(place).startswith(f"{setup}: not a configuration file: ")
    for path in (setup, place / "configs/model.yml"):
        path.unlink()
    assert refusal(place) == f"{place / 'configs'}: no .yml, .yaml, .json file in it"
    (place / "configs").rmdir()
    assert refusal(place).startswith(f"{place / 'configs'}: missing, so the architecture is ")
    assert open_source(place, model=CONFIG).config == CONFIG
    wide = dataclasses.replace(CONFIG, intermediate_size=96)
    assert "the configuration with 2 tensor ranks wants" in refusal(place, model=wide)


def test_a_model_that_is_given_must_agree(place: Path) -> None:
    small = dataclasses.replace(CONFIG, initializer="small_init")
    assert open_source(place, model=small).config == CONFIG
    turned = dataclasses.replace(CONFIG, rotary_pct=0.25)
    assert "it has rotary_pct = 0.5, the recipe says 0.25" in refusal(place, model=turned)


def test_one_file_a_rank_without_a_pipeline(tmp_path: Path) -> None:
    place = write(tmp_path, CONFIG, weights_of(CONFIG), 2, sequential=True)
    engine = place / "mp_rank_01_model_states.pt"
    aside = engine.rename(place / "aside")
    assert refusal(place) == f"{engine}: missing: there are 2 tensor ranks"
    aside.rename(engine)
    body = torch.load(place / "mp_rank_00_model_states.pt", weights_only=False)
    body["module"]["sequential.9.norm.weight"] = torch.zeros(3)
    torch.save(body, place / "mp_rank_00_model_states.pt")
    assert "mp_rank_00_model_states.pt: sequential.9.norm.weight is too much" in refusal(place)
    torch.save(engine_state(STEP), place / "mp_rank_00_model_states.pt")
    assert refusal(place).endswith("mp_rank_00_model_states.pt: not a file of named tensors")


def test_an_unknown_folder_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "weights.npz").write_bytes(b"x")
    text = refusal(tmp_path)
    assert text.startswith(f"{tmp_path}: no checkpoint of a known form in it; looked for ")
    for name in ("manifest.json", "layer_XX-model_YY", "zero/", "config.json"):
        assert name in text
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    run = tmp_path / "run"
    assert refusal(run) == f"{run}: a run; name one of its checkpoints/step-N"
    assert refusal(tmp_path / "none") == f"{tmp_path / 'none'}: no such folder"
    assert refusal(tmp_path, form="gguf").startswith("form = 'gguf': choose from auto, fragments,")
