"""The whole program in a process of its own: no network is touched, no item shows anywhere."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from held_out_run import make_held_out_run
from small_benchmarks import ITEMS, PROBLEMS, SOLVED, WORKED, texts, write_lines

SUPPORT = Path(__file__).parents[2] / "support"
ROOT = SUPPORT.parents[1]

OWN_TASK = """
task: own_task
dataset_path: json
dataset_kwargs: {{data_files: {{test: {place}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}?"
doc_to_choice: choices
doc_to_target: answer
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""


@pytest.mark.distributed
def test_everything_without_a_network(
    taught_folder: Path, benchmarks: Path, tmp_path: Path
) -> None:
    run, _ = make_held_out_run(tmp_path, "joined")
    own, cache = tmp_path / "own", tmp_path / "cache"
    own.mkdir()
    cache.mkdir()
    rows = [{"question": q, "choices": c, "answer": 1} for _, q, c in ITEMS]
    write_lines(tmp_path / "rows.jsonl", rows)
    (own / "own_task.yaml").write_text(OWN_TASK.format(place=tmp_path / "rows.jsonl"))
    log = tmp_path / "attempts"
    # As a batch script would be with none of the variables that keep libraries offline.
    unset = ("HF_", "TRANSFORMERS_", "TQDM_", "ALPENGLOW_RUN", "ALPENGLOW_MACHINE")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(unset)}
    environment |= {"HF_HOME": str(cache), "TMPDIR": str(cache), "PYTHONWARNINGS": "default"}
    words = [
        f"run={run}", f"model={taught_folder}", f"benchmarks={benchmarks}", "device=cpu",
        "shots.mmlu=2", "shots.gsm8k=1", 'tasks=["mmlu", "gsm8k", "own_task"]',
        f"include_path={own}", "perplexity.windows=4", "batch_size=4",
        f"output={tmp_path / 'evaluation.json'}",
    ]  # fmt: skip
    program = [sys.executable, str(SUPPORT / "blocked_network.py"), str(log)]
    program += ["alpenglow.evaluate.__main__", str(ROOT / "jobs" / "evaluate.toml"), *words]
    done = subprocess.run(
        program, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert log.read_text() == ""
    assert done.stderr == ""
    written = (tmp_path / "evaluation.json").read_text()
    tables = json.loads(written)
    assert [(r["task"], r["implementation"]) for r in tables["results"]] == [
        ("mmlu", "original"), ("mmlu", "whole answer"), ("mmlu", "whole answer"),
        ("mmlu", "helm"), ("gsm8k", "lm_eval"), ("gsm8k", "lm_eval"), ("own_task", "lm_eval"),
    ]  # fmt: skip
    assert all(r["items"] == r["of"] for r in tables["results"])
    assert tables["harness"]["commit"] is None
    assert {row["slice"] for row in tables["perplexity"]} == {
        "github", "wikipedia", "mixture", "all"
    }  # fmt: skip
    assert "mmlu  " in done.stdout
    assert "helm" in done.stdout
    shown = done.stdout + done.stderr + written + (run / "progress.json").read_text()
    assert not [text for text in texts() if text in shown]
    # What the harness needed on disk for our tasks is gone; only the user's own task keeps a cache.
    assert not list(cache.glob("alpenglow-evaluate-*"))
    left = b"".join(path.read_bytes() for path in cache.rglob("*") if path.is_file())
    assert ITEMS[0][1].encode() in left
    solved = [q for _, q, _, _ in SOLVED] + [q for q, _ in PROBLEMS + WORKED]
    assert not [text for text in solved if text.encode() in left]


def test_an_attempt_is_seen(tmp_path: Path) -> None:
    """The gate itself closes and tells."""
    (tmp_path / "caller.py").write_text(
        "import socket\n"
        "def main(words):\n"
        "    try:\n"
        "        socket.create_connection(('192.0.2.1', 80), timeout=1)\n"
        "    except OSError:\n"
        "        pass\n"
        "    try:\n"
        "        socket.getaddrinfo('huggingface.co', 443)\n"
        "    except OSError:\n"
        "        return 0\n"
        "    return 1\n"
    )
    log = tmp_path / "attempts"
    subprocess.run(
        [sys.executable, str(SUPPORT / "blocked_network.py"), str(log), "caller"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        check=True,
    )
    assert "192.0.2.1" in log.read_text()
    assert "huggingface.co" in log.read_text()


def test_a_job_that_is_ended_leaves_no_items(
    taught_folder: Path, benchmarks: Path, tmp_path: Path
) -> None:
    """The scheduler's SIGTERM comes while the harness holds the items."""
    many, temporary = tmp_path / "many", tmp_path / "tmp"
    temporary.mkdir()
    shutil.copytree(benchmarks, many)
    rows = (many / "mmlu_test-1.jsonl").read_text()
    (many / "mmlu_test-1.jsonl").write_text(rows * 400)
    words = [f"model={taught_folder}", f"benchmarks={many}", "perplexity.windows=0", "device=cpu"]
    words += ["shots.mmlu=2", f"output={tmp_path / 'evaluation.json'}", f"run={tmp_path}"]
    program = [sys.executable, "-m", "alpenglow.evaluate", str(ROOT / "jobs" / "evaluate.toml")]
    environment = os.environ | {"TMPDIR": str(temporary)}
    with subprocess.Popen([*program, *words], env=environment, stdout=subprocess.DEVNULL) as job:
        while job.poll() is None:
            if list(temporary.glob("alpenglow-evaluate-*/cache/json")):
                job.terminate()
                break
            time.sleep(0.01)
        assert job.wait(60) == -signal.SIGTERM
    assert not list(temporary.glob("alpenglow-evaluate-*"))
    assert not (tmp_path / "evaluation.json").exists()
