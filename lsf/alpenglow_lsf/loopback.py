"""Addresses of pretend nodes: each has one of its own on the loopback interface."""

from __future__ import annotations

import ipaddress
import socket

FIRST = ipaddress.IPv4Address("127.0.0.2")


def addresses(count: int) -> list[str]:
    """Return an address for each of `count` pretend nodes: 127.0.0.2, 127.0.0.3, ...

    Where only 127.0.0.1 exists (as on macOS), all nodes share it.
    """
    found = [str(FIRST + i) for i in range(count)]
    return found if all(_exists(address) for address in found) else ["127.0.0.1"] * count


def _exists(address: str) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True
