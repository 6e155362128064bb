"""Importance weights: the definition, the same in every process, and its command."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from alpenglow.data import train_importance
from alpenglow.data.document import DataError
from alpenglow.data.importance import BUCKETS, Importance
from alpenglow.data.seed_text import Seed
from alpenglow.data.word_grams import WordGrams

TARGET = ["The glacier melts in summer.", "A hut stands below the glacier, near the pass."]
SOURCE = ["Buy shoes now!", "Shoes and shirts: buy now, pay in summer.", "The hut sells shoes."]


def write(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return write(tmp_path / "target.jsonl", TARGET), write(tmp_path / "source.jsonl", SOURCE)


def buckets(text: str) -> list[int]:
    """The buckets of one text, a word and a pair at a time."""
    grams = WordGrams(BUCKETS)
    words = re.findall(r"\w+|[^\w\s]+", text.lower())
    found = [int(grams.singles(grams.words([word])[0])[0]) for word in words]
    for first, second in itertools.pairwise(words):
        found.append(int(grams.pairs(grams.words([f"{first} {second}"])[0])[0]))
    return found


def test_weights_are_log_likelihood_ratios(files: tuple[Path, Path], tmp_path: Path) -> None:
    target, source = (Seed([path]) for path in files)
    model = Importance.train("huts", target, source)
    counts = [Counter(b for text in texts for b in buckets(text)) for texts in (TARGET, SOURCE)]
    texts = ["The hut, the glacier.", "buy shoes", "unheard words", ""]
    for text, weight in zip(texts, model.weights(texts), strict=True):
        expected = 0.0
        for bucket in buckets(text):
            likely = [math.log((c[bucket] + 1) / (c.total() + BUCKETS)) for c in counts]
            expected += likely[0] - likely[1]
        assert weight == pytest.approx(expected, abs=1e-4)
    weights = model.weights([TARGET[0], SOURCE[0]])
    assert weights[0] > 0 > weights[1]
    model.save(tmp_path / "huts.h5")
    loaded = Importance.load(tmp_path / "huts.h5")
    assert loaded.name == "huts"
    assert (loaded.weights(texts) == model.weights(texts)).all()


def test_the_same_in_every_process(files: tuple[Path, Path], tmp_path: Path) -> None:
    """RedPajama v2's weights need PYTHONHASHSEED pinned; here it makes no difference."""
    script = "import sys; from alpenglow.data.train_importance import main; sys.exit(main())"
    for number in (1, 2):
        arguments = ["--name", "huts", "--target", str(files[0]), "--source", str(files[1])]
        subprocess.run(
            [sys.executable, "-c", script, *arguments, "--output", str(tmp_path / f"{number}.h5")],
            env={**os.environ, "PYTHONHASHSEED": str(number), "PYTHONPATH": ":".join(sys.path)},
            check=True,
            timeout=100,
            capture_output=True,
        )
    assert (tmp_path / "1.h5").read_bytes() == (tmp_path / "2.h5").read_bytes()


def test_command(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--name", "huts", "--target", str(files[0]), "--source", str(files[1])]
    arguments += ["--output", str(tmp_path / "huts.h5")]
    assert train_importance.main(arguments) == 0
    assert "2 documents of the target, 3 of the source" in capsys.readouterr().out
    arguments[1] = "mountain huts"
    assert train_importance.main(arguments) == 1
    assert "should be letters, digits and underscores" in capsys.readouterr().err
    write(files[0], ["  "])
    arguments[1] = "huts"
    assert train_importance.main(arguments) == 1
    assert "target.jsonl: no words to count" in capsys.readouterr().err


def test_a_file_without_weights_is_named(files: tuple[Path, Path], tmp_path: Path) -> None:
    model = Importance(np.zeros(BUCKETS, np.float32), {"name": "huts"})
    path = tmp_path / "huts.h5"
    model.save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"huts\.h5: cut, or no model of Alpenglow"):
        Importance.load(path)
