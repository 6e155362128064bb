"""A taught model through the harness: three MMLU implementations, GSM8K, and what is written."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import shutil
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import pytest
import torch
from small_benchmarks import (
    CORRECT,
    ITEMS,
    LETTERS,
    PROBLEMS,
    SAID,
    problem_prompt,
    prompt,
    texts,
    write_benchmarks,
    write_lines,
)

from alpenglow.evaluate import tasks as tasks_folder
from alpenglow.evaluate.__main__ import main
from alpenglow.evaluate.error import EvaluateError
from alpenglow.evaluate.implementations import IMPLEMENTATIONS
from alpenglow.evaluate.items import read_gsm8k, read_mmlu
from alpenglow.evaluate.recipe import EvaluateRecipe, PerplexityRecipe

JOB = Path(__file__).parents[3] / "jobs" / "evaluate.toml"
QUIET = PerplexityRecipe(windows=0)


@pytest.fixture(scope="module")
def model(taught_folder: Path) -> Any:
    from alpenglow.evaluate.released_model import ReleasedModel

    return ReleasedModel(taught_folder, dtype="auto", device="cpu", batch_size=3)


def likelihood(model: Any, context: str, scored: str) -> float:
    """Log-likelihood of a text behind another, by transformers alone."""
    before, whole = (model.tokenizer(text)["input_ids"] for text in (context, context + scored))
    with torch.no_grad():
        logits = model.model(input_ids=torch.tensor([whole])).logits[0].double().log_softmax(-1)
    places = range(len(before), len(whole))
    return float(sum(logits[place - 1, whole[place]] for place in places))


def generated(model: Any, context: str, tokens: int) -> str:
    """The likeliest token, one after another, by transformers alone."""
    ids = model.tokenizer(context)["input_ids"]
    start = len(ids)
    for _ in range(tokens):
        with torch.no_grad():
            ids.append(int(model.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    text: str = model.tokenizer.decode(ids[start:])
    return text


def outcome(model: Any, benchmarks: Path, folder: Path, name: str, way: str, shots: int) -> Any:
    from alpenglow.evaluate import benchmark

    folder.mkdir(exist_ok=True)

    if name == "mmlu":
        asked = [item.fields() for item in read_mmlu(benchmarks, "test")]
        solved = [item.fields() for item in read_mmlu(benchmarks, "dev")]
    else:
        asked, solved = list(read_gsm8k(benchmarks, "test")), read_gsm8k(benchmarks, "train")
    tasks, left_out = benchmark.build(
        name, way, asked, solved, shots=shots, model=model, folder=folder
    )
    return tasks, benchmark.run(tasks, name, model, None, shots, left_out)


@pytest.mark.parametrize("way", ["original", "whole answer"])
def test_likelihoods_are_those_of_transformers(
    model: Any, benchmarks: Path, tmp_path: Path, way: str
) -> None:
    tasks, found = outcome(model, benchmarks, tmp_path, "mmlu", way, 2)
    right = norm = place = 0
    for task in tasks.values():
        for first in range(0, len(task.instances), 4):
            own = []
            choices = list(LETTERS) if way == "original" else ITEMS[place][2]
            for request, choice in zip(task.instances[first : first + 4], choices, strict=True):
                assert request.args == (prompt(way, place), f" {choice}")
                ((by_harness, _),) = request.resps
                own.append(likelihood(model, *request.args))
                assert by_harness == pytest.approx(own[-1], abs=1e-4)
            right += own.index(max(own)) == CORRECT[place]
            each = [value / len(choice) for value, choice in zip(own, choices, strict=True)]
            norm += each.index(max(each)) == CORRECT[place]
            place += 1
    assert place == len(ITEMS)
    scores = {score.metric: score for score in found.scores}
    share = right / place
    assert scores["acc"].value == pytest.approx(share)
    assert scores["acc"].stderr == pytest.approx(math.sqrt(share * (1 - share) / (place - 1)))
    assert (scores["acc"].items, scores["acc"].of) == (place, place)
    if way == "whole answer":
        assert scores["acc_norm"].value == pytest.approx(norm / place)
    assert found.notes == []


def test_helm_counts_what_the_model_says(model: Any, benchmarks: Path, tmp_path: Path) -> None:
    tasks, found = outcome(model, benchmarks, tmp_path, "mmlu", "helm", 2)
    requests = [request for task in tasks.values() for request in task.instances]
    assert [request.args[0] for request in requests] == [
        prompt("helm", place) for place in range(len(ITEMS))
    ]
    tokens = requests[0].args[1]["max_gen_toks"]
    # This tokenizer has a token for " A" and none for " D": more than HELM's one is generated.
    assert tokens == model.length("Answer: D") - model.length("Answer:") == 2
    assert model.length("Answer: A") - model.length("Answer:") == 1
    said = [request.resps[0] for request in requests]
    assert said == [generated(model, request.args[0], tokens) for request in requests]
    assert [text.strip()[:1] for text in said] == SAID
    (score,) = found.scores
    right = [said == LETTERS[correct] for said, correct in zip(SAID, CORRECT, strict=True)]
    assert (score.metric, score.value) == ("exact_match", sum(right) / len(right))
    assert 0 < sum(right) < len(right)


def test_gsm8k_is_strict_and_flexible(model: Any, benchmarks: Path, tmp_path: Path) -> None:
    tasks, found = outcome(model, benchmarks, tmp_path, "gsm8k", "lm_eval", 1)
    (task,) = tasks.values()
    assert [request.args[0] for request in task.instances] == [
        problem_prompt(place) for place in range(len(PROBLEMS))
    ]
    scores = {score.metric: score.value for score in found.scores}
    assert scores == {
        "exact_match (strict)": pytest.approx(1 / 3),
        "exact_match (flexible)": pytest.approx(2 / 3),
    }


def test_original_and_gsm8k_ask_as_the_harness_does_today() -> None:
    """Against the task files that the installed harness ships."""
    import lm_eval
    import yaml

    theirs, ours = Path(lm_eval.__file__).parent / "tasks", resources.files(tasks_folder)
    mmlu = yaml.safe_load((theirs / "mmlu" / "default" / "_default_template_yaml").read_text())
    own = yaml.safe_load((ours / "mmlu_original.yaml").read_text())
    for key in ("doc_to_text", "doc_to_choice", "doc_to_target", "fewshot_config", "output_type"):
        assert own[key] == mmlu[key]
    subject = yaml.safe_load((theirs / "mmlu" / "default" / "mmlu_anatomy.yaml").read_text())
    header = jinja2.Template(own["description"], keep_trailing_newline=True)
    assert header.render(subject="anatomy") == subject["description"]
    gsm8k = yaml.safe_load((theirs / "gsm8k" / "gsm8k.yaml").read_text())
    own = yaml.safe_load((ours / "gsm8k.yaml").read_text())
    assert own["doc_to_text"] == gsm8k["doc_to_text"]
    (metric,), (their_metric,) = own["metric_list"], gsm8k["metric_list"]
    assert metric["regexes_to_ignore"] == their_metric["regexes_to_ignore"]
    said = ["so $1,234.50 is it", "a #### -7.", "#### 1,000 or .5", "5", "#### x", "cost: -$3", ""]
    for mine, their in zip(own["filter_list"], gsm8k["filter_list"], strict=True):
        patterns = [part["filter"][0]["regex_pattern"] for part in (mine, their)]
        for text in said:
            found = [[match.group() for match in re.finditer(p, text)] for p in patterns]
            assert found[0] == found[1]


def test_fewer_examples_where_they_do_not_fit(
    model: Any, benchmarks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = [
        max(model.length(f"{prompt('original', place, 1)} {letter}") for letter in LETTERS)
        for place in range(len(ITEMS))
    ]
    monkeypatch.setattr(model, "_max_length", max(lengths) - 1, raising=False)
    assert model.max_length == max(lengths) - 1
    tasks, found = outcome(model, benchmarks, tmp_path / "one", "mmlu", "original", 2)
    shown = [
        request.args[0] for task in tasks.values() for request in task.instances if request.idx == 0
    ]
    assert shown == [prompt("original", place, 1) for place in range(len(ITEMS))]
    assert found.notes == [
        f"5 of 5 prompts hold fewer than 2 examples, as many as fit the context of "
        f"{max(lengths) - 1} tokens."
    ]
    monkeypatch.setattr(model, "_max_length", 20, raising=False)
    _, found = outcome(model, benchmarks, tmp_path / "none", "mmlu", "original", 2)
    assert found.notes[1] == "5 of 5 prompts lost their beginning even without examples."
    long = sorted(max(model.length(f" {choice}") for choice in item[2]) for item in ITEMS)
    assert long[0] < long[-1]
    monkeypatch.setattr(model, "_max_length", long[-1] - 1, raising=False)
    _, found = outcome(model, benchmarks, tmp_path / "tiny", "mmlu", "whole answer", 2)
    left = long.count(long[-1])
    assert {(score.items, score.of) for score in found.scores} == {(5 - left, 5)}
    assert found.notes[-1].startswith(f"{left} items are left out: an answer of theirs is longer")
    monkeypatch.setattr(model, "_max_length", long[0] - 1, raising=False)
    with pytest.raises(EvaluateError, match="every item has an answer longer than"):
        outcome(model, benchmarks, tmp_path / "none", "mmlu", "whole answer", 2)


@pytest.fixture
def evaluated(
    taught_folder: Path, benchmarks: Path, tmp_path: Path
) -> Callable[..., dict[str, Any]]:
    def call(**changes: Any) -> dict[str, Any]:
        from alpenglow.evaluate.evaluation import evaluate

        recipe = EvaluateRecipe(
            run=tmp_path / "run", model=taught_folder, benchmarks=benchmarks, device="cpu",
            shots={"mmlu": 2, "gsm8k": 1}, perplexity=QUIET, output=tmp_path / "evaluation.json",
        )  # fmt: skip
        output, _ = evaluate(dataclasses.replace(recipe, **changes))
        tables: dict[str, Any] = json.loads(output.read_text())
        return tables

    return call


def values(tables: dict[str, Any]) -> dict[tuple[str, str], float]:
    return {
        (result["implementation"], result["metric"]): result["value"]
        for result in tables["results"]
    }


def test_the_file_goes_on_where_weights_are_the_same(
    evaluated: Callable[..., dict[str, Any]], taught_folder: Path, tmp_path: Path
) -> None:
    """Implementations come one after another; other weights begin anew."""
    conversion = taught_folder / "conversion.json"
    facts = {"step": 20, "dtype": "float32", "xxh3_64": {"b": "02", "a": "01"}}
    conversion.write_text(json.dumps(facts))
    try:
        first = evaluated(tasks=("mmlu",), implementations=("original",), limit=1)
        assert first["model"]["step"] == 20
        (result,) = first["results"]
        assert (result["items"], result["of"], result["shots"]) == (2, 5, 2)
        second = evaluated(tasks=("mmlu",), implementations=("helm",))
        assert [r["implementation"] for r in second["results"]] == ["original", "helm"]
        third = evaluated(tasks=("mmlu",))
        assert [r["items"] for r in third["results"]] == [5, 5, 5, 5]
        assert third["results"][0] == second["results"][1]
        aged = tmp_path / "evaluation.json"
        aged.write_text(aged.read_text().replace('"version": "0', '"version": "9'))
        assert {r["task"] for r in evaluated(tasks=("gsm8k",))["results"]} == {"gsm8k"}
        third = evaluated(tasks=("mmlu",), again=True)
        assert len(third["results"]) == 6
        conversion.write_text(json.dumps(facts | {"xxh3_64": {"a": "01", "b": "03"}}))
        fourth = evaluated(tasks=("gsm8k",))
        assert {r["task"] for r in fourth["results"]} == {"gsm8k"}
        assert fourth["model"]["weights"] != third["model"]["weights"]
    finally:
        conversion.unlink()
    (tmp_path / "evaluation.json").write_text("[1]")
    with pytest.raises(EvaluateError, match="exists and is not an evaluation"):
        evaluated(tasks=("gsm8k",))
    assert (tmp_path / "evaluation.json").read_text() == "[1]"


def test_a_limit_of_files_without_subjects_is_of_all(
    evaluated: Callable[..., dict[str, Any]], benchmarks: Path, tmp_path: Path
) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    for split in ("test", "dev"):
        rows = [
            {
                "eval_instance_index": index, "question": item.question, "answer": choice,
                "is_correct": place == item.answer,
            }
            for index, item in enumerate(read_mmlu(benchmarks, split))
            for place, choice in enumerate(item.choices)
        ]  # fmt: skip
        write_lines(plain / f"mmlu_{split}-1.jsonl", rows)
    tables = evaluated(tasks=("mmlu",), benchmarks=plain, limit=3, shots={"mmlu": 1})
    assert {(r["items"], r["of"]) for r in tables["results"]} == {(3, 5)}
    told = [note for note in tables["notes"] if "the files name no subjects" in note]
    assert [note.partition(":")[0] for note in told] == [f"mmlu, {way}" for way in IMPLEMENTATIONS]
    assert len({r["prompt_xxh3"] for r in tables["results"]}) == 3


def test_bad_recipes_are_one_sentence(
    taught_folder: Path,
    benchmarks: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given: dict[str, Any] = {
        "model": taught_folder, "benchmarks": benchmarks, "output": tmp_path / "evaluation.json",
        "perplexity.windows": 0, "run": tmp_path, "device": "cpu",
    }  # fmt: skip
    bare = tmp_path / "bare"
    shutil.copytree(taught_folder, bare)
    for path in bare.glob("tokenizer*"):
        path.unlink()
    half = write_benchmarks(tmp_path / "half")
    (half / "mmlu_dev-1.jsonl").write_text("")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"model": tmp_path / "absent"}, "no such model; release one first"),
        ({"model": bare}, "so there is no tokenizer"),
        ({"implementations": '["hellm"]'}, "did you mean 'helm'?"),
        ({"tasks": '["gsm9k"]'}, "did you mean gsm8k?"),
        ({"shots.mmlu": 3}, "shots.mmlu = 3: there are 2 solved examples of colours"),
        ({"benchmarks": half}, "the split dev of mmlu is empty"),
        ({"device": "cuda:77"}, "GPUs here"),
        ({"device": "abacus"}, "not a device of torch"),
        ({"perplexity.windows": 4}, "held-out text is unknown"),
        ({"tasks": '["arc_easy"]'}, "task arc_easy: the harness cannot load it without a network"),
        ({"include_path": tmp_path / "no", "tasks": '["own"]'}, "no such folder of task files"),
    ]
    for changes, says in cases:
        words = [f"{key}={value}" for key, value in (given | changes).items()]
        assert main([str(JOB), *words]) == 1, changes
        error = capsys.readouterr().err
        assert says in error
        assert error.startswith("alpenglow evaluate: ")
        assert error.count("\n") == 1
        assert not any(text in error for text in texts())
    assert not (tmp_path / "evaluation.json").exists()


@pytest.mark.parametrize("name", ["mmlu", "gsm8k"])
def test_real_items(evaluated: Callable[..., dict[str, Any]], name: str) -> None:
    folder = os.environ.get("ALPENGLOW_TEST_DATA")
    if not folder:
        pytest.skip("ALPENGLOW_TEST_DATA is not set: no MMLU and GSM8K files to evaluate on")
    tables = evaluated(tasks=(name,), benchmarks=Path(folder) / "benchmarks", limit=3, shots={})
    rows = {(r["implementation"], r["metric"]): (r["items"], r["of"]) for r in tables["results"]}
    if name == "gsm8k":
        assert set(rows.values()) == {(3, 1319)}
    else:
        assert sorted({way for way, _ in rows}) == sorted(IMPLEMENTATIONS)
        assert set(rows.values()) == {(3, 14042)}
    # The taught model's context holds hardly an example of five.
    assert any("hold fewer than 5 examples" in note for note in tables["notes"])
