"""Everything a recipe asks, one part after another; what is measured is on disk after each part."""

from __future__ import annotations

import logging
import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from alpenglow.evaluate import benchmark, harness_tasks
from alpenglow.evaluate.error import EvaluateError
from alpenglow.evaluate.evaluation_file import NAME, Evaluation, model_facts
from alpenglow.evaluate.held_out import HeldOut, RunText, token_bytes
from alpenglow.evaluate.implementations import BENCHMARKS, HARNESS, SHOTS
from alpenglow.evaluate.items import read_gsm8k, read_mmlu
from alpenglow.evaluate.progress import Progress
from alpenglow.evaluate.recipe import EvaluateRecipe
from alpenglow.evaluate.released_model import ReleasedModel

log = logging.getLogger("alpenglow.evaluate")


@dataclass(frozen=True)
class _Items:
    """What one of our benchmarks asks."""

    asked: Sequence[Mapping[str, Any]]
    examples: Sequence[Mapping[str, Any]]
    shots: int

    def count(self, limit: int | None) -> int:
        """Items within the limit, which holds for each subject."""
        subjects: dict[str, int] = {}
        for item in self.asked:
            subject = item.get("subject", "")
            subjects[subject] = subjects.get(subject, 0) + 1
        return sum(n if limit is None else min(n, limit) for n in subjects.values())


def evaluate(recipe: EvaluateRecipe) -> tuple[Path, Evaluation]:
    """Do what the recipe says; returns where the results lie, and all of them.

    Everything that can be wrong with files is found before the model is loaded.

    Raises:
        EvaluateError: model, benchmarks or run are absent or do not fit.
        ConfigError, CatalogueError, OrderError, ShardError: the run's shards are not those of its
            recipe, or not whole.
    """
    folder = recipe.model or recipe.run / "release" / "huggingface"
    output = recipe.output or folder / NAME
    items = {name: _read(name, recipe) for name in recipe.tasks if name in BENCHMARKS}
    others = [name for name in recipe.tasks if name not in BENCHMARKS]
    loaded = {}
    if others:
        index = harness_tasks.find(others, recipe.include_path)
        loaded = {name: harness_tasks.load(name, index, recipe.shots.get(name)) for name in others}
    text = _run_text(recipe)
    model = ReleasedModel(
        folder, dtype=recipe.dtype, device=recipe.device, batch_size=recipe.batch_size
    )
    if not output.parent.is_dir():
        raise EvaluateError(f"{output.parent}: no such folder for the results")
    file = Evaluation.open(output, model_facts(folder))
    log.info("%s: %s, %d tokens of context", folder, model.computed_in, model.max_length)
    parts = [(name, way) for name in items for way in _ways(name, recipe)]
    progress = Progress(recipe.run, len(parts) + len(others) + (text is not None))
    step = _Step(recipe, model, file, output, progress)
    try:
        for name, way in parts:
            step.ours(name, way, items[name])
        for name, tasks in loaded.items():
            for own, task in tasks.items():
                step.other(own, task)
            progress.ended(name)
        if recipe.perplexity.windows:
            step.perplexity(text)
    except torch.cuda.OutOfMemoryError:
        raise EvaluateError(
            f"{folder}: the GPU's memory is full at batch_size = {recipe.batch_size}; lower it, or "
            "compute in fp16"
        ) from None
    file.write(output)
    progress.ended("evaluated")
    return output, file


@dataclass(frozen=True)
class _Step:
    """What every part works with."""

    recipe: EvaluateRecipe
    model: ReleasedModel
    file: Evaluation
    output: Path
    progress: Progress

    def ours(self, name: str, way: str, items: _Items) -> None:
        """One benchmark of ours in one implementation."""
        recipe, text = self.recipe, f"{name}, {way}"
        count = items.count(recipe.limit)
        wanted: dict[str, Any] = {"shots": items.shots, "items": count, "of": len(items.asked)}
        wanted |= {"computed": self.model.computed_in}
        if not recipe.again and self.file.has(name, way, **wanted):
            log.info("%s: kept as it is in %s; again=true evaluates anew", text, self.output)
            self.progress.ended(text)
            return
        self.model.told = self.progress.part(text, "rows")
        with _folder() as folder:
            tasks, left_out = benchmark.build(
                name, way, items.asked, items.examples,
                shots=items.shots, model=self.model, folder=folder,
            )  # fmt: skip
            outcome = benchmark.run(tasks, name, self.model, recipe.limit, items.shots, left_out)
        notes = list(outcome.notes)
        if name == "mmlu" and not any(item["subject"] for item in items.asked):
            header = "" if way == "whole answer" else "headers name none and "
            notes.append(
                f"the files name no subjects, so {header}all prompts hold the same examples, the "
                "first of the split dev."
            )
        generated = next(iter(tasks.values())).config.generation_kwargs
        if way == "helm" and generated["max_gen_toks"] > 1:
            notes.append(
                f"{generated['max_gen_toks']} tokens are generated, since this tokenizer has no "
                "token for a space and a letter."
            )
        if name == "gsm8k":
            notes.append(f"a solution has at most {generated['max_gen_toks']} tokens.")
        about = BENCHMARKS[name][way].about
        self._keep(outcome, name, way, about, items.shots, notes)
        self.progress.ended(text)

    def other(self, name: str, task: Any) -> None:
        """One task of the harness's own files or the user's."""
        self.model.told = self.progress.part(name, "rows")
        outcome = harness_tasks.run(task, name, self.model, self.recipe.limit)
        shots = int(task.get_config("num_fewshot") or 0)
        about = "As the harness's task file says."
        self._keep(outcome, name, HARNESS, about, shots, outcome.notes)

    def perplexity(self, text: RunText | None) -> None:
        """The run's held-out windows."""
        opening = "perplexity: "
        if text is None:
            self.file.perplexity = []
            why = "the run held no text out (data.validation_fraction = 0), so none is given."
            self.file.say(opening, [why])
            log.warning("%s%s", opening, why)
            return
        vocabulary = self.model.model.config.vocab_size
        reader = HeldOut(
            self.model.model,
            text,
            self.recipe.perplexity,
            token_bytes(self.model.tokenizer, vocabulary),
            self.recipe.batch_size,
            self.progress.part("perplexity", "windows"),
        )
        rows, notes = reader.losses()
        self.file.perplexity = [row.fields() for row in rows]
        self.file.say(opening, [f"computed in {self.model.computed_in}.", *notes])

    def _keep(
        self,
        outcome: benchmark.Outcome,
        name: str,
        way: str,
        about: str,
        shots: int,
        notes: Sequence[str],
    ) -> None:
        results = [
            {
                "task": score.task,
                "implementation": way,
                "about": about,
                "metric": score.metric,
                "value": score.value,
                "stderr": score.stderr,
                "shots": shots,
                "items": score.items,
                "of": score.of,
                "prompt_xxh3": outcome.prompt_xxh3,
                "computed": self.model.computed_in,
            }
            for score in outcome.scores
        ]
        self.file.replace(name, way, results, notes)
        self.file.write(self.output)
        for note in notes:
            log.warning("%s, %s: %s", name, way, note)


def _ways(name: str, recipe: EvaluateRecipe) -> Sequence[str]:
    return recipe.implementations if name == "mmlu" else list(BENCHMARKS[name])


def _read(name: str, recipe: EvaluateRecipe) -> _Items:
    shots = recipe.shots.get(name, SHOTS)
    if name == "mmlu":
        asked = [item.fields() for item in read_mmlu(recipe.benchmarks, "test")]
        solved = [item.fields() for item in read_mmlu(recipe.benchmarks, "dev")] if shots else []
        return _Items(asked, solved, shots)
    problems = read_gsm8k(recipe.benchmarks, "test")
    return _Items(problems, read_gsm8k(recipe.benchmarks, "train") if shots else [], shots)


def _run_text(recipe: EvaluateRecipe) -> RunText | None:
    """The run's text; None where nothing is asked of it, or it held nothing out."""
    if not recipe.perplexity.windows:
        return None
    text = RunText.of(recipe.run)
    if recipe.perplexity.held_out and not text.data.validation_fraction:
        return None
    return text


@contextmanager
def _folder() -> Iterator[Path]:
    """A private folder for the items on their way to the harness; it goes with all its content.

    Also when the scheduler ends the job: its SIGTERM is no exception here, which a library in
    between might catch.
    """
    with tempfile.TemporaryDirectory(prefix="alpenglow-evaluate-") as folder:

        def end(number: int, _frame: object) -> None:
            shutil.rmtree(folder, ignore_errors=True)
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

        former = signal.signal(signal.SIGTERM, end)
        try:
            yield Path(folder)
        finally:
            signal.signal(signal.SIGTERM, former)
