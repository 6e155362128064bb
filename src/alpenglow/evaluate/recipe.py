"""What to evaluate: the recipe of jobs/evaluate.toml."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from alpenglow.config import ConfigError
from alpenglow.evaluate.implementations import BENCHMARKS, IMPLEMENTATIONS


@dataclass(frozen=True)
class PerplexityRecipe:
    """Which of the run's windows are read; see `alpenglow.evaluate.held_out`."""

    windows: int = 256
    """Windows of each slice; 0 leaves perplexity out."""
    samples: int | None = None
    """Samples of the whole validation stream; what the run's own evaluations read if absent."""
    slices: tuple[str, ...] = ()
    """Only these slices; all of the run's mixture if empty."""
    held_out: bool = True
    """False: text that training read, where a run held nothing out; results say so."""

    def __post_init__(self) -> None:
        if self.windows < 0 or (self.samples or 0) < 0:
            raise ConfigError(
                f"perplexity: windows = {self.windows} and samples = {self.samples} must not be "
                "negative"
            )


@dataclass(frozen=True)
class EvaluateRecipe:
    """One evaluation of one model."""

    run: Path = Path("runs/pretrain_7b")
    """Run directory; ALPENGLOW_RUN goes before it."""
    model: Path | None = None
    """Hugging Face folder; RUN/release/huggingface if absent."""
    benchmarks: Path = Path("benchmarks")
    """Folder of the benchmarks' files; see `alpenglow.evaluate.items`."""
    tasks: tuple[str, ...] = tuple(BENCHMARKS)
    """`mmlu`, `gsm8k`, and names of tasks in the harness's own files."""
    implementations: tuple[str, ...] = tuple(IMPLEMENTATIONS)
    """Ways to score MMLU; a number without its way says nothing."""
    include_path: Path | None = None
    """Folder of the user's own task files, for names in `tasks`."""
    shots: Mapping[str, int] = field(default_factory=dict)
    """Task -> solved examples in a prompt; 5 for MMLU and GSM8K, the task file's for others."""
    limit: int | None = None
    """First items of each subject (of all where no subject is known); results say it is a part."""
    batch_size: int = 8
    """Prompts, and windows of perplexity, computed at a time."""
    dtype: Literal["auto", "fp32", "fp16", "bf16"] = "auto"
    """To compute in; "auto": the released one on a GPU, fp32 on a CPU."""
    device: str = "auto"
    """"auto": the first GPU where there is one; or "cpu", "cuda", "cuda:1"."""
    again: bool = False
    """Evaluate anew what evaluation.json has of the same weights, versions, shots and items."""
    perplexity: PerplexityRecipe = field(default_factory=PerplexityRecipe)
    output: Path | None = None
    """Where the results go; evaluation.json in the model's folder if absent."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError(f"batch_size = {self.batch_size}: 1 or more")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"limit = {self.limit}: 1 or more, or leave it out")
        for name in self.implementations:
            if name not in IMPLEMENTATIONS:
                near = difflib.get_close_matches(name.lower(), IMPLEMENTATIONS, n=1, cutoff=0.3)
                known = ", ".join(map(repr, IMPLEMENTATIONS))
                cure = f"did you mean {near[0]!r}?" if near else f"choose from {known}"
                raise ConfigError(f"implementations: no implementation {name!r} of MMLU; {cure}")
        for name, count in self.shots.items():
            if name not in self.tasks and name not in BENCHMARKS:
                raise ConfigError(
                    f"shots.{name}: {name} is not one of tasks ({', '.join(self.tasks)})"
                )
            if count < 0:
                raise ConfigError(f"shots.{name} = {count} must not be negative")
