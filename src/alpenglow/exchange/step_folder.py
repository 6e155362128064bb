"""Which step a folder of DeepSpeed's or GPT-NeoX's is of.

Both write `global_stepN/` and beside it `latest`, which names the newest. This module is imported,
never started.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from alpenglow.exchange.error import ExchangeError
from alpenglow.exchange.saved_file import read

_ENGINE = re.compile(r"mp_rank_(\d+)_model_states\.pt")
_TAG = re.compile(r"global_step(\d+)(?:_universal)?")


def tagged(folder: Path, latest: str = "latest") -> Path:
    """The folder of one step: this one, or the one that its `latest` names.

    Raises:
        ExchangeError: the folder that `latest` names is not there.
    """
    named = folder / latest
    held = any(folder.glob("mp_rank_*")) or any(folder.glob("layer_*-model_*"))
    if held or not named.is_file() or (folder / "zero").is_dir():
        return folder
    inner = folder / Path(named.read_text(encoding="utf-8").strip()).name
    if not inner.is_dir():
        raise ExchangeError(f"{named}: it names {inner.name}, which is not there")
    return inner


def engine_files(folder: Path) -> list[Path]:
    """`mp_rank_XX_model_states.pt` in order of rank."""
    found = [path for path in folder.iterdir() if _ENGINE.fullmatch(path.name)]
    return sorted(found, key=engine_rank)


def engine_rank(path: Path) -> int:
    """The rank in an engine file's name: stage x tensor degree + tensor rank."""
    return int(_ENGINE.sub(r"\1", path.name))


def engine_state(path: Path) -> dict[str, Any]:
    """What an engine file says.

    Raises:
        ExchangeError: unreadable, or not a dict.
    """
    body = read(path)
    if not isinstance(body, dict):
        raise ExchangeError(f"{path}: not an engine state of DeepSpeed")
    return body


def step_of(folder: Path) -> int | None:
    """The step that the folder's name and all its engine files agree on; None if none says one.

    GPT-NeoX's `iteration` (`total_iters` in old files) goes before DeepSpeed's `global_steps`.

    Raises:
        ExchangeError: two of them are of different steps, or an engine file is unreadable.
    """
    named = _TAG.fullmatch(folder.resolve().name)
    step, said = (int(named.group(1)), "the folder's name") if named else (None, "")
    for path in engine_files(folder):
        body = engine_state(path)
        keys = ("iteration", "total_iters", "global_steps")
        found = next((body[key] for key in keys if isinstance(body.get(key), int)), None)
        if found is None:
            continue
        if step is not None and found != step:
            raise ExchangeError(
                f"{path}: of step {found}, but {said} says {step}: files of two checkpoints are "
                "mixed here"
            )
        step, said = int(found), path.name
    return step
