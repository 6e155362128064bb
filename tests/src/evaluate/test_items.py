"""MMLU and GSM8K files in every form they are kept in; damage is told without their text."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest
from small_benchmarks import ITEMS, question, write_lines

from alpenglow.evaluate.error import EvaluateError
from alpenglow.evaluate.items import Choice, read_gsm8k, read_mmlu

CHOICES = ["north", "east", "south", "west"]


def lines(index: int, correct: int = 1, count: int = 4, **more: Any) -> list[dict[str, Any]]:
    """A question as a line a choice."""
    return [
        {
            "eval_instance_index": index, "split": "test", "question": f"Where to, {index}?",
            "answer": CHOICES[place], "is_correct": place == correct, **more,
        }
        for place in range(count)
    ]  # fmt: skip


def test_a_question_of_four_lines_may_lie_in_two_files(tmp_path: Path) -> None:
    rows = lines(0, 3) + lines(1, 0) + lines(2, 1)
    write_lines(tmp_path / "mmlu_test-1.jsonl", rows[:6])
    with gzip.open(tmp_path / "mmlu_test-2.jsonl.gz", "wt") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows[6:]))
    items = read_mmlu(tmp_path, "test")
    assert [item.answer for item in items] == [3, 0, 1]
    assert items[1] == Choice("Where to, 1?", tuple(CHOICES), 0, "")


def test_a_line_a_question_and_the_published_rows(tmp_path: Path) -> None:
    write_lines(tmp_path / "mmlu_dev.jsonl", [question("old_tools", "Which?", CHOICES, 2)])
    (item,) = read_mmlu(tmp_path, "dev")
    assert (item.subject, item.answer) == ("old_tools", 2)
    assert item.fields()["subject"] == "old tools"
    published = tmp_path / "data"
    (published / "test").mkdir(parents=True)
    rows = ['"Which, one?",n,e,s,w,D', '"a ""b""",n,e,s,w,A']
    (published / "test" / "high_school_physics_test.csv").write_text("\n".join(rows) + "\n")
    first, second = read_mmlu(published, "test")
    assert (first.question, first.answer, first.subject) == (
        "Which, one?",
        3,
        "high_school_physics",
    )
    assert (second.question, second.answer) == ('a "b"', 0)


def broken(rows: list[dict[str, Any]], **changes: Any) -> list[dict[str, Any]]:
    rows[1].update(changes)
    return rows


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (lines(7, count=3), "test.jsonl:1: the question that begins here .* has 3 choices"),
        (lines(7, correct=9), "0 correct choices"),
        (broken(lines(7, 0), is_correct=True), "2 correct choices"),
        (broken(lines(7), question="Another?"), "shares its number"),
        (broken(lines(7), answer=" "), "test.jsonl:2: answer must be a text"),
        (broken(lines(7), eval_instance_index=None), "test.jsonl:2: a line a choice needs"),
        ([question("s", "Which?", CHOICES[:3], 1)], "test.jsonl:1 has 3 choices"),
        ([question("s", "Which?", CHOICES, 4)], "no correct answer"),
        ([], "split test of mmlu is empty"),
    ],
)
def test_damage_names_file_and_line_and_no_text(
    tmp_path: Path, rows: list[dict[str, Any]], says: str
) -> None:
    write_lines(tmp_path / "mmlu_test.jsonl", rows)
    with pytest.raises(EvaluateError, match=says) as caught:
        read_mmlu(tmp_path, "test")
    assert not any(word in str(caught.value) for word in ("Where", "Which", "Another", *CHOICES))


def test_other_damage(tmp_path: Path) -> None:
    with pytest.raises(EvaluateError, match="no such folder"):
        read_mmlu(tmp_path / "absent", "test")
    with pytest.raises(EvaluateError, match=r"no file mmlu_test\*"):
        read_mmlu(tmp_path, "test")
    (tmp_path / "mmlu_test.jsonl").write_text('{"question": "Which?", cut')
    with pytest.raises(EvaluateError, match=r"mmlu_test.jsonl:1: not JSON") as caught:
        read_mmlu(tmp_path, "test")
    assert "Which" not in str(caught.value)
    (tmp_path / "mmlu_test.jsonl").rename(tmp_path / "mmlu_test.jsonl.gz")
    with pytest.raises(EvaluateError, match="cannot be read"):
        read_mmlu(tmp_path, "test")
    write_lines(tmp_path / "gsm8k_test.jsonl", [{"question": "How many?", "answer": "seven"}])
    with pytest.raises(EvaluateError, match=r"gsm8k_test.jsonl:1: .* no final number"):
        read_gsm8k(tmp_path, "test")


def test_the_real_files_are_whole() -> None:
    folder = os.environ.get("ALPENGLOW_TEST_DATA")
    if not folder:
        pytest.skip("ALPENGLOW_TEST_DATA is not set: no MMLU and GSM8K files to read")
    place = Path(folder) / "benchmarks"
    counts = {split: len(read_mmlu(place, split)) for split in ("dev", "validation", "test")}
    # arXiv 2009.03300: 57 subjects of 5 examples, 1,540 for validation, 14,079 tests; the data as
    # published on the Hub have these.
    assert counts == {"dev": 285, "validation": 1531, "test": 14042}
    # arXiv 2110.14168, section 2: 7.5K and 1K problems.
    assert (len(read_gsm8k(place, "train")), len(read_gsm8k(place, "test"))) == (7473, 1319)


def test_invented_items_have_two_subjects() -> None:
    assert {subject for subject, _, _ in ITEMS} == {"colours", "old tools"}
