"""The recipe's table `[measure]`: how a run is measured."""

from __future__ import annotations

from dataclasses import dataclass

from alpenglow.config import ConfigError

LEAST_PERIOD_S = 0.01


@dataclass(frozen=True)
class MeasureRecipe:
    """Spans kept, samples of the nodes, and kernel traces on demand."""

    spans_every: int = 10
    """Each rank's spans are kept of each step whose number this divides, of a segment's first two
    and around steps of unusual length; 1 keeps all. Sums by kind are kept of every step."""
    sample_seconds: float = 1.0
    """Seconds between two samples of a node (power, energy, clocks, memory, busy cores) in
    `samples/`; 0 samples nothing."""
    trace_ranks: tuple[int, ...] = (0,)
    """Ranks that write a kernel trace where one is asked for; one a pipeline stage says most."""
    trace_steps: tuple[int, ...] = ()
    """First step (1-based) and number of steps to trace; empty: none, until a file TRACE in the
    run directory asks for one."""

    def __post_init__(self) -> None:
        if self.spans_every < 1:
            raise ConfigError(
                f"measure.spans_every = {self.spans_every}: at least 1, which keeps every step"
            )
        if self.sample_seconds and not self.sample_seconds >= LEAST_PERIOD_S:
            raise ConfigError(
                f"measure.sample_seconds = {self.sample_seconds}: 0 for none, "
                f"or at least {LEAST_PERIOD_S}"
            )
        if any(rank < 0 for rank in self.trace_ranks):
            raise ConfigError(f"measure.trace_ranks = {list(self.trace_ranks)}: ranks count from 0")
        steps = self.trace_steps
        if steps and (len(steps) != 2 or min(steps) < 1):
            raise ConfigError(
                f"measure.trace_steps = {list(steps)}: the first step (from 1) and how many, "
                "or nothing"
            )
        if steps and not self.trace_ranks:
            raise ConfigError(
                f"measure.trace_steps = {list(steps)} with no measure.trace_ranks: name a rank"
            )
