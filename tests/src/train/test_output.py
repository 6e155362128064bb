"""What libraries print goes to a file, ours to the terminal, and no failure is lost on the way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

NOISE = """
import ctypes, logging, os, sys, threading
from pathlib import Path
from alpenglow.train import output
from alpenglow.train.failure import end_hard, tell
output.divert()
libc = ctypes.CDLL(None)
def shout(where):
    print(f"python {where}")
    print(f"error {where}", file=sys.stderr)
    logging.getLogger("DeepSpeed").warning("logged %s", where)
    os.write(2, f"native {where}\\n".encode())
shout("early")
"""


def run(code: str, place: Path) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-c", NOISE + code],
        cwd=place,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    return done.returncode, done.stdout, done.stderr


def test_noise_and_sentences(tmp_path: Path) -> None:
    code, out, err = run(
        """
output.keep(Path("logs/node00.txt"))
shout("late")
output.say("step 1/6")
logging.getLogger("alpenglow.train").warning("ours")
def fail(): raise OSError("disk gone")
thread = threading.Thread(target=fail, name="drain"); thread.start(); thread.join()
tell("a sentence")
""",
        tmp_path,
    )
    assert (code, out) == (0, "step 1/6\n")
    assert err.splitlines() == [
        "alpenglow.train: ours",
        "alpenglow.train: thread drain: OSError: disk gone (traceback in logs/node00.txt)",
        "alpenglow.train: a sentence",
    ]
    kept = (tmp_path / "logs/node00.txt").read_text()
    for where in ("early", "late"):
        for how in ("python", "error", "logged", "native"):
            assert f"{how} {where}\n" in kept
    assert "Traceback" in kept


@pytest.mark.parametrize("kept", [True, False])
def test_the_last_sentence_is_not_lost(tmp_path: Path, kept: bool) -> None:
    """With a log: one sentence with both files. Without: what was printed, and the traceback."""
    keep = 'output.keep(Path("logs/node00.txt"))' if kept else ""
    errors = 'Path("errors")' if kept else "None"
    code, out, err = run(f"{keep}\nend_hard(KeyError('x'), 3, {errors})", tmp_path)
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].startswith("alpenglow.train: rank 3: KeyError: 'x'")
    if kept:
        assert err.count("\n") == 1
        assert "traceback in errors/rank-00003.txt" in err
        assert "what the libraries printed in logs/node00.txt" in err
    else:
        assert "native early" in err
        assert not list(tmp_path.iterdir())


def test_a_crash_in_native_code_reaches_the_user(tmp_path: Path) -> None:
    code, _, err = run('output.keep(Path("n.txt")); libc.abort()', tmp_path)
    assert code < 0
    assert "Fatal Python error: Aborted" in err
