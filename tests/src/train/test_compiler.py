"""Compiled layers compute what the others do; without a compiler one sentence says so."""

import subprocess
import sys

import pytest
import torch
from training_ranks import tiny_recipe

from alpenglow.config import ConfigError
from alpenglow.model.proof import cut, random_weights
from alpenglow.model.stages import build_local, loss_function
from alpenglow.train.compiler import compile_layers


def test_loss_and_gradients_are_those_of_the_uncompiled() -> None:
    config = tiny_recipe().model
    weights = random_weights(config)
    tokens = torch.arange(34).view(2, 17)
    found = []
    for compiled in (False, True):
        model = build_local(config, attention="sdpa", loss="fused")
        model.load_global(lambda name, part: cut(weights[name], part))
        if compiled:
            assert compile_layers(model) == config.num_layers
        loss = loss_function(config, model.group)(model(tokens[:, :-1]), tokens[:, 1:])
        loss.backward()  # type: ignore[no-untyped-call]
        found.append((loss.item(), {n: p.grad for n, p in model.named_parameters()}))
    assert found[1][0] == pytest.approx(found[0][0], abs=1e-5)
    torch.testing.assert_close(found[1][1], found[0][1], atol=1e-5, rtol=1e-4)


def test_no_compiler_is_one_sentence() -> None:
    code = (
        "import torch\n"
        "from alpenglow.train.compiler import require_compiler\n"
        "from alpenglow.train.failure import TrainingError\n"
        "try:\n    require_compiler(torch.device('cpu'))\n"
        "except TrainingError as error:\n    print(error)\n"
    )
    # An environment in which no program can be found.
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": ":".join(sys.path), "PATH": "/nonexistent"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    (sentence,) = done.stdout.splitlines()
    assert sentence.startswith("train.compile = true needs a C++ compiler")


def test_shared_matrices_are_not_compiled() -> None:
    with pytest.raises(ConfigError, match=r"train.compile = true with parallel.tensor = 2"):
        tiny_recipe(1, 2, train={"compile": True})
