"""Runs a command beneath this process as if this process were it: signals down, exit code up."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from types import FrameType

FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGURG)
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def run_beneath(command: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run a command to its end.

    Returns:
        Its exit code; 128 + the signal's number where a signal ended it.

    Raises:
        OSError: the command cannot be started.
    """
    child: subprocess.Popen[bytes] | None = None
    early: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        if child is None:
            early.append(number)
        elif child.returncode is None:
            child.send_signal(number)

    old = {number: signal.signal(number, forward) for number in FORWARDED}
    try:
        # No shell and few calls between fork and exec; torch's worker threads are idle by now.
        child = subprocess.Popen(command, env=environ, preexec_fn=_tied())  # noqa: PLW1509
        for number in early:
            child.send_signal(number)
        code = child.wait()
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
    return 128 - code if code < 0 else code


def _tied() -> Callable[[], None]:
    """Return what makes a child die with this process, which a launcher may kill with -9."""
    parent = os.getpid()
    library = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None

    def tie() -> None:
        for number in FORWARDED:
            signal.signal(number, signal.SIG_DFL)
        if library is not None:
            library.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:  # it died between fork and here
                os.kill(os.getpid(), signal.SIGKILL)

    return tie
