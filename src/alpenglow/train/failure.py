"""How a rank ends badly: one sentence, and at once, so that no peer waits for it.

The cause is told by the rank that met it. A peer that only notices the loss says that, so that a
job's error file holds one cause and its consequences instead of a thousand tracebacks. What nobody
foresaw keeps its traceback in a file of the run directory.
"""

from __future__ import annotations

import os
import re
import sys
import time
import traceback
from pathlib import Path
from typing import NoReturn

from alpenglow.train import output

FAILED = 1
"""Exit code of a rank that failed."""
PATIENCE_S = 10.0
"""How long a rank leaves rank 0 to say what they all know."""

# What gloo, NCCL and torch's store say when another rank is gone.
_LOST = (
    "connection closed by peer",
    "connection reset by peer",
    "broken pipe",
    "connection refused",
    "socket closed",
    "recvvalue failed",
    "remote process exited",
    "nccl communicator was aborted",
    "sendbytes failed",
)
# gloo begins a sentence with the line of its source that says it.
_SOURCE_LINE = re.compile(r"\[/[^\]]*\] *")
_SILENT = ("timed out", "timeout")
_MINIMUM_SCALE = "loss scale already at minimum"


class TrainingError(RuntimeError):
    """Training that cannot go on, raised by every rank alike; one sentence for the user."""


def tell(sentence: str) -> None:
    """Write one sentence to stderr."""
    output.err().write(f"alpenglow.train: {sentence}\n")
    output.err().flush()


def tell_once(sentence: str, rank: int) -> None:
    """Write a sentence that every rank has, from rank 0 alone.

    The others wait for it: a launcher ends all ranks when the first is gone, and rank 0 may be the
    last to come up.
    """
    if rank == 0:
        tell(sentence)
    else:
        time.sleep(PATIENCE_S)


def explain(error: BaseException) -> tuple[str, bool]:
    """Say what happened in one sentence, with what was noted beside the error.

    Returns:
        The sentence, and whether it explains everything (no traceback is worth keeping).
    """
    notes = getattr(error, "__notes__", [])
    if lost_peer(error) and notes:
        return "lost a peer: " + "; ".join(notes), True
    sentence, whole = _explain(error)
    return "; ".join([sentence, *notes]), whole


def lost_peer(error: BaseException) -> bool:
    """Whether this is how the end of another rank shows."""
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(mark in text for mark in _LOST)


def _explain(error: BaseException) -> tuple[str, bool]:
    text = _SOURCE_LINE.sub("", " ".join(str(error).split()))
    low = text.lower()
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", True
    if lost_peer(error):
        return f"lost a peer, which ended first and says why ({text[:120]})", True
    if _MINIMUM_SCALE in low:
        return (
            "gradients overflow at the smallest loss scale, so training has diverged: resume from "
            "an earlier checkpoint, lower optimizer.lr, or set precision.dtype"
        ), True
    if isinstance(error, RuntimeError) and any(mark in low for mark in _SILENT):
        return (
            f"a peer stayed silent for longer than train.collective_timeout_s ({text[:120]})",
            True,
        )
    if type(error).__module__.partition(".")[0].startswith("alpenglow"):
        return text, True  # our own errors are sentences for the user
    return f"{type(error).__name__}: {text[:300]}", False


def end_hard(error: BaseException, rank: int, errors: Path | None) -> NoReturn:
    """Print one sentence and leave the process; does not return.

    Args:
        error: what ended this rank.
        rank: global rank.
        errors: folder for the traceback of an unforeseen error; None where there is no run yet.
    """
    sentence, whole = explain(error)
    if not whole:
        kept = _keep_traceback(error, rank, errors)
        if kept is None:
            output.err().write(output.early_text())
            traceback.print_exception(error, file=output.err())
        else:
            printed = output.kept()
            libraries = "" if printed is None else f"; what the libraries printed in {printed}"
            sentence += f" (traceback in {kept}{libraries})"
    if _alike(error):
        tell_once(sentence, rank)
    else:
        tell(f"rank {rank}: {sentence}")
    for stream in (sys.stdout, sys.stderr, output.out(), output.err()):
        stream.flush()
    # Interpreter shutdown would wait for communication threads that wait for peers.
    os._exit(FAILED)


def _alike(error: BaseException) -> bool:
    """Whether every rank raises this same error, so that one of them tells it."""
    return type(error).__name__ in ("TrainingError", "CheckpointError")


def _keep_traceback(error: BaseException, rank: int, errors: Path | None) -> Path | None:
    if errors is None:
        return None
    path = errors / f"rank-{rank:05d}.txt"
    try:
        errors.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    except OSError:
        return None
    return path
