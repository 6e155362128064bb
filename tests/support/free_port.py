"""A port that ranks can meet at."""

from __future__ import annotations

import contextlib
import random
import socket


def free_port() -> int:
    """Draw a port that nobody listens on."""
    # Below the range of outgoing connections: another test's could take the port before rank 0.
    for port in random.sample(range(10000, 30000), 50):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("none of 50 ports is free")
