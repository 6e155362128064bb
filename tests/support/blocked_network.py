"""Run a module's main with every way to another machine closed; what tried one is an error.

    python blocked_network.py LOG MODULE [argument ...]

LOG gets a line for each attempt, also for those that the program caught.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

LOOPBACK = ("127.", "::1", "localhost")


def close(log: Path) -> None:
    """Refuse look-ups of names and connections outside loopback, from now on."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
            return
        target = arguments[1] if event == "socket.connect" else arguments[0]
        host = target[0] if isinstance(target, tuple) else target
        if isinstance(target, str) and event == "socket.connect":
            return  # a socket file
        if host is None or str(host).startswith(LOOPBACK):
            return
        with log.open("a", encoding="utf-8") as file:
            file.write(f"{event} {host}\n")
        raise OSError(f"no network here: {event} {host}")

    log.touch()
    sys.addaudithook(hook)


if __name__ == "__main__":
    close(Path(sys.argv[1]))
    sys.exit(importlib.import_module(sys.argv[2]).main(sys.argv[3:]))
