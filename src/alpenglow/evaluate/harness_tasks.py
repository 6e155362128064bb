"""Tasks that are not ours: by name, from the harness's files or the user's."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager

from alpenglow.evaluate.benchmark import (
    SEED,
    Outcome,
    Score,
    ask,
    is_value,
    number,
    prompt_hash,
    said,
)
from alpenglow.evaluate.error import EvaluateError
from alpenglow.evaluate.implementations import BENCHMARKS
from alpenglow.evaluate.released_model import ReleasedModel


def find(names: Sequence[str], include_path: Path | None) -> TaskManager:
    """The harness's index of tasks, which must hold all of `names`.

    Raises:
        EvaluateError: no such folder, or no task of that name; the nearest one is named.
    """
    if include_path is not None and not include_path.is_dir():
        raise EvaluateError(f"include_path = {include_path}: no such folder of task files")
    manager = _index(include_path)
    for name in names:
        if name not in manager.all_tasks:
            near = difflib.get_close_matches(name, [*BENCHMARKS, *manager.all_tasks], n=1)
            cure = f"did you mean {near[0]}?" if near else "name its folder in include_path"
            raise EvaluateError(f"tasks: the harness has no task {name}; {cure}")
    return manager


@functools.cache
def _index(include_path: Path | None) -> TaskManager:
    """Reads all of the harness's thousands of task files, which takes seconds."""
    return TaskManager(include_path=None if include_path is None else str(include_path))


def load(name: str, manager: TaskManager, shots: int | None) -> dict[str, Task]:
    """The task of a name, or all of a group, with their data; nothing is downloaded.

    Raises:
        EvaluateError: the data are not on this machine, or the task file does not fit them.
    """
    try:
        tasks: dict[str, Task] = manager.load([name])["tasks"]
    except Exception as error:
        # Jinja, datasets and the task's own code raise what they like; what they say may quote an
        # item, so only a missing file is passed on.
        reason = error if isinstance(error, FileNotFoundError | ConnectionError) else ""
        kind = type(error).__name__
        raise EvaluateError(
            f"task {name}: the harness cannot load it without a network ({kind}"
            f"{f': {reason}' if reason else ''}); keep its data on this machine and name them in a "
            "task file of include_path"
        ) from None
    for task in tasks.values():
        if shots is not None:
            task.set_config(key="num_fewshot", value=shots)
        elif task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=SEED)
    return tasks


def run(task: Task, name: str, model: ReleasedModel, limit: int | None) -> Outcome:
    """Score one task as its file says.

    Prompts are not fitted: the harness cuts their beginning, and a note says of how many.
    """
    found = ask({name: task}, model, limit)[name]
    prompts = len({request.doc_id for request in task.instances})
    scores = [
        Score(
            name,
            said(key),
            float(found[key]),
            number(found.get(key.replace(",", "_stderr,"))),
            prompts,
            len(task.eval_docs),
        )
        for key in found
        if is_value(key, found)
    ]
    cut = {request.doc_id for request in task.instances if _is_cut(request.args, model)}
    notes = [f"{len(cut)} of {prompts} prompts lost their beginning."] if cut else []
    return Outcome(scores, prompt_hash([task]), notes)


def _is_cut(arguments: tuple[Any, ...], model: ReleasedModel) -> bool:
    """Whether the harness shortens this request; a text read in windows (one argument) never is."""
    if len(arguments) < 2:
        return False
    context, scored = arguments[:2]
    if isinstance(scored, str):
        return bool(model.length(context + scored) > model.max_length + 1)
    tokens = int(scored.get("max_gen_toks") or model.max_gen_toks)
    return bool(model.length(context) + tokens > model.max_length)
