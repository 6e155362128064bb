"""The ping-pong between nodes: real sockets, real processes, and a clock that really differs."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from program_ranks import clock_ahead, clocks_can_differ

from alpenglow_profiling.clock_exchange import (
    FILE,
    Exchange,
    ExchangeError,
    ExchangePoint,
    answer,
    append,
    read_exchanges,
)

ANSWERING = """
import sys
from alpenglow_profiling.clock_exchange import answer
sys.exit(not answer("127.0.0.1", (int(sys.argv[1]), bytes.fromhex(sys.argv[2])), sys.argv[3]))
"""


def node(point: ExchangePoint, name: str, *before: str) -> subprocess.Popen[bytes]:
    """A process that answers as a node does."""
    port, token = point.offer
    return subprocess.Popen(
        [*before, sys.executable, "-c", ANSWERING, str(port), token.hex(), name],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def test_one_clock_differs_by_nothing(tmp_path: Path) -> None:
    point = ExchangePoint()
    nodes = [node(point, name) for name in ("h1", "h2")]
    found, missing = point.measure(["h1", "h2"])
    assert [process.wait(10) for process in nodes] == [0, 0]
    assert missing == []
    assert [exchange.node for exchange in found] == ["h1", "h2"]
    for exchange in found:
        assert abs(exchange.offset_ns) <= exchange.error_ns
    append(tmp_path, "h0", found)
    append(tmp_path, "h0", found, ["node h3 did not call"])
    again = read_exchanges(tmp_path)
    assert again[:2] == again[2:]
    assert [(e.node, e.offset_ns, e.error_ns, e.reference) for e in again[:2]] == [
        (e.node, e.offset_ns, e.error_ns, "h0") for e in found
    ]
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


@pytest.mark.skipif(not clocks_can_differ(), reason="no right to time namespaces here")
@pytest.mark.parametrize("ahead", [1000, 12_345_678])
def test_a_clock_that_is_ahead_is_found_so(ahead: int) -> None:
    point = ExchangePoint()
    process = node(point, "h1", *clock_ahead(ahead))
    (exchange,), _ = point.measure(["h1"])
    assert process.wait(10) == 0
    assert abs(exchange.offset_ns - ahead * 10**9) <= exchange.error_ns


def test_nobody_can_hold_it_up() -> None:
    """A node that never calls, one that hangs up, one that says nothing more, and strangers."""
    point = ExchangePoint()
    port, token = point.offer
    good = threading.Thread(target=answer, args=("127.0.0.1", point.offer, "good"))
    good.start()
    others = [socket.create_connection(("127.0.0.1", port)) for _ in range(6)]
    silent, frozen, gone, wrong, long, unknown = others
    frozen.sendall(token + b"frozen\n")
    gone.sendall(token + b"gone\n")
    gone.close()
    wrong.sendall(bytes(len(token)) + b"absent\n")
    long.sendall(token + b"x" * 5000)
    unknown.sendall(token + b"unheard of\n")
    found, missing = point.measure(["good", "absent", "frozen", "gone"], patience_s=2)
    good.join()
    assert [exchange.node for exchange in found] == ["good"]
    assert sorted(sentence.split(":")[0] for sentence in missing) == [
        "node absent did not call",
        "node frozen called, but gave no answer",
        "node gone called, but gave no answer",
    ]
    for other in others:
        other.close()
    assert not answer("127.0.0.1", point.offer, "late", patience_s=0.5)
    del silent


def test_no_file_is_no_exchange(tmp_path: Path) -> None:
    assert read_exchanges(tmp_path) == ()


GOOD: dict[str, Any] = {
    "format_version": 1,
    "reference": "h0",
    "exchanges": [{"when_ns": 5, "node": "h1", "offset_ns": -7, "error_ns": 2}],
    "missing": [],
}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"format_version": 2}, "format_version is not 1"),
        ({"reference": 3}, "names no reference"),
        ({"exchanges": {}}, "no lists of exchanges"),
        ({"exchanges": [*GOOD["exchanges"], {"node": "h2"}]}, "exchange 1 has no node with whole"),
        ({"exchanges": [{**GOOD["exchanges"][0], "error_ns": -1}]}, "exchange 0 has no"),
        ({"exchanges": [{**GOOD["exchanges"][0], "offset_ns": 0.5}]}, "exchange 0 has no"),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    (tmp_path / FILE).write_text(json.dumps(GOOD))
    assert read_exchanges(tmp_path) == (Exchange(5, "h1", -7, 2, "h0"),)
    (tmp_path / FILE).write_text(json.dumps({**GOOD, **changes}))
    with pytest.raises(ExchangeError, match=sentence) as caught:
        read_exchanges(tmp_path)
    assert "\n" not in str(caught.value)
    assert FILE in str(caught.value)


def test_half_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(json.dumps(GOOD)[:40])
    with pytest.raises(ExchangeError, match="no clock exchange can be read: not whole JSON"):
        read_exchanges(tmp_path)
    (tmp_path / FILE).unlink()
    (tmp_path / FILE).mkdir()
    with pytest.raises(ExchangeError, match="Is a directory"):
        read_exchanges(tmp_path)
