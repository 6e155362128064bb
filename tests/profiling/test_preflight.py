from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from alpenglow_profiling.preflight import (
    MISSING,
    SLOW,
    Place,
    PreflightError,
    collect,
    expected_hosts,
    judge,
    main,
    write_json,
)

ROOT = Path(__file__).resolve().parents[2]
JOB_VARIABLES = ("LSB_", "LS_", "JSM_", "OMPI_", "PMIX_", "SLURM_", "ALPENGLOW_")

WELL = {"gemm 0": 100.0, "gemm 1": 100.0, "pair 0-1": 40.0, "allreduce": 10.0}


def test_a_node_is_judged_by_its_worst_rate_and_named() -> None:
    reports = {f"node{i}": dict(WELL) for i in range(1, 6)}
    reports["node3"]["pair 0-1"] = 10.0
    reports["node4"]["gemm 1"] = 90.0
    verdict = judge(reports, [], 1.5, 0)
    assert [s.host for s in verdict.slow] == ["node3"]
    assert str(verdict.slow[0]) == (
        "node3: pair 0-1 reaches 10 GB/s, the median is 40: 4.00 times slower"
    )
    assert verdict.exit_code == SLOW
    assert verdict.hosts == ("node1", "node2", "node3", "node4", "node5")
    assert judge(reports, [], 4.5, 0).exit_code == 0


def test_spare_nodes_replace_the_missing_first_and_then_the_slowest() -> None:
    reports = {f"node{i}": dict(WELL) for i in range(1, 6)}
    reports["node3"]["pair 0-1"] = 10.0
    reports["node4"]["gemm 1"] = 90.0
    two = judge(reports, [], 1.5, 2)
    assert (two.left_out, two.exit_code) == (("node3", "node4"), 0)
    assert two.hosts == ("node1", "node2", "node5")
    one_is_gone = judge(reports, ["node6"], 1.5, 1)
    assert (one_is_gone.left_out, one_is_gone.exit_code) == ((), SLOW)
    assert judge(reports, ["node6"], 1.5, 2).exit_code == 0
    assert judge(reports, ["node6"], 1.5, 0).exit_code == MISSING


def test_two_nodes_are_too_few_to_say_which_is_slow() -> None:
    reports = {"node1": dict(WELL), "node2": {**WELL, "gemm 0": 1.0}}
    assert judge(reports, [], 1.5, 0).slow == ()


def test_reports_are_awaited_and_the_missing_named(tmp_path: Path) -> None:
    for host in ("node2", "node1"):
        write_json(tmp_path / f"{host}.json", {"rates": WELL})
    reports, missing = collect(tmp_path, 4, ["node1", "node2", "node9"], 0.1)
    assert list(reports) == ["node1", "node2"]
    assert missing == ["node9", "unnamed node 1"]


def test_who_a_rank_is(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("batch1\n" + "h1\n" * 42 + "h2\n" * 42)
    jsm = {
        "JSM_NAMESPACE_RANK": "7", "JSM_NAMESPACE_SIZE": "12", "JSM_NAMESPACE_LOCAL_RANK": "1",
        "LSB_DJOB_HOSTFILE": str(hosts), "ALPENGLOW_HOST": "h2",
    }  # fmt: skip
    assert expected_hosts(jsm) == ["h1", "h2"]
    assert Place.from_environment(jsm) == Place(7, 12, 1, 6, "h2")
    slurm = {"SLURM_PROCID": "9", "SLURM_NTASKS": "16", "SLURM_LOCALID": "1",
             "SLURM_NTASKS_PER_NODE": "8", "ALPENGLOW_HOST": "x"}  # fmt: skip
    assert Place.from_environment(slurm) == Place(9, 16, 1, 8, "x")
    assert Place.from_environment({"ALPENGLOW_HOST": "x"}) == Place(host="x")
    with pytest.raises(PreflightError, match="no rank numbers"):
        Place.from_environment({**slurm, "SLURM_PROCID": "x"})


def test_bad_words_are_one_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("ALPENGLOW_RUN", raising=False)
    assert main([]) == 1
    assert capsys.readouterr().err == (
        "preflight: say --run DIR, or start this through alpenglow_lsf.run\n"
    )
    assert main(["--run", str(tmp_path), "--factor", "1"]) == 1
    assert "--factor more than 1" in capsys.readouterr().err


@pytest.mark.distributed
def test_two_ranks_measure_a_node_and_become_the_command(tmp_path: Path) -> None:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(JOB_VARIABLES)}
    command = [
        str(ROOT / "lsf/bin/jsrun"), "-n1", "-a2", "-c2",
        sys.executable, "-m", "alpenglow_profiling.preflight", "--run", str(tmp_path / "a run"),
        "--", sys.executable, "-c", "import os; print('flew', os.environ['JSM_NAMESPACE_RANK'])",
    ]  # fmt: skip
    done = subprocess.run(
        command,
        env={
            **kept,
            "ALPENGLOW_MACHINE": "laptop",
            "ALPENGLOW_ROOT": str(ROOT),
            "ALPENGLOW_SEGMENT": "7.1",
            "PYTHONPATH": f"{ROOT / 'profiling'}{os.pathsep}{ROOT / 'lsf'}",
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "a run/preflight/7.1"
    verdict = json.loads((folder / "verdict.json").read_text())
    (host,) = verdict["hosts"]
    assert verdict["exit_code"] == 0
    report = json.loads((folder / f"{host}.json").read_text())
    assert list(report["rates"]) == [
        "allreduce", "copy 0", "copy 1", "gemm 0", "gemm 1", "pair 0-1",
    ]  # fmt: skip
    assert all(0 < rate < 1e6 for rate in report["rates"].values())
    assert sorted(p.name for p in folder.iterdir()) == sorted([f"{host}.json", "verdict.json"])
    lines = done.stdout.splitlines()
    assert "preflight: 1 of 1 nodes measured, too few to compare" in done.stdout
    assert sorted(line for line in lines if line.startswith("flew")) == ["flew 0", "flew 1"]


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("local_size", "code", "says"),
    [("1", MISSING, "preflight: h2: did not report in 2 s\n"), ("2", 1, "did not answer")],
)
def test_a_silent_node_and_a_silent_neighbour_are_named(
    tmp_path: Path, local_size: str, code: int, says: str
) -> None:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(JOB_VARIABLES)}
    hosts = tmp_path / "hosts"
    hosts.write_text("batch1\nh1\nh2\n")
    done = subprocess.run(
        [sys.executable, "-m", "alpenglow_profiling.preflight", "--run", tmp_path, "--timeout", "2",
         "--", "touch", tmp_path / "started"],
        env={
            **kept,
            "LSB_DJOB_HOSTFILE": str(hosts),
            "ALPENGLOW_HOST": "h1",
            "OMPI_COMM_WORLD_RANK": "0",
            "OMPI_COMM_WORLD_SIZE": "2",
            "OMPI_COMM_WORLD_LOCAL_RANK": "0",
            "OMPI_COMM_WORLD_LOCAL_SIZE": local_size,
            "PYTHONPATH": str(ROOT / "profiling"),
        },
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == code
    assert says in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "started").exists()
