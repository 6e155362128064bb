"""A benchmark as the harness's tasks, and what it scored.

The task files are ours (`tasks/*.yaml`); their data are the items as JSON lines in a folder that
the caller removes. Where subjects are known there is a task for each, with examples of its own
subject, and the score is over all items alike (as MMLU's authors average), not over subjects.

A prompt whose examples do not fit the model's context loses the last of them until it fits, and a
prompt that does not fit without any loses its beginning; both are counted, since a cut that no one
tells makes a number void.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
import yaml
from lm_eval import evaluator
from lm_eval.api.task import ConfigurableTask, Task

from alpenglow.evaluate.error import EvaluateError
from alpenglow.evaluate.implementations import BENCHMARKS
from alpenglow.evaluate.items import LETTERS
from alpenglow.evaluate.released_model import ReleasedModel

SEED = 1234
"""Of everything random in the harness, its own default."""
RESAMPLES = 1000
"""Bootstrap samples of an error that has no formula."""

Rows = Sequence[Mapping[str, Any]]


class FittedTask(ConfigurableTask):
    """A task of the harness whose prompts are fitted to the model's context.

    Args:
        config: the task file's content, with its data's place.
        model: whose context and tokenizer count.
    """

    def __init__(self, config: dict[str, Any], model: ReleasedModel) -> None:
        self.model = model
        self.shortened = 0
        """Prompts with fewer examples than asked for."""
        self.cut = 0
        """Prompts that lose their beginning."""
        super().__init__(config=config)

    def fewshot_context(self, doc: Any, num_fewshot: int, **named: Any) -> Any:
        """The prompt with as many examples as fit."""
        text = None
        for shots in range(num_fewshot, -1, -1):
            text = super().fewshot_context(doc, num_fewshot=shots, **named)
            if self._fits(doc, text):
                self.shortened += shots < num_fewshot
                return text
        self.shortened += num_fewshot > 0
        self.cut += 1
        return text

    def _fits(self, doc: Any, text: str) -> bool:
        model, room = self.model, self.model.max_length
        if self.OUTPUT_TYPE == "generate_until":
            generated: int = self.config.generation_kwargs["max_gen_toks"]
            return bool(model.length(text) + generated <= room)
        # The last token of a continuation is predicted and never read.
        answers = [self.config.target_delimiter + choice for choice in self.doc_to_choice(doc)]
        return all(model.length(text + answer) <= room + 1 for answer in answers)


@dataclass(frozen=True)
class Score:
    """One number."""

    task: str
    metric: str
    value: float
    stderr: float | None
    items: int
    of: int
    """Items there are; more than `items` where a limit was set."""


@dataclass(frozen=True)
class Outcome:
    """What a task, or the tasks of its subjects, gave."""

    scores: list[Score]
    prompt_xxh3: str
    """xxh3-64 over all requests in the items' order: prompt, 0 byte, what is scored, 0 byte."""
    notes: list[str]


def build(
    name: str,
    implementation: str,
    items: Rows,
    examples: Rows,
    *,
    shots: int,
    model: ReleasedModel,
    folder: Path,
) -> tuple[dict[str, FittedTask], int]:
    """The tasks of a benchmark, one a subject, and how many items are in none.

    An item is left out where a whole answer alone is longer than the model's context: the harness
    has no score for it.

    Args:
        name: `mmlu` or `gsm8k`.
        implementation: one of the benchmark's.
        items: what is asked, as the task file names the fields; grouped by `subject`.
        examples: solved ones.
        shots: how many of them, of the same subject, a prompt has.
        model: that is asked.
        folder: for the items as JSON lines and the harness's cache of them.

    Raises:
        EvaluateError: fewer examples than shots, or no item that the context holds.
    """
    text = resources.files("alpenglow.evaluate.tasks").joinpath(
        BENCHMARKS[name][implementation].file
    )
    config: dict[str, Any] = yaml.safe_load(text.read_text(encoding="utf-8"))
    if "generation_kwargs" in config:
        _limit_generation(config, implementation, model)
    tasks: dict[str, FittedTask] = {}
    asked = [item for item in items if _scored_fits(item, implementation, model)]
    if not asked:
        raise EvaluateError(
            f"{name}, {implementation}: every item has an answer longer than the model's "
            f"context of {model.max_length} tokens; leave it out of implementations"
        )
    by_subject, known = _by_subject(asked), _by_subject(examples)
    for number, (subject, mine) in enumerate(by_subject.items()):
        solved = list(examples) if not subject else known.get(subject) or known.get("", [])
        of = f" of {subject}" if subject and "" not in known else ""
        if len(solved) < shots:
            raise EvaluateError(
                f"shots.{name} = {shots}: there are {len(solved)} solved examples{of}; ask for at "
                "most as many"
            )
        own = config | {"task": f"{config['task']}_{number}", "num_fewshot": shots}
        files = {"test": _write(folder / f"{name}-{number}-test.jsonl", mine)}
        if shots:
            split = str(config["fewshot_split"])
            files[split] = _write(folder / f"{name}-{number}-{split}.jsonl", solved[:shots])
        else:
            own = {key: own[key] for key in own if key not in ("fewshot_split", "fewshot_config")}
        own["dataset_kwargs"] = {"data_files": files, "cache_dir": str(folder / "cache")}
        tasks[own["task"]] = FittedTask(own, model)
    return tasks, len(items) - len(asked)


def _scored_fits(item: Mapping[str, Any], implementation: str, model: ReleasedModel) -> bool:
    """Whether what is scored of an item is within the model's context."""
    if implementation != "whole answer":
        return True
    return all(model.length(f" {choice}") <= model.max_length for choice in item["choices"])


def _limit_generation(config: dict[str, Any], implementation: str, model: ReleasedModel) -> None:
    """As many tokens as a letter takes in HELM's way; elsewhere at most half the context.

    HELM generates one token. A tokenizer that has none for a space and a letter needs more; then
    signs that follow a letter are left out of the comparison, and a longer word is no letter.
    """
    kwargs = dict(config["generation_kwargs"])
    if implementation == "helm":
        prefix = "Answer:"
        letters = [model.length(f"{prefix} {letter}") for letter in LETTERS]
        kwargs["max_gen_toks"] = max(1, max(letters) - model.length(prefix))
        if kwargs["max_gen_toks"] > 1:
            letter = {"function": "regex", "regex_pattern": r"^\s*([A-D])(?![A-Za-z0-9])"}
            config["filter_list"] = [
                {"name": "letter", "filter": [letter, {"function": "take_first"}]}
            ]
    else:
        kwargs["max_gen_toks"] = min(kwargs["max_gen_toks"], max(1, model.max_length // 2))
    config["generation_kwargs"] = kwargs


def run(
    tasks: Mapping[str, Task],
    name: str,
    model: ReleasedModel,
    limit: int | None,
    shots: int,
    left_out: int = 0,
) -> Outcome:
    """Ask the model everything and score it, as one task.

    Args:
        tasks: of the same metrics.
        name: that the scores carry.
        model: to ask.
        limit: items of each task, None for all.
        shots: that were asked for, for the notes.
        left_out: items that are in no task.
    """
    found = ask(tasks, model, limit)
    count = {key: len({request.doc_id for request in tasks[key].instances}) for key in tasks}
    of = left_out + sum(len(task.eval_docs) for task in tasks.values())
    metrics = [key for key in found[next(iter(tasks))] if is_value(key, found[next(iter(tasks))])]
    scores = []
    for metric in metrics:
        items = sum(count.values())
        value = sum(float(found[key][metric]) * count[key] for key in tasks) / items
        stderr = found[next(iter(tasks))].get(metric.replace(",", "_stderr,"))
        if len(tasks) > 1:  # every item scores 0 or 1, so the pooled error follows from the mean
            stderr = math.sqrt(value * (1 - value) / (items - 1)) if items > 1 else None
        scores.append(Score(name, said(metric), value, number(stderr), items, of))
    notes = _notes(tasks.values(), shots)
    if left_out:
        notes.append(
            f"{left_out} items are left out: an answer of theirs is longer than the context of "
            f"{model.max_length} tokens."
        )
    return Outcome(scores, prompt_hash(tasks.values()), notes)


def ask(tasks: Mapping[str, Task], model: ReleasedModel, limit: int | None) -> dict[str, Any]:
    """The harness's own table of results, by task or group; items are kept nowhere."""
    random.seed(SEED)
    np.random.seed(SEED)  # noqa: NPY002  (the harness draws from the global one)
    torch.manual_seed(SEED)
    found = evaluator.evaluate(
        lm=model, task_dict=tasks, limit=limit, bootstrap_iters=RESAMPLES, log_samples=False
    )
    results: dict[str, Any] = found["results"]
    return results


def is_value(key: str, found: Mapping[str, Any]) -> bool:
    """Whether a key of a task's results is a metric, not an error, a name or a count."""
    return "," in key and "_stderr," not in key and isinstance(found[key], int | float)


def said(metric: str) -> str:
    """The harness's `exact_match,strict` as `exact_match (strict)`; its filter `none` goes."""
    name, _, filtered = metric.partition(",")
    return name if filtered in ("none", "letter") else f"{name} ({filtered})"


def number(value: Any) -> float | None:
    """A number, None for what the harness writes where there is none."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def prompt_hash(tasks: Iterable[Task]) -> str:
    """See `Outcome.prompt_xxh3`."""
    state = xxhash.xxh3_64()
    for task in tasks:
        for request in task.instances:
            scored = request.args[1] if len(request.args) > 1 else ""
            for text in (request.args[0], scored if isinstance(scored, str) else ""):
                state.update(text.encode("utf-8") + b"\0")
    return state.hexdigest()


def _notes(tasks: Iterable[Task], shots: int) -> list[str]:
    fitted = [task for task in tasks if isinstance(task, FittedTask)]
    prompts = sum(len({request.doc_id for request in task.instances}) for task in fitted)
    shortened, cut = sum(task.shortened for task in fitted), sum(task.cut for task in fitted)
    notes = []
    if shortened:
        notes.append(
            f"{shortened} of {prompts} prompts hold fewer than {shots} examples, as many as "
            f"fit the context of {fitted[0].model.max_length} tokens."
        )
    if cut:
        notes.append(f"{cut} of {prompts} prompts lost their beginning even without examples.")
    return notes


def _by_subject(rows: Rows) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(str(row.get("subject", "")), []).append(row)
    return found


def _write(path: Path, rows: Rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)
