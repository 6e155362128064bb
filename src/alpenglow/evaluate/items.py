"""The items of MMLU and GSM8K from local files, whatever form they are kept in.

    items = read_mmlu(Path("benchmarks"), "test")

Files are looked for as `mmlu_test*` and `gsm8k_train*` (`.jsonl`, `.json` or `.csv`, also `.gz`),
in their folder or in `mmlu/`, and as the `data/` folder of the original MMLU: `test/*_test.csv`.
Parts of a split are read in the order of their names, as one. Three forms of MMLU are known:

- one line a choice (`question`, `answer`, `is_correct`, `eval_instance_index`), as benchmarks are
  kept for searching training data for them;
- one line a question (`question`, `choices`, `answer`: place or letter, `subject`), as on the Hub;
- rows of question, four choices and letter, a file a subject, as published (Hendrycks et al.,
  arXiv 2009.03300).

The text of an item never leaves here but to the harness: errors name file and line.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from alpenglow.evaluate.error import EvaluateError

LETTERS = ("A", "B", "C", "D")
T = TypeVar("T")
_ENDINGS = (".jsonl", ".json", ".csv")


@dataclass(frozen=True)
class Choice:
    """One question of MMLU."""

    question: str
    choices: tuple[str, ...]
    """Four."""
    answer: int
    """Place of the correct one."""
    subject: str
    """Empty where the files do not say."""

    def fields(self) -> dict[str, Any]:
        """As our task files name them."""
        return {
            "question": self.question,
            "choices": list(self.choices),
            "answer": self.answer,
            "subject": self.subject.replace("_", " "),
        }


def read_mmlu(folder: Path, split: str) -> list[Choice]:
    """The questions of a split, in the files' order.

    Raises:
        EvaluateError: no file, no question, or one that does not have four choices and one of them
            correct.
    """
    items: list[Choice] = []
    lines: list[_Line] = []
    for path in _files(folder, "mmlu", split):
        for number, row in _rows(path):
            where = f"{path}:{number}"
            if isinstance(row, list):
                items.append(_of_row(row, path, split, where))
            elif "is_correct" in row:
                lines.append(_line(row, where))
            else:
                items.append(_of_question(row, where))
    items += _grouped(lines)
    return _some(items, folder, "mmlu", split)


def read_gsm8k(folder: Path, split: str) -> list[dict[str, str]]:
    """The problems of a split: `question` and `answer`, which ends in `#### number`.

    Raises:
        EvaluateError: no file, no problem, or one without a final number.
    """
    items = []
    for path in _files(folder, "gsm8k", split):
        for number, row in _rows(path):
            where = f"{path}:{number}"
            item = {key: _text(row, key, where) for key in ("question", "answer")}
            if not item["answer"].rpartition("####")[1]:
                raise EvaluateError(f"{where}: the answer has no final number behind ####")
            items.append(item)
    return _some(items, folder, "gsm8k", split)


@dataclass(frozen=True)
class _Line:
    """One choice of one question."""

    key: tuple[str, str]
    question: str
    choice: str
    correct: bool
    subject: str
    where: str


def _line(row: dict[str, Any], where: str) -> _Line:
    index, correct = row.get("eval_instance_index"), row["is_correct"]
    if not isinstance(index, int | str) or not isinstance(correct, bool):
        raise EvaluateError(
            f"{where}: a line a choice needs eval_instance_index, a number, and is_correct, true "
            "or false"
        )
    subject = str(row.get("subject") or "")
    question, choice = _text(row, "question", where), _text(row, "answer", where)
    return _Line((subject, str(index)), question, choice, correct, subject, where)


def _grouped(lines: Sequence[_Line]) -> list[Choice]:
    groups: dict[tuple[str, str], list[_Line]] = {}
    for line in lines:
        groups.setdefault(line.key, []).append(line)
    return [_of_lines(group) for group in groups.values()]


def _of_lines(group: list[_Line]) -> Choice:
    where = (
        f"{group[0].where}: the question that begins here (eval_instance_index {group[0].key[1]})"
    )
    if len({line.question for line in group}) > 1:
        raise EvaluateError(f"{where} shares its number with another one")
    correct = [place for place, line in enumerate(group) if line.correct]
    if len(correct) != 1:
        raise EvaluateError(f"{where} has {len(correct)} correct choices; it needs one")
    choices = tuple(line.choice for line in group)
    return _choice(group[0].question, choices, correct[0], group[0].subject, where)


def _of_question(row: Any, where: str) -> Choice:
    question, choices = _text(row, "question", where), row.get("choices")
    if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
        raise EvaluateError(f"{where}: choices must be a list of texts")
    answer, subject = row.get("answer"), str(row.get("subject") or "")
    return _choice(question, tuple(choices), _place(answer, where), subject, where)


def _of_row(row: list[str], path: Path, split: str, where: str) -> Choice:
    if len(row) != len(LETTERS) + 2:
        raise EvaluateError(
            f"{where}: {len(row)} columns; a row is a question, its {len(LETTERS)} choices and a "
            "letter"
        )
    subject = path.name.partition(".csv")[0].removesuffix(f"_{split}")
    subject = "" if subject.startswith("mmlu") else subject
    return _choice(row[0], tuple(row[1:-1]), _place(row[-1].strip(), where), subject, where)


def _choice(
    question: str, choices: tuple[str, ...], answer: int, subject: str, where: str
) -> Choice:
    if len(choices) != len(LETTERS):
        raise EvaluateError(f"{where} has {len(choices)} choices; MMLU's have {len(LETTERS)}")
    return Choice(question, choices, answer, subject)


def _place(answer: object, where: str) -> int:
    if isinstance(answer, str) and answer in LETTERS:
        return LETTERS.index(answer)
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(LETTERS):
        raise EvaluateError(f"{where}: no correct answer is named (a letter A to D, or 0 to 3)")
    return answer


def _text(row: Any, key: str, where: str) -> str:
    value = row.get(key) if isinstance(row, dict) else None
    if not isinstance(value, str) or not value.strip():
        raise EvaluateError(f"{where}: {key} must be a text that is not empty")
    return value


def _files(folder: Path, name: str, split: str) -> list[Path]:
    if not folder.is_dir():
        raise EvaluateError(
            f"{folder}: no such folder; benchmarks names where the files of {name} lie, or leave "
            "it out of tasks"
        )
    found = [
        path
        for place in (folder, folder / name)
        for path in place.glob(f"{name}_{split}*")
        if path.name.removesuffix(".gz").endswith(_ENDINGS)
    ]
    for place in (folder, folder / name, folder / name / "data"):
        found += place.glob(f"{split}/*_{split}.csv") if name == "mmlu" else ()
    if not found:
        raise EvaluateError(
            f"{folder}: no file {name}_{split}*.jsonl (or .json, .csv, .gz); put it there, or "
            f"leave {name} out of tasks"
        )
    return sorted(found)


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    """(line, record) of a file: a dict of JSON, or the list of a CSV row."""
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        # A UnicodeDecodeError's own words quote bytes of the file.
        reason = "not UTF-8" if isinstance(error, UnicodeDecodeError) else error
        raise EvaluateError(f"{path}: cannot be read: {reason}") from None
    if path.name.removesuffix(".gz").endswith(".csv"):
        reader = csv.reader(io.StringIO(text))
        yield from ((reader.line_num, row) for row in reader if row)
        return
    try:
        if path.name.removesuffix(".gz").endswith(".json") and text.lstrip().startswith("["):
            yield from enumerate(json.loads(text), 1)
            return
    except ValueError as error:
        raise EvaluateError(f"{path}: not JSON: {error}") from None
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise EvaluateError(f"{path}:{number}: not JSON: {error}") from None
        if not isinstance(row, dict):
            raise EvaluateError(f"{path}:{number}: not a record with named fields")
        yield number, row


def _some(items: list[T], folder: Path, name: str, split: str) -> list[T]:
    if not items:
        raise EvaluateError(f"{folder}: the split {split} of {name} is empty")
    return items
