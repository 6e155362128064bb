"""The recipe's table `[precision]`: arithmetic, and the loss scale that fp16 needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from alpenglow.train.parallel_recipe import positive

DType = Literal["auto", "fp32", "fp16", "bf16"]


@dataclass(frozen=True)
class PrecisionRecipe:
    """Arithmetic of forward and backward, and the dynamic loss scale that fp16 needs.

    The loss-scale defaults are those of the Pythia runs (EleutherAI/pythia, models/*.yml).
    """

    dtype: DType = "auto"
    """`auto`: fp32 on a CPU, bf16 on a GPU that has it, fp16 with a loss scale on a V100."""
    initial_scale_power: int = 12
    """The first loss scale is two to this power."""
    loss_scale_window: int = 1000
    """Steps without overflow after which the loss scale doubles."""
    hysteresis: int = 2
    """Overflows that are let pass before the loss scale is halved."""
    min_loss_scale: float = 1.0
    fp32_gradients: bool = False
    """Sum the micro-batches' gradients in fp32, at 4 bytes a parameter for fp16's 2; bf16 always
    does."""

    def __post_init__(self) -> None:
        positive(
            "precision",
            loss_scale_window=self.loss_scale_window,
            hysteresis=self.hysteresis,
            min_loss_scale=self.min_loss_scale,
        )
