"""Offsets between the clocks of nodes, measured by a ping-pong; independent of any collective.

    rank 0                                          one other rank of each other node
    point = ExchangePoint()
    ... point.offer goes to all of them ...
    found, missing = point.measure(nodes)           answer(address, offer, node)
    append(run / "events" / segment, node, found, missing)

Rank 0 asks one node after another, `ROUNDS` times each over one TCP connection, so that no question
waits behind another; the round with the shortest way there and back counts (Cristian 1989,
"Probabilistic clock synchronization", Distributed Computing 3): the node read its clock somewhere
between question and answer, so its offset is that of the middle and at most half the round trip
wrong. Sockets and not torch.distributed: NCCL cannot do it, a gloo group of 512 nodes is a mesh of
131,000 connections, and a store's server is rank 0's own node.

    events/SEGMENT/clock_exchange.json
      reference   rank 0's node
      exchanges   when_ns (its CLOCK_MONOTONIC), node, offset_ns, error_ns
      missing     when_ns, sentence: a node that gave no answer

What is a time `t` on a node's CLOCK_MONOTONIC is `t - offset_ns` on the reference's.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
import selectors
import socket
import struct
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic, monotonic_ns
from typing import Any

FILE = "clock_exchange.json"
FORMAT_VERSION = 1
ROUNDS = 10
PATIENCE_S = 5.0
"""How long rank 0 waits for the nodes to call, and then for all their answers together."""
ANSWER_S = 1.0
"""How long it waits for one answer."""
_CLOCK = struct.Struct("!q")
_TOKEN_BYTES = 16
_LONGEST_HELLO = _TOKEN_BYTES + 256
_BACKLOG = 4096

Offer = tuple[int, bytes]
"""Port of rank 0's node, and what a node has to say first to be let in."""


class ExchangeError(ValueError):
    """A file of exchanges that cannot be used; the message is one sentence."""


@dataclass(frozen=True)
class Exchange:
    """One node's clock against the reference's at one moment."""

    when_ns: int
    """CLOCK_MONOTONIC of the reference, ns."""
    node: str
    offset_ns: int
    """What this node's CLOCK_MONOTONIC shows more than the reference's."""
    error_ns: int
    """The offset is at most so much wrong: half the round trip."""
    reference: str = ""
    """The node of rank 0."""


class ExchangePoint:
    """Where the other nodes call, on rank 0's node.

    Raises:
        OSError: no port can be opened.
    """

    def __init__(self) -> None:
        self._server = _listen()
        self._token = secrets.token_bytes(_TOKEN_BYTES)
        self.offer: Offer = (self._server.getsockname()[1], self._token)

    def measure(
        self, nodes: Collection[str], *, patience_s: float = PATIENCE_S
    ) -> tuple[list[Exchange], list[str]]:
        """Ask every node, then close; takes at most twice `patience_s`, whoever is silent.

        Args:
            nodes: the nodes that will call; not this one.
            patience_s: for all calls together, and then for all answers together.

        Returns:
            An exchange for each node that answered, and a sentence for each that did not.
        """
        callers = self._let_in(set(nodes), monotonic() + patience_s)
        self._server.close()
        found: list[Exchange] = []
        missing = [f"node {node} did not call" for node in sorted(set(nodes) - set(callers))]
        deadline = monotonic() + patience_s
        for node, caller in sorted(callers.items()):
            with caller:
                try:
                    found.append(_ask(node, caller, deadline))
                except (OSError, EOFError) as error:
                    reason = str(error) or type(error).__name__
                    missing.append(f"node {node} called, but gave no answer: {reason}")
        return found, missing

    def _let_in(self, nodes: set[str], deadline: float) -> dict[str, socket.socket]:
        """The connection of each node; who does not know the token is sent away."""
        let_in: dict[str, socket.socket] = {}
        self._server.setblocking(False)
        with selectors.DefaultSelector() as selector:
            selector.register(self._server, selectors.EVENT_READ, None)
            hellos: dict[socket.socket, bytes] = {}
            while nodes - set(let_in) and (left := deadline - monotonic()) > 0:
                for key, _ in selector.select(left):
                    if key.data is None:
                        caller = self._accept()
                        if caller is not None:
                            hellos[caller] = b""
                            selector.register(caller, selectors.EVENT_READ, caller)
                        continue
                    caller = key.data
                    hello = hellos[caller] = hellos[caller] + _read_some(caller)
                    if hello.endswith(b"\n") or not hello or len(hello) > _LONGEST_HELLO:
                        selector.unregister(caller)
                        del hellos[caller]
                        node = self._named(hello)
                        if node in nodes and node not in let_in:
                            let_in[node] = caller
                        else:
                            caller.close()
            for caller in hellos:
                caller.close()
        return let_in

    def _accept(self) -> socket.socket | None:
        try:
            caller, _ = self._server.accept()
        except OSError:
            return None  # it has left again
        caller.setblocking(False)
        caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return caller

    def _named(self, hello: bytes) -> str:
        if not hmac.compare_digest(hello[:_TOKEN_BYTES], self._token):
            return ""
        return hello[_TOKEN_BYTES:-1].decode(errors="replace")


def _listen() -> socket.socket:
    """A port for whichever protocol the node's address is of."""
    if socket.has_dualstack_ipv6():
        with suppress(OSError):  # compiled in, but turned off
            return socket.create_server(
                ("", 0), family=socket.AF_INET6, backlog=_BACKLOG, dualstack_ipv6=True
            )
    return socket.create_server(("", 0), backlog=_BACKLOG)


def _read_some(caller: socket.socket) -> bytes:
    try:
        return caller.recv(_LONGEST_HELLO)
    except OSError:
        return b""


def _ask(node: str, caller: socket.socket, deadline: float) -> Exchange:
    best: Exchange | None = None
    for _ in range(ROUNDS):
        caller.settimeout(max(1e-3, min(ANSWER_S, deadline - monotonic())))
        before = monotonic_ns()
        caller.sendall(b"?")
        answer = _exactly(caller, _CLOCK.size)
        after = monotonic_ns()
        (theirs,) = _CLOCK.unpack(answer)
        middle, error = (before + after) // 2, (after - before + 1) // 2
        if best is None or error < best.error_ns:
            best = Exchange(middle, node, theirs - middle, error)
    assert best is not None
    return best


def _exactly(peer: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = peer.recv(size - len(data))
        if not part:
            raise EOFError("it hung up")
        data += part
    return data


def answer(address: str, offer: Offer, node: str, *, patience_s: float = 2 * PATIENCE_S) -> bool:
    """Tell rank 0 this node's clock as often as it asks; one rank of each node but rank 0's.

    Args:
        address: of rank 0's node.
        offer: what rank 0 told.
        node: this one.
        patience_s: longest silence.

    Returns:
        Whether rank 0 asked; where it did not, it says so in its file.
    """
    port, token = offer
    asked = False
    with suppress(OSError), socket.create_connection((address, port), timeout=patience_s) as peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer.sendall(token + node.encode() + b"\n")
        while peer.recv(1):
            peer.sendall(_CLOCK.pack(monotonic_ns()))
            asked = True
    return asked


def append(
    directory: Path, reference: str, found: Sequence[Exchange], missing: Sequence[str] = ()
) -> Path:
    """Add exchanges to a segment's file; rank 0 only.

    Args:
        directory: `events/SEGMENT` of a run.
        reference: node of rank 0.
        found: what `measure` found.
        missing: what it did not.

    Raises:
        OSError: the file cannot be written.
    """
    path = directory / FILE
    told: dict[str, Any] = {"exchanges": [], "missing": []}
    with suppress(ExchangeError, FileNotFoundError):
        told = _load(path)
    rows = [asdict(exchange) for exchange in found]
    for row in rows:
        del row["reference"]
    now = monotonic_ns()
    text = json.dumps(
        {
            "format_version": FORMAT_VERSION,
            "reference": reference,
            "exchanges": told["exchanges"] + rows,
            "missing": told["missing"]
            + [{"when_ns": now, "sentence": sentence} for sentence in missing],
        },
        indent=1,
    )
    directory.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.write_text(text + "\n", encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def read_exchanges(directory: Path) -> tuple[Exchange, ...]:
    """Read a segment's exchanges, in the order of measuring; none where there is no file.

    Args:
        directory: `events/SEGMENT` of a run.

    Raises:
        ExchangeError: the file is damaged.
    """
    path = directory / FILE
    try:
        told = _load(path)
    except FileNotFoundError:
        return ()  # one node, or a run of before
    return tuple(
        Exchange(row["when_ns"], row["node"], row["offset_ns"], row["error_ns"], told["reference"])
        for row in told["exchanges"]
    )


def _load(path: Path) -> dict[str, Any]:
    """Read a file and check every value of it.

    Raises:
        FileNotFoundError: there is none.
        ExchangeError: it is not what `append` writes.
    """
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"not whole JSON: {error}"
        raise ExchangeError(f"{path}: no clock exchange can be read: {reason}") from None
    wrong = _wrong(told)
    if wrong is not None:
        raise ExchangeError(f"{path}: not a file of clock exchanges: {wrong}")
    return told  # type: ignore[no-any-return]


def _wrong(told: Any) -> str | None:
    if not isinstance(told, dict) or told.get("format_version") != FORMAT_VERSION:
        return f"its format_version is not {FORMAT_VERSION}"
    if not isinstance(told.get("reference"), str):
        return "it names no reference"
    rows = told.get("exchanges")
    if not isinstance(rows, list) or not isinstance(told.get("missing"), list):
        return "it has no lists of exchanges and of missing nodes"
    for number, row in enumerate(rows):
        numbers = ("when_ns", "offset_ns", "error_ns")
        whole = isinstance(row, dict) and isinstance(row.get("node"), str)
        whole = whole and all(type(row.get(name)) is int for name in numbers)
        if not whole or row["error_ns"] < 0:
            return f"exchange {number} has no node with whole numbers {', '.join(numbers)}"
    return None
