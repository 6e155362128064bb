"""Ties a child process to its parent, so that a parent killed with -9 leaves nothing running.

Linux only (PR_SET_PDEATHSIG); elsewhere nothing is done and process groups are all there is.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def dies_with_parent(signum: int = signal.SIGKILL) -> Callable[[], None]:
    """Return a function for `preexec_fn`: the child gets `signum` when its parent dies."""
    parent = os.getpid()
    library = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None

    def tie() -> None:
        if library is not None:
            library.prctl(PR_SET_PDEATHSIG, signum, 0, 0, 0)
            if os.getppid() != parent:  # the parent died between fork and here
                os.kill(os.getpid(), signum)

    return tie


def forget_signals() -> None:
    """Take signals as a login shell does: nothing ignored, nothing blocked.

    A process started in the background of a script inherits an ignored INT, and would then not
    heed bkill.
    """
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def die_with_parent(signum: int = signal.SIGTERM) -> None:
    """Ask that this process itself gets `signum` when its parent dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signum, 0, 0, 0)
