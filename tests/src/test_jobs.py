"""`alpenglow jobs`: check, preview and submit, by the command and without torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from alpenglow import jobs
from alpenglow.jobs import check, preview, submit
from alpenglow_lsf import machine

ROOT = Path(__file__).parents[2]
SHIPPED = sorted(str(path) for path in (ROOT / "jobs").glob("*.lsf"))
SCRIPT = "#!/bin/bash\n#BSUB -W 1:00\n#BSUB -nnodes 2\njsrun -n2 -c42 -b rs hostname\n"


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("ALPENGLOW_MACHINE", "laptop")
    monkeypatch.delenv("ALPENGLOW_RUN", raising=False)


def test_the_verbs_have_mains() -> None:
    assert {"check", "preview", "submit"} <= set(jobs.VERBS)
    for verb in jobs.VERBS:
        assert jobs.main([verb, "--help"]) == 0


def test_exit_codes_of_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert jobs.main(["check", *SHIPPED]) == 0
    assert "0 findings" in capsys.readouterr().err
    wrong = tmp_path / "wrong.lsf"
    wrong.write_text(SCRIPT.replace("1:00", "3:00"))
    assert jobs.main(["check", str(wrong)]) == 1
    said = capsys.readouterr().out
    assert said == (
        f"{wrong}:2: -W 3:00 is more than 2 h, the limit of summit's queue batch for 1-45 nodes; "
        "ask for less, or for 46 nodes or more [bin]\n"
    )
    assert jobs.main(["check", str(tmp_path / "none.lsf")]) == 1
    assert "no source" not in capsys.readouterr().err
    assert jobs.main(["check", str(wrong), "--machine", "lassen"]) == 1
    assert "no source of the site confirms node.nodes" in capsys.readouterr().err
    for usage in ([], ["chekc"], ["check"], ["check", "x", "--machine", "sumit"]):
        assert jobs.main(usage) == 2
    assert "did you mean summit?" in capsys.readouterr().err


def test_check_without_a_machine_says_how(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("ALPENGLOW_MACHINE")
    assert jobs.main(["check", *SHIPPED]) == 2
    assert "--machine NAME" in capsys.readouterr().err
    assert jobs.main(["check", *SHIPPED, "--machine", "summit"]) == 0


@pytest.mark.parametrize("verb", ["check", "preview"])
def test_nothing_heavy_is_imported(verb: str) -> None:
    script = "jobs/pretrain_7b.lsf"
    code = (
        "import sys\n"
        "from alpenglow.jobs import main\n"
        f"assert main([{verb!r}, {script!r}, '--machine', 'summit']) == 0\n"
        "heavy = {'torch', 'deepspeed', 'dask', 'numpy', 'h5py', 'transformers'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    paths = [str(ROOT / name) for name in ("src", "lsf", "profiling", "analysis")]
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.DEVNULL,
    )


def test_preview_of_512_nodes(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["preview", "jobs/pretrain_7b.lsf", "--machine", "summit"]
    assert jobs.main(words) == 0
    shown = capsys.readouterr().out
    for text in (
        "layout     pipeline 12 x tensor 2 x data 128",
        "2,048 sequences = 4,194,304 tokens a step; 16 micro-batches of 1",
        "segments unknown without a rate",
        "tensor group 2-3: ACROSS the sockets' bus",
        "GB of 16 a GPU",
        "8.5% idle for the largest stage",
        "replica 0 lies on 4 of 512 nodes",
        "data-major",
        "seats      stages in rank order: 0 1 2 3 4 5 6 7 8 9 11 10",
    ):
        assert text in shown
    assert jobs.main([*words, "--tokens-per-second", "900000"]) == 0
    # 238,657 steps of 2^22 tokens at 9e5 a second: 308.9 h of work in segments of 12 h less 10 min.
    shown = capsys.readouterr().out
    assert "27 segments, 313 h, 160,487 node-hours at 900,000 tokens/s (given)" in shown
    assert jobs.main([*words, "--tokens-per-second", "0"]) == 1


def test_preview_measures_the_run_that_is_there(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "segments").mkdir(parents=True)
    assert preview.measured(run) is None
    rows = [{"tokens_per_s": r, "tokens": 100 * i} for i, r in enumerate((9.0, 10.0, 30.0), 1)]
    text = "cut off}\n" + "".join(json.dumps(row) + "\n" for row in rows) + '{"tok'
    (run / "metrics.jsonl").write_text(text)
    (run / "segments" / "1.0.json").write_text('{"startup_s": 40.0, "save_s": 20.0}')
    (run / "segments" / "2.0.json").write_text("not json")
    rate = preview.measured(run)
    assert rate is not None
    assert (rate.tokens_per_second, rate.done, rate.lost_s) == (10.0, 300.0, 60.0)
    # What a laptop reached says nothing about 512 nodes.
    (run / "run.toml").write_text('[machine]\nname = "laptop"\n')
    assert preview.measured(run, "laptop") == rate
    assert preview.measured(run, "summit") is None


def test_preview_of_a_broken_script_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.lsf"
    bad.write_text(SCRIPT.replace("-c42", "-c43"))
    assert jobs.main(["preview", str(bad)]) == 1
    assert "43 cores, but a node has 42" in capsys.readouterr().err


def test_submit_checks_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ALPENGLOW_SPOOL", str(tmp_path / "spool"))
    wrong = tmp_path / "wrong.lsf"
    wrong.write_text(SCRIPT.replace("jsrun -n2 -c42 -b rs", "python -m x\njsrun -n2 -c42 -b rs"))
    assert jobs.main(["submit", str(wrong)]) == 1
    said = capsys.readouterr().err
    assert f"{wrong}:4: python would run on the launch node" in said
    assert said.endswith("Job not submitted.\n")
    assert not (tmp_path / "spool").exists()
    assert jobs.main(["submit", str(wrong), "-Wx"]) == 2
    assert jobs.main(["submit"]) == 2
    # Options of the command line are part of what is checked.
    good = tmp_path / "good.lsf"
    good.write_text(SCRIPT)
    assert jobs.main(["submit", str(good), "-W", "3:00"]) == 1
    assert "-W 3:00 is more than 2 h" in capsys.readouterr().err


def test_submit_asks_for_the_project_where_the_site_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ALPENGLOW_MACHINE", "summit")
    good = tmp_path / "good.lsf"
    good.write_text(SCRIPT)
    assert submit.main([str(good)]) == 1
    assert "-P is missing" in capsys.readouterr().err
    # With one it goes to bsub: a stand-in on PATH that records its words.
    bsub = tmp_path / "bin" / "bsub"
    bsub.parent.mkdir()
    bsub.write_text(
        f"#!/bin/sh\nprintf '%s\\n' \"$@\" > {tmp_path}/words\n"
        "echo 'Job <17> is submitted to queue <batch>.'\n"
    )
    bsub.chmod(0o755)
    monkeypatch.setenv("PATH", f"{bsub.parent}:{os.environ['PATH']}")
    assert submit.main([str(good), "-P", "GEO123"]) == 0
    assert capsys.readouterr().out == "Job <17> is submitted.\n"
    assert (tmp_path / "words").read_text().split() == ["-P", "GEO123", str(good)]


def test_a_recipe_is_read_as_on_the_machine_that_is_checked_against(tmp_path: Path) -> None:
    # On a laptop the script is Summit's, so the recipe is: 3,072 ranks, not 8.
    found = check.findings(ROOT / "jobs" / "pretrain_7b.lsf", machine.load("laptop"))
    assert [f.rule for f in found] == ["placement"]


def test_the_nodes_of_a_queue_count(tmp_path: Path) -> None:
    # 32 GB a GPU hold without recompute what 16 GB do not.
    text = (ROOT / "jobs" / "pretrain_7b.lsf").read_text().replace("-W 12:00", "-W 2:00")
    text = text.replace("512", "32").replace(
        "train jobs/pretrain_7b.toml",
        "train jobs/pretrain_7b.toml train.attention=plain",
    )
    path = tmp_path / "job.lsf"
    summit = machine.load("summit")
    for queue, rules in (("batch", ["memory"]), ("batch-hm", [])):
        path.write_text(text.replace("-q batch", f"-q {queue}"))
        found = [f for f in check.findings(path, summit) if f.refuses]
        assert [f.rule for f in found] == rules, [str(f) for f in found]
