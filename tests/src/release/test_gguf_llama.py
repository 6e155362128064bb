"""GGUF files in llama.cpp itself: the same tokens, logits within the tolerance, other types.

Needs llama-cpp-python: `nox -s llama` builds it beside the environment and runs this file.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import unicodedata
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from release_run import CONFIG, TEXT, VOCABULARY, write_checkpoint
from tokenizers import Tokenizer, pre_tokenizers

pytest.importorskip("llama_cpp", reason="no llama-cpp-python here: `nox -s llama` builds it")

from alpenglow.model.config import ModelConfig
from alpenglow.release.__main__ import main
from alpenglow.release.convert import ConvertRecipe, convert
from alpenglow.release.error import ReleaseError
from alpenglow.release.gguf import command, llama_quantiser, writer
from alpenglow.release.gguf.llama_check import (
    PROBES,
    TOLERANCE,
    Original,
    compare_logits,
    compare_tokens,
)
from alpenglow.release.gguf.llama_model import LlamaModel
from alpenglow.release.gguf.source import ReleasedFolder

FLAG = b"gptneox.use_parallel_residual"


def released(run: Path, config: ModelConfig) -> ReleasedFolder:
    write_checkpoint(run, 20, config)
    return ReleasedFolder.open(convert(ConvertRecipe(run=run, verify=False))[0])


def spoil(path: Path, *, missing: bool) -> Path:
    """A copy of a file whose flag of the residual form is missing, or says the other form."""
    data = bytearray(path.read_bytes())
    at = data.index(FLAG)
    if missing:
        data[at : at + 7] = b"unknown"
    else:
        data[at + len(FLAG) + 4] ^= 1  # after the key: u32 type, then the boolean
    out = path.with_name("spoilt.gguf")
    out.write_bytes(data)
    return out


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("rotary", [0.25, 1.0])
@pytest.mark.parametrize("parallel", [False, True])
def test_llama_cpp_agrees_with_transformers(
    run: Path, tmp_path: Path, parallel: bool, rotary: float, tied: bool
) -> None:
    config = dataclasses.replace(
        CONFIG, use_parallel_residual=parallel, rotary_pct=rotary, tie_word_embeddings=tied
    )
    folder = released(run, config)
    text = tmp_path / "LICENSE"
    text.write_text(TEXT)
    output = tmp_path / "gguf"
    types = ["f32", "f16", "bf16", "q8_0", "q4_0"]
    report = command.convert(folder, output, types, text=text, most=4)
    assert report.llama_cpp is not None
    assert report.token_ids_compared is not None and report.token_ids_compared > 10_000
    assert report.text is not None and report.text["windows"] == 4
    assert report.original_perplexity is not None
    assert [row.type for row in report.files] == types
    for row in report.files:
        assert row.checked is not None and row.checked.logits is not None
        logits, measured = row.checked.logits, row.checked.perplexity
        assert measured is not None
        assert logits.positions == 64
        near = {"q8_0": 0.02, "q4_0": 0.2}.get(row.type, 0.002)
        assert abs(np.log(measured / report.original_perplexity)) < near
        if row.type in TOLERANCE:
            assert logits.tolerance is not None and logits.difference <= logits.tolerance
        else:
            assert 0 < logits.difference < logits.spread
    assert sorted(p.name for p in output.iterdir()) == sorted(
        [*(row.file for row in report.files), "gguf.json"]
    )
    # a file with the wrong flag differs by far more than the tolerance, and is refused
    f16 = output / report.files[1].file
    with pytest.raises(
        ReleaseError, match=r"key not found in model: gptneox.use_parallel_residual"
    ):
        LlamaModel(spoil(f16, missing=True), 64)
    original = Original(folder)
    tokens = original.tokenizer.encode(TEXT).ids[:64]
    with LlamaModel(spoil(f16, missing=False), 64) as model:
        found = model.logits(tokens)
        wanted = original.logits(tokens, "f16")
        difference = float(np.abs(found - wanted).max())
        assert difference > 100 * TOLERANCE["f16"] * float(wanted.std())
        with pytest.raises(ReleaseError, match="differ by"):
            compare_logits(original, model, "f16", tokens)


def test_q8_0_has_the_bytes_of_llama_cpps_own(run: Path, tmp_path: Path) -> None:
    folder = released(run, dataclasses.replace(CONFIG, hidden_size=64, intermediate_size=96))
    ours, theirs, source = (tmp_path / name for name in ("ours", "theirs", "f32"))
    writer.write(folder, ours, "q8_0")
    writer.write(folder, source, "f32")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(llama_quantiser.TYPES, "q8_0", "Q8_0")
        llama_quantiser.quantise(source, theirs, "q8_0")
    left, right = (
        {t.name: (t.tensor_type.name, bytes(t.data)) for t in gguf.GGUFReader(path).tensors}
        for path in (ours, theirs)
    )
    assert left == right
    assert {kind for kind, _ in left.values()} == {"Q8_0", "F32"}


def test_k_types_through_the_program_and_the_library(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    config = dataclasses.replace(CONFIG, hidden_size=256, intermediate_size=512, num_layers=1)
    folder = released(run, config)
    monkeypatch.setattr(llama_quantiser, "PROGRAM", "llama-quantize-that-is-not-there")
    library, program = tmp_path / "library", tmp_path / "program"
    report = command.convert(folder, library, ["q4_k_m", "q6_k"], verify=False)
    assert report.files[0].written_by.startswith("llama-cpp-python")
    assert set(report.files[0].tensors) <= {"Q4_K", "Q6_K"}
    assert report.files[1].tensors == {"Q6_K": 6}
    # the program has the command line of llama.cpp's, and its code by the same library
    monkeypatch.undo()
    script = tmp_path / "bin" / "llama-quantize"
    script.parent.mkdir()
    script.write_text(
        f"#!{sys.executable}\n"
        "import ctypes, sys, llama_cpp\n"
        "settings = llama_cpp.llama_model_quantize_default_params()\n"
        "settings.ftype = getattr(llama_cpp, 'LLAMA_FTYPE_MOSTLY_' + sys.argv[3])\n"
        "files = [word.encode() for word in sys.argv[1:3]]\n"
        "sys.exit(llama_cpp.llama_model_quantize(*files, ctypes.byref(settings)))\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")
    again = command.convert(folder, program, ["q4_k_m"], verify=False)
    assert again.files[0].written_by == str(script)
    assert again.files[0].xxh3_64 == report.files[0].xxh3_64
    script.write_text("#!/bin/sh\necho no room >&2\nexit 3\n")
    capfd.readouterr()
    output = tmp_path / "none"
    words = ["gguf", str(folder.path), "--type", "q4_0", "--output", str(output)]
    assert main(words) == 1
    assert capfd.readouterr().err.endswith("ended with 3 on q4_0: no room\n")
    assert not output.exists()


def test_a_tied_head_must_be_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = released(run, dataclasses.replace(CONFIG, tie_word_embeddings=True))
    real = writer.entries
    monkeypatch.setattr(
        writer, "entries", lambda *words: [e for e in real(*words) if e.name != writer.HEAD]
    )
    path = tmp_path / "headless.gguf"
    writer.write(folder, path, "f16")
    with pytest.raises(ReleaseError, match=r"does not load it: .*output.weight"):
        LlamaModel(path, 64)


def test_a_wrong_file_leaves_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = released(run, CONFIG)
    monkeypatch.setattr(writer, "blocks", lambda entry, _heads: [(0, entry.shape[0])])
    capfd.readouterr()
    output = tmp_path / "gguf"
    assert main(["gguf", str(folder.path), "--output", str(output), "--verify"]) == 1
    said = capfd.readouterr().err
    assert "logits of llama.cpp and transformers differ by" in said
    assert said.count("\n") == 1
    assert not output.exists()


def tokenizer_that_joins(like: Path) -> dict[str, Any]:
    """A tokenizer that shows every place where a text is split.

    It merges every byte with a letter, a digit, a point and a space on either side, so that two
    characters become one token unless the split lies between them.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<|endoftext|>": 0} | {c: i for i, c in enumerate(alphabet, 1)}
    merges = []
    for byte in alphabet:
        for other in "a1.\u0120":
            for pair in ((byte, other), (other, byte)):
                if "".join(pair) not in vocabulary:
                    vocabulary["".join(pair)] = len(vocabulary)
                    merges.append(list(pair))
    data: dict[str, Any] = json.loads(like.read_text())
    data["model"] |= {"vocab": vocabulary, "merges": merges}
    return data


def test_text_is_split_in_the_same_places(run: Path, tmp_path: Path) -> None:
    folder = released(run, dataclasses.replace(CONFIG, vocab_size=2304))
    data = tokenizer_that_joins(folder.tokenizer)
    folder.tokenizer.write_text(json.dumps(data))
    path = tmp_path / "model.gguf"
    writer.write(folder, path, "f16")
    # Assigned in the Unicode of this Python (14 or 15): what Unicode 16 added since, llama.cpp
    # takes for no letters. Of ideographs and the like every sixteenth.
    characters = [
        chr(code)
        for code in range(1, 0x32000)
        if (kind := unicodedata.category(chr(code))) not in ("Cn", "Cs", "Co")
        and (kind != "Lo" or code % 16 == 0)
    ]
    assert len(characters) > 15_000
    texts = [f"a{c}a 1{c}1 .{c}. {c}  {c}  a\n{c} '{c}" for c in characters]
    blocks = ["".join(texts[first : first + 500]) for first in range(0, len(texts), 500)]
    with LlamaModel(path, 0) as model:
        assert compare_tokens(folder, model, [*PROBES, *blocks]) > 500_000
        spoilt = json.loads(folder.tokenizer.read_text())
        spoilt["pre_tokenizer"]["use_regex"] = False
        folder.tokenizer.write_text(json.dumps(spoilt))
        with pytest.raises(ReleaseError, match=r"llama.cpp and the tokenizer differ at token"):
            compare_tokens(folder, model, PROBES)


def test_the_tokenizer_of_gpt_neox_20b(run: Path, tmp_path: Path) -> None:
    data = os.environ.get("ALPENGLOW_TEST_DATA")
    if not data:
        pytest.skip("ALPENGLOW_TEST_DATA is not set: no GPT-NeoX-20B tokenizer here")
    folder = released(run, dataclasses.replace(CONFIG, vocab_size=50432))
    source = Path(data) / "tokenizer" / "20B_tokenizer.json"
    folder.tokenizer.write_bytes(source.read_bytes())
    path = tmp_path / "model.gguf"
    [note] = writer.write(folder, path, "f16").notes
    assert note.startswith("The tokenizer normalises text to NFC and llama.cpp does not")
    sources = "\n\n".join(p.read_text() for p in sorted(Path(writer.__file__).parent.glob("*.py")))
    spaces = "\n".join(" " * n + "x" + " " * (60 - n) for n in range(60))
    with LlamaModel(path, 0) as model:
        compared = compare_tokens(folder, model, [*PROBES, TEXT, sources, spaces])
        assert compared > 20_000
        decomposed = "e\u0301"
        tokenizer = Tokenizer.from_file(str(folder.tokenizer))
        assert model.tokens(decomposed) != tokenizer.encode(decomposed).ids
    tokens = gguf.GGUFReader(path).get_field("tokenizer.ggml.tokens")
    assert tokens is not None and len(tokens.contents()) == 50432
    assert VOCABULARY < 50432
