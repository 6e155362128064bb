"""What a model's card says of its evaluation: `evaluation.json` of the release folder.

A score without its implementation is void, so each row names it; a score of a part of the items
says so, and does not go into the model index, which leaderboards read as if it were whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult

from alpenglow.release.cards.markdown import UNKNOWN, count, known, line, section, table

METRICS = {"acc": "accuracy", "acc_norm": "accuracy"}
"""Names of lm-evaluation-harness and the Hub's names of the same metric."""


def evaluation_section(evaluation: Mapping[str, Any], step: int | None) -> str:
    """The whole section.

    Args:
        evaluation: evaluation.json; empty where there is none.
        step: of the release.
    """
    if not evaluation:
        return section("Evaluation", "Unknown: no evaluation is recorded for this release.")
    if not same_model(evaluation, step):
        other = evaluation.get("model", {}).get("step")
        note = f"Unknown: the evaluation at hand is of step {count(other)}, not of this release."
        return section("Evaluation", note)
    results = _list(evaluation, "results")
    return section(
        "Evaluation",
        _results(results),
        _implementations(results),
        _perplexity(_list(evaluation, "perplexity")),
        _harness(evaluation),
        "\n".join(f"- {line(str(note))}" for note in evaluation.get("notes") or []),
    )


def same_model(evaluation: Mapping[str, Any], step: int | None) -> bool:
    """Whether an evaluation is of this step, as far as both say."""
    other = (evaluation.get("model") or {}).get("step")
    return other is None or step is None or other == step


def same_weights(evaluation: Mapping[str, Any], weights: str | None) -> bool:
    """Whether an evaluation is of weights of this hash, as far as both say."""
    other = (evaluation.get("model") or {}).get("weights")
    return other is None or weights is None or bool(other == weights)


def index_results(evaluation: Mapping[str, Any], step: int | None) -> list[EvalResult]:
    """Whole results for the model index of the card's head."""
    if not same_model(evaluation, step):
        return []
    found = []
    for result in _list(evaluation, "results"):
        value = result.get("value")
        if _partial(result) or not isinstance(value, (int, float)) or not math.isfinite(value):
            continue
        task, metric = str(result.get("task")), str(result.get("metric"))
        kind = metric.partition(" (")[0]  # `exact_match (strict)` is still an exact match
        how = f"{metric}, {result.get('implementation')}, {_shots(result)}"
        found.append(
            EvalResult(
                task_type="text-generation",
                dataset_type=task,
                dataset_name=task,
                metric_type=METRICS.get(kind, kind),
                metric_value=value,
                metric_name=how,
            )
        )
    return found


def evaluated(evaluation: Mapping[str, Any], step: int | None) -> str:
    """A sentence for the limits: on what the model was evaluated."""
    results = _list(evaluation, "results") if same_model(evaluation, step) else []
    tasks = dict.fromkeys(str(result.get("task")) for result in results)
    if not tasks:
        return "It has not been evaluated, as far as is recorded here."
    parts = sum(map(_partial, results))
    some = f"; {parts} of {len(results)} results are of a part of the items" if parts else ""
    return f"It has been evaluated on {', '.join(map(line, tasks))} alone{some}."


def _results(results: Sequence[Mapping[str, Any]]) -> str:
    if not results:
        return ""
    rows = []
    for result in results:
        stderr = result.get("stderr")
        value = known(result.get("value"), "{:.4f}")
        value += f" ± {stderr:.4f}" if isinstance(stderr, (int, float)) else ""
        rows.append(
            (
                str(result.get("task", UNKNOWN)),
                str(result.get("implementation", UNKNOWN)),
                str(result.get("metric", UNKNOWN)),
                value,
                count(result.get("shots")),
                _items(result),
            )
        )
    head = ("task", "implementation", "metric", ">value", ">shots", ">items")
    return table(head, rows)


def _items(result: Mapping[str, Any]) -> str:
    items, of = result.get("items"), result.get("of")
    return f"{count(items)} of {count(of)} (partial)" if _partial(result) else count(items)


def _partial(result: Mapping[str, Any]) -> bool:
    items, of = result.get("items"), result.get("of")
    return not (isinstance(items, int) and isinstance(of, int) and items >= of)


def _shots(result: Mapping[str, Any]) -> str:
    return known(result.get("shots"), "{}-shot")


def _implementations(results: Sequence[Mapping[str, Any]]) -> str:
    """What each implementation scores, once."""
    about: dict[str, str] = {}
    for result in results:
        if result.get("about"):
            prompt = f" (prompts: `{result['prompt_xxh3']}`)" if result.get("prompt_xxh3") else ""
            key = f"**{line(str(result.get('task')))}, {line(str(result.get('implementation')))}**"
            about.setdefault(key, f"{line(str(result['about']))}{prompt}")
    return "\n".join(f"- {key}: {text}" for key, text in about.items())


def _perplexity(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    lines = [
        (
            str(row.get("slice", UNKNOWN)) + ("" if row.get("held_out") else " (trained on)"),
            count(row.get("windows")),
            count(row.get("tokens")),
            known(row.get("loss"), "{:.4f}"),
            known(row.get("perplexity"), "{:,.2f}"),
            known(row.get("bits_per_byte"), "{:.4f}"),
        )
        for row in rows
    ]
    head = ("slice", ">windows", ">tokens", ">nats a token", ">perplexity", ">bits a byte")
    what = "held-out text" if all(row.get("held_out") for row in rows) else "the run's own data"
    return f"### Perplexity on {what}\n\n" + table(head, lines)


def _harness(evaluation: Mapping[str, Any]) -> str:
    harness = evaluation.get("harness")
    if not isinstance(harness, Mapping):
        return "Made by: unknown."
    commit = f" (commit `{harness['commit']}`)" if harness.get("commit") else ""
    beside = (f"{key} {harness[key]}" for key in ("transformers", "torch") if harness.get(key))
    package = f"{known(harness.get('package'))} {known(harness.get('version'))}{commit}"
    dtype = (evaluation.get("model") or {}).get("dtype")
    made = evaluation.get("made")
    words = [line(package), *map(line, beside), f"weights in {known(dtype)}"]
    return f"Made by {', '.join(words)}" + (f", {line(str(made))}." if made else ".")


def _list(table: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    found = table.get(key)
    return [row for row in found if isinstance(row, Mapping)] if isinstance(found, list) else []
