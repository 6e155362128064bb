"""Where a rank speaks to the user: our sentences on stdout and stderr, the libraries' in a file.

    divert()                        # before torch and DeepSpeed are imported
    keep(run.logs / "node00.txt")   # once there is a run directory
    say("step 1/6 ...")             # still reaches the terminal

DeepSpeed prints and logs, torch warns, gloo and NCCL write to stderr from C++: only the file
descriptors themselves are common to them all. So descriptors 1 and 2 lead to the file, and what is
ours goes to copies of the former ones. What ends a rank still reaches the user: an exception by
`alpenglow.train.failure`, a crash in native code by faulthandler, a thread's by `threading`.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO, TextIO

# Loggers of ours: their warnings are for the user.
_OURS = ("alpenglow", "alpenglow_lsf", "alpenglow_profiling")


class _Diversion:
    """The user's two streams, and the file where descriptors 1 and 2 lead."""

    def __init__(self) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self.out = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="backslashreplace")
        self.err = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="backslashreplace")
        # Until there is a run directory, in a file without a name: bad input leaves nothing behind.
        self.early: IO[bytes] | None = tempfile.TemporaryFile()  # noqa: SIM115 - outlives this call
        self.path: Path | None = None
        self.lead(self.early.fileno())

    def lead(self, descriptor: int) -> None:
        """Let everything that is not ours go to an open file."""
        for name, number in (("stdout", 1), ("stderr", 2)):
            stream = getattr(sys, name)
            stream.flush()
            os.dup2(descriptor, number)


_diversion: _Diversion | None = None


def divert() -> None:
    """Lead descriptors 1 and 2 away from the user; a second call changes nothing."""
    global _diversion  # noqa: PLW0603 - the descriptors are the process's as well
    if _diversion is not None:
        return
    _diversion = _Diversion()
    for name in ("stdout", "stderr"):
        # A rank may be killed: lines do not wait in a buffer.
        stream = getattr(sys, name)
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(line_buffering=True)
    handler = logging.StreamHandler(_diversion.err)
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    for logger in _OURS:
        logging.getLogger(logger).addHandler(handler)
        logging.getLogger(logger).propagate = False
    # A segmentation fault or an abort in C++ says where Python stood, on the user's stderr.
    faulthandler.enable(_diversion.err, all_threads=False)
    threading.excepthook = _thread_failed


def keep(path: Path) -> None:
    """From now on the libraries write to this file, which ranks of a node may share.

    Does nothing unless diverted.

    Raises:
        OSError: the file cannot be opened.
    """
    if _diversion is None or _diversion.early is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # Appending: lines of several ranks follow each other, and none is overwritten.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        _diversion.lead(descriptor)
        os.write(descriptor, early_text().encode())
    finally:
        os.close(descriptor)
    _diversion.early.close()
    _diversion.early, _diversion.path = None, path


def kept() -> Path | None:
    """The libraries' file; None where there is none."""
    return None if _diversion is None else _diversion.path


def early_text() -> str:
    """What the libraries printed while they had no file yet."""
    if _diversion is None or _diversion.early is None:
        return ""
    sys.stdout.flush()
    sys.stderr.flush()
    _diversion.early.seek(0)
    return _diversion.early.read().decode("utf-8", "replace")


def diverted() -> bool:
    """Whether the libraries may print as they like."""
    return _diversion is not None


def out() -> TextIO:
    """The user's stdout."""
    return sys.stdout if _diversion is None else _diversion.out


def err() -> TextIO:
    """The user's stderr."""
    return sys.stderr if _diversion is None else _diversion.err


def say(text: str) -> None:
    """Write a line, or several, to the user's stdout."""
    stream = out()
    stream.write(text if text.endswith("\n") else text + "\n")
    stream.flush()


def _thread_failed(arguments: threading.ExceptHookArgs) -> None:
    if arguments.exc_type is SystemExit:
        return
    name = arguments.thread.name if arguments.thread else "?"
    text = " ".join(str(arguments.exc_value).split())
    where = f" (traceback in {kept()})" if kept() else ""
    stream = err()
    stream.write(
        f"alpenglow.train: thread {name}: {arguments.exc_type.__name__}: {text[:300]}{where}\n"
    )
    stream.flush()
    threading.__excepthook__(arguments)
