"""A command beneath a rank: signals go down, its exit code comes back, it dies with the rank."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

ABOVE = """
import os, sys
from alpenglow_profiling.understudy import run_beneath
sys.exit(run_beneath([sys.executable, "-c", sys.argv[1]], os.environ))
"""

WAITS = """
import os, signal, sys
signal.signal(signal.SIG{name}, lambda *_: sys.exit(85))
print(os.getpid(), flush=True)
while True:
    signal.pause()
"""


@contextmanager
def above(program: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", ABOVE, program],
        env={**os.environ, "PYTHONPATH": str(ROOT / "profiling")},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("program", "code"),
    [("raise SystemExit(7)", 7), ("import os; os.kill(os.getpid(), 11)", 139), ("", 0)],
)
def test_exit_codes_come_back(program: str, code: int) -> None:
    with above(program) as process:
        assert process.wait(60) == code


@pytest.mark.parametrize("name", ["URG", "USR1", "USR2", "TERM", "INT"])
def test_signals_go_down(name: str) -> None:
    with above(WAITS.format(name=name)) as process:
        assert process.stdout is not None
        assert int(process.stdout.readline()) != process.pid
        process.send_signal(getattr(signal, f"SIG{name}"))
        assert process.wait(60) == 85


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a child to its parent")
def test_a_killed_rank_takes_its_command_along() -> None:
    with above(WAITS.format(name="USR1")) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        process.kill()
        process.wait()
        end = time.monotonic() + 60
        while _runs(child):
            assert time.monotonic() < end, f"{child} outlives its rank"
            time.sleep(0.02)


def _runs(process: int) -> bool:
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")
