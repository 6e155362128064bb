"""progress.json: fresh, whole, and not too often."""

from __future__ import annotations

import json
from pathlib import Path

from alpenglow_lsf.progress import ProgressFile


def test_progress_is_written_once_a_second(tmp_path: Path) -> None:
    progress = ProgressFile(tmp_path, "pretrain", "step")
    progress.show(1, 10, "a")
    progress.show(2, 10, "b")
    path = tmp_path / "progress.json"
    assert json.loads(path.read_text())["done"] == 1
    progress.show(10, 10, "c", force=True)
    shown = json.loads(path.read_text())
    assert shown.pop("time") > 0
    assert shown == {"activity": "pretrain", "total": 10, "unit": "step", "done": 10, "text": "c"}
    assert list(tmp_path.iterdir()) == [path]
