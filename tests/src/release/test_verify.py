"""What is found in spoilt releases, each by one sentence."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import xxhash
from release_run import CONFIG, VOCABULARY
from released_folder import (
    QKV,
    WEIGHTS,
    Released,
    change_json,
    change_weights,
    doubled_bias,
    extra_tensor,
    lost_tensor,
    make_release,
)
from safetensors.torch import load_file
from tokenizers import Tokenizer

from alpenglow.release.conversion import Conversion
from alpenglow.release.error import ReleaseError
from alpenglow.release.tensors import as_bytes
from alpenglow.release.verification.trial_tokens import Trial
from alpenglow.release.verification.verify import compare_hashes, verify
from alpenglow.release.verification.weight_files import INDEX


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Released:
    return make_release(tmp_path_factory.mktemp("verify"))


def permuted_head(folder: Path) -> None:
    def change(weights: dict[str, torch.Tensor]) -> None:
        weights["embed_out.weight"] = weights["embed_out.weight"].roll(1, dims=0).contiguous()

    change_weights(folder, change)


def swapped_query_and_key(folder: Path) -> None:
    def change(weights: dict[str, torch.Tensor]) -> None:
        rows = weights[QKV].view(CONFIG.num_attention_heads, 3, CONFIG.head_dim, -1)
        weights[QKV] = rows[:, [1, 0, 2]].reshape(weights[QKV].shape).contiguous()

    change_weights(folder, change)


def another_dtype(folder: Path) -> None:
    def change(weights: dict[str, torch.Tensor]) -> None:
        weights[QKV] = weights[QKV].half()

    change_weights(folder, change)


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset, os.SEEK_SET if offset >= 0 else os.SEEK_END)
        byte = file.read(1)
        file.seek(offset, os.SEEK_SET if offset >= 0 else os.SEEK_END)
        file.write(bytes([byte[0] ^ 1]))


def flipped_byte(folder: Path) -> None:
    flip(folder / WEIGHTS, -5)


def flipped_header(folder: Path) -> None:
    flip(folder / WEIGHTS, 8)


def cut_file(folder: Path) -> None:
    os.truncate(folder / WEIGHTS, (folder / WEIGHTS).stat().st_size - 4)


def no_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def another_rotary(folder: Path) -> None:
    path = folder / "config.json"
    rope = json.loads(path.read_text())["rope_parameters"] | {"partial_rotary_factor": 1.0}
    change_json(path, rope_parameters=rope, rotary_pct=1.0)


def rotary_of_two_minds(folder: Path) -> None:
    change_json(folder / "config.json", rotary_pct=1.0)


def no_rope_parameters(folder: Path) -> None:
    change_json(folder / "config.json", rope_parameters=None)


def another_residual(folder: Path) -> None:
    change_json(folder / "config.json", use_parallel_residual=True)


def shorter(folder: Path) -> None:
    """Nothing that logits of short windows could show."""
    change_json(folder / "config.json", max_position_embeddings=32)


def too_wide(folder: Path) -> None:
    change_json(folder / "config.json", vocab_size=512)


def two_dtypes(folder: Path) -> None:
    change_json(folder / "config.json", torch_dtype="float16")


def another_end(folder: Path) -> None:
    change_json(folder / "generation_config.json", eos_token_id=3)


def end_outside(folder: Path) -> None:
    for name in ("config.json", "generation_config.json"):
        change_json(folder / name, eos_token_id=VOCABULARY)


def end_of_tokenizer(folder: Path) -> None:
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        change_json(folder / name, eos_token="!")


def large_tokenizer(folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens([f"<{i}>" for i in range(200)])
    tokenizer.save(str(folder / "tokenizer.json"))


def tokenizer_of_a_class(folder: Path) -> None:
    """A class with rules of its own in the place of the generic one."""
    settings = {"tokenizer_class": "GPTNeoXTokenizer", "add_prefix_space": True}
    change_json(folder / "tokenizer_config.json", **settings)


def broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")


def wrong_hash(folder: Path) -> None:
    hashes = Conversion.load(folder).xxh3_64 | {QKV: "0" * 16}
    change_json(folder / "conversion.json", xxh3_64=hashes)


def another_step(folder: Path) -> None:
    change_json(folder / "conversion.json", step=19)


def no_dtype(folder: Path) -> None:
    change_json(folder / "conversion.json", dtype="fp9")


def hashes_of_no_name(folder: Path) -> None:
    change_json(folder / "conversion.json", xxh3_64=[])


def no_conversion(folder: Path) -> None:
    (folder / "conversion.json").unlink()


LOGITS = r"^release: logits of transformers and of the training model differ by .* \(config.json "


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (doubled_bias, r"layers\.0\.attention\.dense\.bias differs from the checkpoint's$"),
        (permuted_head, r"embed_out\.weight differs from the checkpoint's$"),
        (swapped_query_and_key, r"query_key_value\.weight differs from the checkpoint's$"),
        (another_dtype, r"query_key_value\.weight differs from the checkpoint's$"),
        (extra_tensor, r"layers\.9\..* belongs to no tensor of the model$"),
        (lost_tensor, rf"release: {QKV} is missing$"),
        (flipped_byte, "differs from the checkpoint's$"),
        (flipped_header, rf"{WEIGHTS}: damaged: "),
        (cut_file, rf"{WEIGHTS}: damaged: "),
        (no_weights, rf"{WEIGHTS} is missing, and there is no {INDEX}$"),
        (another_rotary, LOGITS + r"says rotary_pct = 1\.0, the trained model has 0\.25\)$"),
        (another_residual, LOGITS + "says use_parallel_residual = True, .* has False"),
        (shorter, r"config\.json says max_position_embeddings = 32, the trained model has 64$"),
        (rotary_of_two_minds, r"rotary_pct is 1\.0 and rope_parameters\.partial_rotary_factor is"),
        (no_rope_parameters, "rope_parameters is missing, which transformers 5 reads$"),
        (too_wide, "vocab_size is 512, and gpt_neox.embed_in.weight has 384 rows$"),
        (two_dtypes, "dtype is float32 and torch_dtype is float16$"),
        (another_end, r"generation_config\.json: eos_token_id is 3, and config\.json says 0$"),
        (end_outside, "eos_token_id = 384 is not below vocab_size = 384$"),
        (end_of_tokenizer, r"tokenizer_config\.json: eos_token_id is \d+, and config.json says 0$"),
        (large_tokenizer, "its largest id is 499, and the model's vocabulary ends at 384$"),
        (tokenizer_of_a_class, "transformers and tokenizers give different ids from token"),
        (broken_tokenizer, r"tokenizer\.json: not a tokenizer: "),
        (wrong_hash, "does not have the hash that conversion.json names$"),
        (another_step, "made from step 19, compared with step 20$"),
        (no_dtype, r"conversion\.json: dtype is not what a conversion writes there$"),
        (hashes_of_no_name, r"conversion\.json: xxh3_64 is not what a conversion writes there$"),
        (no_conversion, "not a release: it has no conversion.json$"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_spoilt_release_is_found(
    released: Released, tmp_path: Path, spoil: Callable[[Path], None], sentence: str
) -> None:
    folder = released.copy(tmp_path)
    spoil(folder)
    with pytest.raises(ReleaseError, match=sentence) as found:
        verify(folder, released.source, released.trial, "The ", memory="layers")
    assert "\n" not in str(found.value)


def no_index(folder: Path) -> None:
    (folder / INDEX).unlink()


def lost_file(folder: Path) -> None:
    sorted(folder.glob("*.safetensors"))[1].unlink()


def file_that_never_was(folder: Path) -> None:
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"][QKV] = "model-00009-of-00009.safetensors"
    (folder / INDEX).write_text(json.dumps(index))


def tensor_of_another_file(folder: Path) -> None:
    index = json.loads((folder / INDEX).read_text())
    names = sorted(set(index["weight_map"].values()))
    index["weight_map"][QKV] = next(n for n in names if n != index["weight_map"][QKV])
    (folder / INDEX).write_text(json.dumps(index))


def tensor_of_no_file(folder: Path) -> None:
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["gpt_neox.more"] = index["weight_map"][QKV]
    (folder / INDEX).write_text(json.dumps(index))


def twice(folder: Path) -> None:
    first = sorted(folder.glob("*.safetensors"))[0]
    shutil.copyfile(first, folder / "model.safetensors")


def index_of_nothing(folder: Path) -> None:
    (folder / INDEX).write_text("[]")


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (no_index, rf"{INDEX} is missing, and model-00001-of-\d+\.safetensors needs it$"),
        (lost_file, rf"model-00002-of-\d+\.safetensors is missing, and {INDEX} names it$"),
        (file_that_never_was, rf"model-00009-.*safetensors is missing, and {INDEX} names it$"),
        (tensor_of_another_file, rf"{QKV} is in it, and {INDEX} does not say so$"),
        (tensor_of_no_file, rf"gpt_neox\.more is not in it, and {INDEX} says so$"),
        (twice, rf"is in it, and {INDEX} does not say so$|is in model-.* and model\.safetensors$"),
        (index_of_nothing, rf"{INDEX}: unreadable: "),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_files_that_do_not_fit_their_index_are_found(
    released: Released, tmp_path: Path, spoil: Callable[[Path], None], sentence: str
) -> None:
    folder = released.copy(tmp_path, cut=True)
    assert compare_hashes(folder) == 28
    spoil(folder)
    for check in (
        lambda: compare_hashes(folder),
        lambda: verify(folder, released.source, released.trial, ""),
    ):
        with pytest.raises(ReleaseError, match=sentence):
            check()


@pytest.mark.parametrize("spoil", [doubled_bias, flipped_byte, extra_tensor, lost_tensor])
def test_hashes_alone_find_other_weights(
    released: Released, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    folder = released.copy(tmp_path)
    assert compare_hashes(folder) == 28
    spoil(folder)
    with pytest.raises(ReleaseError, match=r"the hash that conversion|does not name|is missing"):
        compare_hashes(folder)


def test_a_trimmed_vocabulary_is_compared_on_its_rows(released: Released, tmp_path: Path) -> None:
    folder = released.copy(tmp_path)

    def trim(weights: dict[str, torch.Tensor]) -> None:
        for name in ("gpt_neox.embed_in.weight", "embed_out.weight"):
            weights[name] = weights[name][:304].clone()

    change_weights(folder, trim)
    change_json(folder / "config.json", vocab_size=304)
    hashes = {
        name: xxhash.xxh3_64_hexdigest(as_bytes(tensor))
        for name, tensor in load_file(folder / WEIGHTS).items()
    }
    change_json(folder / "conversion.json", xxh3_64=hashes)
    for memory in ("whole", "layers"):
        outcome = verify(folder, released.source, released.trial, "The ", memory=memory)
        assert outcome.tensors == 28
    with pytest.raises(ReleaseError, match=r"token 310 .* below the released vocabulary of 304"):
        verify(folder, released.source, Trial(torch.full((1, 4), 310), ""), "The ")
