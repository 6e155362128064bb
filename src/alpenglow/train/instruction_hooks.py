"""Looking on while the engine works: what is called before and after each pipeline instruction.

A hook sits on the engine's own table, whatever class it has and whatever schedule it runs, and
changes nothing of what an instruction does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol

Method = Callable[..., Any]


class InstructionHook(Protocol):
    """What looks on."""

    def enter(self, name: str, micro_batch: int) -> None:
        """An instruction of this name begins; `micro_batch` counts from 0 within the schedule."""

    def leave(self, name: str) -> None:
        """It has ended; not called where it raised."""


def add_hook(engine: Any, hook: InstructionHook) -> None:
    """Let `hook` look on from the engine's next step on, outside of the hooks added before it.

    Args:
        engine: DeepSpeed's pipeline engine or a subclass; its instruction table is replaced on the
            instance, the class keeps its own.
        hook: what looks on.
    """
    counts: Counter[str] = Counter()
    execute = engine._exec_schedule

    def fresh(schedule: Any) -> None:
        counts.clear()
        execute(schedule)

    engine._exec_schedule = fresh
    engine._INSTRUCTION_MAP = {
        instruction: _hooked(instruction.__name__, method, hook, counts)
        for instruction, method in engine._INSTRUCTION_MAP.items()
    }


def _hooked(name: str, method: Method, hook: InstructionHook, counts: Counter[str]) -> Method:
    def run(engine: Any, **arguments: Any) -> None:
        hook.enter(name, counts[name])
        counts[name] += 1
        method(engine, **arguments)
        hook.leave(name)

    return run
