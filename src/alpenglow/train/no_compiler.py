"""Start-up without torch's compiler, which training never uses.

Making any optimizer imports torch._dynamo, and DeepSpeed imports a Muon optimizer whose decorators
import torch._inductor: 3.3 s of CPU time a rank, 13 s for eight ranks on two cores. Both happen
only to wrap functions that are then called as they are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.optim
import torch.utils.checkpoint


def _unwrapped(function: Any = None, **_: Any) -> Any:
    """Stand for `torch.compile(function)` and for `torch.compile(...)` used as a decorator."""
    return function if function is not None else lambda inner: inner


@contextlib.contextmanager
def without_compiler() -> Iterator[None]:
    """Let nothing inside load torch's compiler; no harm where torch changed and it loads anyway."""
    wrapped: list[Callable[..., Any]] = [*vars(torch.optim.Optimizer).values()]
    wrapped.append(torch.utils.checkpoint.checkpoint)
    for method in wrapped:
        function = getattr(method, "__wrapped__", None)
        # torch._compile caches here what torch._dynamo.disable gives; outside of a compiled
        # function that is the function itself.
        if getattr(method, "__module__", "").startswith("torch.") and function is not None:
            vars(function).setdefault("__dynamo_disable", function)
    original = torch.compile
    torch.compile = _unwrapped  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compile = original
