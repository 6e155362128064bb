"""Released vocabularies: padded as trained, or cut to the tokenizer's ids."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from release_run import CONFIG, VOCABULARY, tensors, write_checkpoint
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from alpenglow.exchange.fragments import FragmentSource
from alpenglow.release.conversion import Conversion
from alpenglow.release.convert import ConvertRecipe, convert
from alpenglow.release.vocabulary import trimmed

IDS = 300


@pytest.mark.parametrize("tied", [False, True])
def test_a_trimmed_vocabulary_gives_the_same_logits(run: Path, tied: bool) -> None:
    config = dataclasses.replace(CONFIG, tie_word_embeddings=tied)
    write_checkpoint(run, 20, config)
    padded, outcome = convert(ConvertRecipe(run=run, output=run / "padded"))
    assert outcome is not None
    cut, outcome = convert(ConvertRecipe(run=run, output=run / "cut", vocabulary="trimmed"))
    assert outcome is not None
    assert (cut / "model.safetensors").stat().st_size < (
        padded / "model.safetensors"
    ).stat().st_size - (1 if tied else 2) * (VOCABULARY - IDS) * 32 * 4 + 100
    assert json.loads((padded / "config.json").read_text())["vocab_size"] == VOCABULARY
    assert json.loads((cut / "config.json").read_text())["vocab_size"] == IDS
    weights, ours = load_file(cut / "model.safetensors"), tensors(config)
    assert torch.equal(weights["gpt_neox.embed_in.weight"], ours["embed_in.weight"][:IDS])
    tokens = torch.arange(60).reshape(2, 30) * 5 % IDS
    with torch.no_grad():
        one, other = (
            AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(tokens).logits
            for folder in (padded, cut)
        )
    assert (one.shape[-1], other.shape[-1]) == (VOCABULARY, IDS)
    torch.testing.assert_close(other, one[..., :IDS], rtol=0, atol=1e-6)
    assert len(AutoTokenizer.from_pretrained(cut)) == IDS
    counts = {folder: Conversion.load(folder).vocabulary for folder in (padded, cut)}
    assert counts[padded] == {"model": VOCABULARY, "released": VOCABULARY, "tokenizer": IDS}
    assert counts[cut] == {"model": VOCABULARY, "released": IDS, "tokenizer": IDS}


def test_a_trimmed_source_is_the_source_with_fewer_rows(run: Path) -> None:
    source = FragmentSource.open(write_checkpoint(run, 20, CONFIG))
    assert trimmed(source, VOCABULARY) is source
    cut = trimmed(source, 7)
    assert cut.config == dataclasses.replace(CONFIG, vocab_size=7)
    for name, shape in cut.config.tensor_shapes().items():
        whole = source.tensor(name)
        assert torch.equal(cut.tensor(name), whole[: shape[0]])
        box = tuple((n // 3, n // 2) for n in shape)
        assert torch.equal(cut.tensor(name, box), whole[tuple(slice(a, b) for a, b in box)])
        assert cut.stored(name) == torch.float32
    same = (source.form, source.path, source.step, source.state, source.dtype)
    assert (cut.form, cut.path, cut.step, cut.state, cut.dtype) == same
