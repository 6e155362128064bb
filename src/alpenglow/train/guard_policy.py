"""The recipe's table `[guard]`: what a run does when a step, a rank or a clock goes wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from alpenglow.config import ConfigError


@dataclass(frozen=True)
class GuardRecipe:
    """Policies of the guard (`alpenglow.train.guard`) and the watchdog."""

    nonfinite: Literal["rerun-then-skip", "stop"] = "rerun-then-skip"
    """A step whose fp32 or bf16 gradients are not finite is run once more from the same state; if
    they are again not finite, its samples are skipped and recorded, or the run stops. In fp16 an
    overflow is the dynamic loss scale's business."""
    skip: tuple[tuple[int, ...], ...] = ()
    """Ranges of samples, first and last, that are passed over. A step is skipped whole if any of
    its samples lies in a range: samples keep their numbers when the global batch changes, steps
    do not."""
    spike: Literal["off", "tell", "rewind"] = "tell"
    """A loss far above the recent ones is told, or also answered: back to the newest checkpoint
    before it, and on without the batches around it. `rewind` changes what is learnt and a false
    alarm costs the steps since that checkpoint, so it is asked for, never the default."""
    spike_threshold: float = 10.0
    """Robust standard deviations (1.4826 x median absolute deviation) above the median."""
    spike_window: int = 100
    """Steps that median and deviation are taken over."""
    spike_before: int = 100
    """Steps before the spike that are skipped as well; this and the next as PaLM did: back by about
    100 steps, 200 to 500 batches left out (arXiv 2204.02311, section 5.1)."""
    spike_after: int = 100
    """Steps after the spike that are skipped as well."""
    verify_every: int = 0
    """Steps between cross-checks: all data-parallel replicas compute one and the same micro-batch,
    and their losses and gradients must agree bit for bit; 0 is never."""
    corruption: Literal["tell", "stop"] = "tell"
    """What follows a cross-check that disagrees."""
    slow_every: int = 50
    """Steps of a window in which each rank's computing time is summed; 0 compares never."""
    slow_factor: float = 1.25
    """How many times the median of its stage's ranks makes a rank slow."""
    slow_windows: int = 3
    """Windows in a row after which a slow rank is named."""
    hang_s: float = 300.0
    """Seconds without progress inside a step after which the watchdog ends the job; 0 is never.
    Start, first step and checkpoints have `train.collective_timeout_s`."""

    def __post_init__(self) -> None:
        for pair in self.skip:
            if len(pair) != 2 or not 0 <= pair[0] <= pair[1]:
                raise ConfigError(
                    f"guard.skip holds {list(pair)}: a range is two sample numbers, "
                    "the first not above the last"
                )
        for name in ("spike_before", "spike_after", "verify_every", "slow_every", "hang_s"):
            if getattr(self, name) < 0:
                raise ConfigError(f"guard.{name} = {getattr(self, name)}: it must not be negative")
        for name, least in (
            ("spike_threshold", 1.0),
            ("spike_window", 8),
            ("slow_factor", 1.0),
            ("slow_windows", 1),
        ):
            if getattr(self, name) < least:
                raise ConfigError(
                    f"guard.{name} = {getattr(self, name)}: it must be at least {least:g}"
                )
