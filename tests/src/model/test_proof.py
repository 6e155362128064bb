"""Logits, loss and gradients against transformers, on every shape of ranks."""

from dataclasses import replace

import pytest
import torch
from distributed_ranks import run_ranks

from alpenglow.model import proof

pytest.importorskip("transformers", reason="transformers is the reference of this proof")


@pytest.fixture(scope="module")
def cases() -> list[proof.Case]:
    return [proof.make_case(config) for config in proof.configurations()]


def test_the_eight_models_are_those_of_the_issue(cases: list[proof.Case]) -> None:
    forms = {
        (c.use_parallel_residual, c.rotary_pct, c.tie_word_embeddings)
        for c in (case.config for case in cases)
    }
    assert forms == {(p, r, t) for p in (True, False) for r in (0.25, 1.0) for t in (True, False)}
    for case in cases:
        assert case.logits.std() > 0.5  # not a model of zeros
        biases = {n: w for n, w in proof.random_weights(case.config).items() if n.endswith("bias")}
        assert all(bias.abs().min() > 0 for bias in biases.values())
        assert len(biases) == 6 * case.config.num_layers + 1


def test_without_deepspeed(cases: list[proof.Case]) -> None:
    rows = [proof.measure_local(case) for case in cases]
    assert all(row.equal for row in rows), proof.table(rows)


@pytest.mark.distributed
@pytest.mark.parametrize(("pipeline", "tensor"), proof.SHAPES)
def test_through_deepspeed(cases: list[proof.Case], pipeline: int, tensor: int) -> None:
    size = pipeline * tensor
    results = run_ranks(proof.measure_rank, size, pipeline, tensor, cases, timeout=180)
    assert results == [results[0]] * size
    assert len(results[0]) == 8
    assert all(row.equal for row in results[0]), proof.table(results[0])


@pytest.mark.parametrize("parallel", [True, False])
def test_a_doubled_row_parallel_bias_would_be_seen(
    cases: list[proof.Case], parallel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The upstream converter's mistake (training.md 3.3), made on purpose.
    case = next(c for c in cases if c.config.use_parallel_residual is parallel)
    right = proof.random_weights(case.config)
    row_parallel = ("attention.dense.bias", "dense_4h_to_h.bias")
    wrong = {n: w * 2 if n.endswith(row_parallel) else w for n, w in right.items()}
    monkeypatch.setattr(proof, "random_weights", lambda config: wrong)
    row = proof.measure_local(case)
    assert not row.equal
    assert row.logits > 0.1


def test_a_row_with_nan_is_not_equal(cases: list[proof.Case]) -> None:
    case = replace(cases[0], logits=torch.full_like(cases[0].logits, float("nan")))
    row = proof.measure_local(case)
    assert not row.equal
    assert "DIFFERS" in proof.table([row])
