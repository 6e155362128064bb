"""Columns beside documents: batches come back as one, a cut file counts as none."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from alpenglow.data.columns import has, read_columns, read_lines, write_columns
from alpenglow.data.document import DataError, reason


def batch(begin: int, documents: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    rows = np.arange(begin, begin + documents)
    lines = np.concatenate([[0], np.cumsum(rows % 3 + 1)])
    return {"a": rows, "b": rows / 2}, {"offset": lines, "width": np.arange(lines[-1])}


def test_batches_come_back_as_one(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    write_columns(path, "key", iter([batch(0, 5), batch(5, 0), batch(5, 4)]))
    found = read_columns(path)
    assert found["a"].tolist() == list(range(9))
    assert found["b"].tolist() == [row / 2 for row in range(9)]
    assert list(read_columns(path, ["b", "absent"])) == ["b"]
    lines = read_lines(path)
    assert lines["offset"].tolist() == [0, *np.cumsum(np.arange(9) % 3 + 1).tolist()]
    assert len(lines["width"]) == lines["offset"][-1]
    assert [path.name for path in tmp_path.iterdir()] == ["x.h5"]


def test_a_store_without_documents_and_columns_without_lines(tmp_path: Path) -> None:
    write_columns(tmp_path / "none.h5", "key", iter([]))
    assert read_columns(tmp_path / "none.h5") == {}
    assert read_lines(tmp_path / "none.h5") == {}
    assert has(tmp_path / "none.h5", "key")


def test_other_keys_and_cuts_are_no_mark(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    write_columns(path, "key", iter([batch(0, 2000)]))
    assert has(path, "key")
    assert not has(path, "other")
    assert not has(tmp_path / "absent.h5", "key")
    whole = path.read_bytes()
    for at in range(0, len(whole) - 1, 331):
        path.write_bytes(whole[:at])
        assert not has(path, "key")
    with pytest.raises(DataError, match=r"x\.h5: cut, or no columns"):
        read_columns(path)


FULL = """
import sys
from pathlib import Path
import numpy as np
from alpenglow.data.columns import write_columns
from alpenglow.data.document import DataError
parts = (({"a": np.random.default_rng(n).random(100000)}, {}) for n in range(20))
try:
    write_columns(Path(sys.argv[1]), "key", parts)
except DataError as error:
    sys.exit(str(error))
"""


def test_a_file_system_that_refuses_is_said_in_one_line_and_nothing_stays(tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "x.h5")],
        preexec_fn=limit, capture_output=True, text=True, check=False,
    )  # fmt: skip
    # HDF5 tries to flush again when the process ends, and may complain or crash then.
    assert done.returncode
    assert f"{tmp_path / 'x.h5'}: cannot be written (File too large)\n" in done.stderr
    assert not list(tmp_path.iterdir())


def test_reason() -> None:
    said = "Unable to flush (file write failed: time = Wed\n, error message = 'No space left', buf)"
    assert reason(OSError(said)) == "No space left"
    assert reason(OSError(28, "No space left on device")) == "[Errno 28] No space left on device"
