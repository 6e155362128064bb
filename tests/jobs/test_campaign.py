"""The main job, cut short: `jobs/campaign.sh 7b` through the stand-ins, in a folder of its own.

The shipped scripts run as they are; only the laptop's sizes are smaller. Whatever a user would see
is read where a user reads it: the terminal, the jobs' output files, the run directory.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tomli_w

ROOT = Path(__file__).parents[2]
JOB_VARIABLES = ("LSB_", "LS_", "JSM_", "OMPI_", "PMIX_", "PRTE_", "SLURM_", "ALPENGLOW_")

STEPS = 6

pytestmark = [pytest.mark.slow, pytest.mark.mpi, pytest.mark.distributed]


@dataclass(frozen=True)
class Checkout:
    """A user's folder with the shipped jobs."""

    folder: Path
    campaign: subprocess.CompletedProcess[str]

    def call(self, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return call(self.folder, *words, **environ)

    @property
    def run(self) -> Path:
        return self.folder / "runs/pretrain_7b"

    def follow(self, script: str, run: str, **environ: str) -> tuple[int, str]:
        """Submit a script and wait; returns the follower's exit code and the job's output."""
        said = self.call("bsub", script, **environ)
        assert said.returncode == 0, said.stderr
        job = re.findall(r"<(\d+)>", said.stdout)[0]
        done = self.call(sys.executable, "-m", "alpenglow_lsf.follow", "--watch", f"{job}={run}")
        outputs = [path.read_text() for path in sorted(self.folder.glob(f"*.{job}.*"))]
        return done.returncode, "\n".join(outputs)


def call(folder: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(JOB_VARIABLES)}
    path = [str(ROOT / "lsf/bin"), str(Path(sys.executable).parent), kept["PATH"]]
    ours = {
        "PATH": os.pathsep.join(path),
        "ALPENGLOW_ROOT": str(folder),
        "ALPENGLOW_MACHINE": "laptop",
        "ALPENGLOW_ENVIRONMENT": "/dev/null",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    return subprocess.run(
        words,
        cwd=folder,
        env={**kept, **ours, **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=420,
        check=False,
    )


def shrink(path: Path, changes: dict[str, Any]) -> None:
    """Lay changes over a recipe's [laptop] table."""

    def lay(base: dict[str, Any], top: dict[str, Any]) -> None:
        for key, value in top.items():
            if isinstance(value, dict) and isinstance(base.get(key), dict):
                lay(base[key], value)
            else:
                base[key] = value

    tables = tomllib.loads(path.read_text())
    lay(tables["laptop"], changes)
    path.write_text(tomli_w.dumps(tables))


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    folder = tmp_path_factory.mktemp("a checkout")
    shutil.copytree(ROOT / "jobs", folder / "jobs")
    shutil.copytree(ROOT / "env/machines", folder / "env/machines")
    shrink(
        folder / "jobs/prepare_data.toml",
        {
            "unit_bytes": 200_000,
            "tokenizer": {"sample_bytes": 300_000, "vocab_size": 1024},
            "slices": {
                "github": {"max_bytes": 900_000},
                "commoncrawl": {"max_bytes": 500_000},
                # Present on no machine: an optional slice that is left out with a sentence.
                "wikipedia": {"origin": "folder"},
            },
        },
    )
    shrink(
        folder / "jobs/pretrain_7b.toml",
        {
            "batch": {"global_batch_size": 32, "micro_batch_size": 4, "sequence_length": 64},
            "train": {"tokens": STEPS * 32 * 64, "checkpoint_every": 4, "log_every": 1},
            # Of so little text, a small share may hold no document whole, whichever files it is.
            "data": {"validation_fraction": 0.4, "validation_samples": 512},
        },
    )
    yield Checkout(folder, call(folder, "jobs/campaign.sh", "7b"))
    call(folder, "bkill", "0")


def test_the_campaign_ends_well_and_says_what_to_open(checkout: Checkout) -> None:
    done = checkout.campaign
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.strip().splitlines()[-1]
    assert last.startswith("Open runs/pretrain_7b/report/index.html")
    for name in re.findall(r"runs/\S+", last):
        assert (checkout.folder / name).is_file()


def test_every_job_left_a_closed_record(checkout: Checkout) -> None:
    records = [json.loads(p.read_text()) for p in checkout.folder.glob("runs/*/segments/*.1.json")]
    assert {r["activity"] for r in records} == {"prepare", "pretrain", "report", "convert"}
    for record in records:
        assert record["reason"] == "complete"
        assert record["exit_code"] == 0
        assert record["ended"] > record["started"]
    (pretrain,) = (r for r in records if r["activity"] == "pretrain")
    assert [t["script"] for t in pretrain["then"]] == ["jobs/report.lsf", "jobs/convert.lsf"]
    nodes = [pretrain[f"nodes_{word}"] for word in ("asked", "used", "charged")]
    assert (pretrain["ranks"], nodes) == (8, [512, 2, 2])
    assert pretrain["last_durable_checkpoint"] == STEPS
    events = [path.name for path in sorted(checkout.run.glob("events/*/*.h5"))]
    assert events == ["node1.h5", "node2.h5"]


def test_the_loss_falls(checkout: Checkout) -> None:
    lines = (checkout.run / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line) for line in lines]
    assert [s["step"] for s in steps] == list(range(1, STEPS + 1))
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert steps[-1]["tokens"] == STEPS * 32 * 64


def test_the_report_stands_alone(checkout: Checkout) -> None:
    page = (checkout.run / "report/index.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    assert page.count("<svg") + page.count("data:image/") >= 5
    assert (checkout.run / "report/report.md").is_file()


def test_transformers_loads_the_release(checkout: Checkout) -> None:
    code = (
        "import sys, torch, transformers\n"
        "folder = sys.argv[1]\n"
        "model = transformers.AutoModelForCausalLM.from_pretrained(folder)\n"
        "tokenizer = transformers.AutoTokenizer.from_pretrained(folder)\n"
        "ids = tokenizer('def main():', return_tensors='pt').input_ids\n"
        "out = model.generate(ids, max_new_tokens=5, do_sample=False)\n"
        "assert out.shape[1] > ids.shape[1] and model.config.use_parallel_residual is False\n"
    )
    folder = str(checkout.run / "release/huggingface")
    done = checkout.call(sys.executable, "-c", code, folder)
    assert done.returncode == 0, done.stderr


def test_a_finished_run_is_not_run_again(checkout: Checkout) -> None:
    before = (checkout.run / "metrics.jsonl").read_bytes()
    code, output = checkout.follow("jobs/prepare_data.lsf", "runs/prepare_data")
    assert code == 0
    assert "up to date" in output
    code, output = checkout.follow("jobs/pretrain_7b.lsf", "runs/pretrain_7b")
    assert code == 0
    assert "complete" in output
    assert (checkout.run / "metrics.jsonl").read_bytes() == before


def test_a_recipe_with_an_unknown_key_ends_in_one_sentence(checkout: Checkout) -> None:
    path = checkout.folder / "jobs/pretrain_7b.toml"
    before = path.read_text()
    path.write_text(before.replace("global_batch_size", "global_batchsize", 1))
    # In another run: nothing is started for a complete one.
    script = checkout.folder / "jobs/unknown.lsf"
    text = (checkout.folder / "jobs/pretrain_7b.lsf").read_text()
    script.write_text(text.replace("runs/pretrain_7b", "runs/unknown"))
    try:
        code, output = checkout.follow("jobs/unknown.lsf", "runs/unknown")
    finally:
        path.write_text(before)
    assert code != 0
    assert "unknown key batch.global_batchsize; did you mean batch.global_batch_size?" in output
    assert "Traceback" not in output


def test_a_missing_shard_ends_in_one_sentence(checkout: Checkout) -> None:
    shard = next((checkout.folder / "shards").glob("github-*.h5"))
    hidden = shard.with_suffix(".hidden")
    shard.rename(hidden)
    script = checkout.folder / "jobs/other.lsf"
    text = (checkout.folder / "jobs/pretrain_7b.lsf").read_text()
    script.write_text(text.replace("runs/pretrain_7b", "runs/other"))
    try:
        code, output = checkout.follow("jobs/other.lsf", "runs/other")
    finally:
        hidden.rename(shard)
    assert code != 0
    assert f"{shard.name}: the catalogue lists this shard, and it is missing" in output
    assert "Traceback" not in output
    assert not list(checkout.folder.glob("runs/other/checkpoints/*"))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("-W 12:00", "-W 13:00"), "-W 13:00 is more than 12 h"),
        (("-nnodes 512", "-nnodes 9000"), "-nnodes 9000 is more than queue batch"),
        (("-g6", "-g7"), "7 GPUs"),
        (("-nnodes 512", "-nnode 512"), "-nnode"),
    ],
)
def test_what_summit_would_refuse_is_refused_at_submission(
    checkout: Checkout, change: tuple[str, str], sentence: str
) -> None:
    script = checkout.folder / "jobs/wrong.lsf"
    text = (checkout.folder / "jobs/pretrain_7b.lsf").read_text()
    script.write_text(text.replace(*change))
    said = checkout.call("bsub", "jobs/wrong.lsf")
    assert said.returncode != 0
    assert sentence in said.stderr
    assert len(said.stderr.strip().splitlines()) == 1
