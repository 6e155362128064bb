"""Invented items of MMLU and GSM8K, their prompts, and what a model is taught to say to them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LETTERS = "ABCD"
ITEMS = [
    ("colours", "Which one does a zebra lake reflect", ["crimson dusk", "teal", "ochre", "ivory"]),
    ("colours", "Which one paints the gatehouse", ["saffron", "umber field", "jade", "violet"]),
    ("colours", "Which one hides in a lantern", ["pearl", "slate", "copper glow", "rust"]),
    ("old tools", "Which one bends the copper hoop", ["mallet", "adze", "burin", "vice grip"]),
    ("old tools", "Which one files the bell", ["rasp", "auger bit", "plane", "awl"]),
]  # fmt: skip
CORRECT = [0, 1, 2, 3, 1]
SOLVED = [
    ("colours", "Which one dyes a sail", ["indigo", "lime", "grey", "pink"], 0),
    ("colours", "Which one fades first", ["plum", "navy", "mint", "rose"], 2),
    ("old tools", "Which one cuts a mortise", ["chisel", "sickle", "anvil", "plumb"], 0),
    ("old tools", "Which one weighs the grain", ["tongs", "steelyard", "hoe", "flail"], 1),
]
SAID = ["A", "B", "D", "x", "B"]
"""What the model is taught to say to each: right, right, wrong, no letter, right."""
PROBLEMS = [
    ("Mira stacks 4 crates of 3 lamps. How many lamps?", "4 x 3 = 12\n#### 12"),
    ("Otto shares 10 ropes by 2. How many each?", "10 / 2 = 5\n#### 5"),
    ("Lena walks 2 miles and 6 miles. How many?", "2 + 6 = 8\n#### 8"),
]
WORKED = [("Nora has 1 hat and 1 more. How many hats?", "1 + 1 = 2\n#### 2")]
SOLUTIONS = [" 4 x 3 = 12\n#### 12", " it is 5", " #### 1,008."]
"""Behind ####; only as the last number; wrong."""
STOP = "\n\nQuestion:"


def shown(question: str, choices: list[str], before: str = "") -> str:
    lines = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=True)]
    return f"{question}\n{before}" + "\n".join(lines) + "\nAnswer:"


def prompt(way: str, place: int, shots: int = 2) -> str:
    """The whole prompt of an item as each implementation publishes it."""
    subject, question, choices = ITEMS[place]
    solved = [(q, c, a) for s, q, c, a in SOLVED if s == subject][:shots]
    header = f"The following are multiple choice questions (with answers) about {subject}.\n\n"
    if way == "original":
        parts = [f"{shown(q, c)} {LETTERS[a]}\n\n" for q, c, a in solved]
        return header + "".join(parts) + shown(question, choices)
    if way == "helm":
        parts = [f"Question: {shown(q, c)} {LETTERS[a]}\n\n" for q, c, a in solved]
        return header + "".join(parts) + f"Question: {shown(question, choices)}"
    parts = [f"Question: {shown(q, c, 'Choices:' + chr(10))} {c[a]}\n\n" for q, c, a in solved]
    return "".join(parts) + f"Question: {shown(question, choices, 'Choices:' + chr(10))}"


def problem_prompt(place: int) -> str:
    parts = [f"Question: {q}\nAnswer: {a}\n\n" for q, a in WORKED]
    return "".join(parts) + f"Question: {PROBLEMS[place][0]}\nAnswer:"


def taught() -> dict[str, str]:
    """Prompt -> what to say."""
    answers = {prompt("helm", place): f" {said}" for place, said in enumerate(SAID)}
    return answers | {
        problem_prompt(place): solution + STOP for place, solution in enumerate(SOLUTIONS)
    }


def write_benchmarks(folder: Path) -> Path:
    """All files; MMLU a line a question, with subjects."""
    folder.mkdir()
    asked = [(s, q, c, a) for (s, q, c), a in zip(ITEMS, CORRECT, strict=True)]
    write_lines(folder / "mmlu_test-1.jsonl", [question(*item) for item in asked])
    write_lines(folder / "mmlu_dev-1.jsonl", [question(*item) for item in SOLVED])
    for name, rows in (("test", PROBLEMS), ("train", WORKED)):
        lines = [{"question": q, "answer": a} for q, a in rows]
        write_lines(folder / f"gsm8k_{name}-1.jsonl", lines)
    return folder


def question(subject: str, text: str, choices: list[str], answer: int) -> dict[str, Any]:
    return {
        "subject": subject.replace(" ", "_"), "question": text, "choices": choices, "answer": answer
    }  # fmt: skip


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def texts() -> list[str]:
    """What no output may hold."""
    mmlu = [text for _, q, c in ITEMS for text in (q, *c) if len(text) > 6]
    return mmlu + [q for _, q, _, _ in SOLVED] + [q for q, _ in PROBLEMS + WORKED]
