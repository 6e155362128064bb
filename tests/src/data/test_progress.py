"""The bar on a terminal, lines in a file: share, rate, time left."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

from alpenglow.data.progress import Progress


def test_progress_on_a_terminal_and_in_a_file(tmp_path: Path) -> None:
    class Stream:
        def __init__(self, terminal: bool) -> None:
            self.text, self.terminal = "", terminal

        def write(self, text: str) -> int:
            self.text += text
            return len(text)

        def flush(self) -> None: ...

        def isatty(self) -> bool:
            return self.terminal

    terminal, file = Stream(True), Stream(False)
    for stream in (terminal, file):
        clock = itertools.count().__next__
        progress = Progress(tmp_path, "prepare", "MB", stream=stream, clock=clock)  # type: ignore[arg-type]
        for done in range(101):
            progress.show(done, 100, "tokenising")
        progress.say("done")
    assert "tokenising 50.0 of 100.0 MB (50 %), 1.0 MB/s, 50 s left\n" in file.text
    assert terminal.text.count("\n") == 2
    assert terminal.text.count("\r") == 101
    assert file.text.count("\n") == 12
    assert json.loads((tmp_path / "progress.json").read_text())["done"] == 100
