from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from alpenglow_profiling.order import Order, OrderError
from alpenglow_profiling.place import Place, PreflightError, expected_hosts, spare_here
from alpenglow_profiling.preflight import main
from alpenglow_profiling.reports import Report, collect
from alpenglow_profiling.verdict import FAILED, MISSING, SLOW, judge

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


def test_what_cannot_be_measured_counts_as_bad() -> None:
    reports = {f"node{i}": dict(WELL) for i in range(1, 4)}
    spared = judge(reports, [], 1.5, 1, failed=["node4"])
    assert (spared.exit_code, spared.left_out) == (0, ("node4",))
    assert judge(reports, [], 1.5, 0, failed=["node4"]).exit_code == FAILED
    assert judge(reports, ["node5"], 1.5, 1, failed=["node4"]).exit_code == MISSING


def test_a_step_shrinks_only_to_sizes_that_were_named() -> None:
    reports = {f"node{i}": dict(WELL) for i in range(1, 7)}
    reports["node2"]["pair 0-1"] = 10.0
    reports["node5"]["gemm 1"] = 95.0
    assert judge(reports, ["node7", "node8"], 1.5, 0).exit_code == MISSING
    assert judge(reports, ["node7", "node8"], 1.5, 0, shrink=(7, 6)).exit_code == MISSING
    shrunk = judge(reports, ["node7", "node8"], 1.5, 0, shrink=(7, 6, 4, 2))
    assert (shrunk.exit_code, shrunk.left_out) == (0, ("node2", "node5"))
    assert shrunk.hosts == ("node1", "node3", "node4", "node6")
    # Sound nodes enough: nothing shrinks.
    assert judge(reports, [], 1.5, 1, shrink=(4,)).hosts == (
        "node1", "node3", "node4", "node5", "node6",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("left_out", "ranks", "kept"),
    [
        # packed: node 1 of three held ranks 2 and 3
        ((2, 3), 6, {0: 0, 1: 1, 4: 2, 5: 3}),
        # cyclic: node 1 of three held ranks 1 and 4; the others still take turns
        ((1, 4), 6, {0: 0, 2: 1, 3: 2, 5: 3}),
    ],
)
def test_ranks_keep_their_order(
    left_out: tuple[int, ...], ranks: int, kept: dict[int, int]
) -> None:
    roster = [rank for rank in range(ranks) if rank not in left_out]
    places = {rank: Place(rank, ranks, rank // 3, 2, "h").among(roster) for rank in roster}
    assert {old: place.rank for old, place in places.items()} == kept
    assert places[5].environment("10.0.0.7") == {
        "ALPENGLOW_RANK": "3", "ALPENGLOW_WORLD_SIZE": "4", "ALPENGLOW_LOCAL_RANK": "1",
        "ALPENGLOW_LOCAL_SIZE": "2", "ALPENGLOW_MASTER_ADDR": "10.0.0.7",
    }  # fmt: skip


def test_spare_nodes_shrink_with_the_step_that_a_stand_in_cuts() -> None:
    assert spare_here(2, 514, {}) == 2
    assert spare_here(2, 3, {"ALPENGLOW_STEP_NODES": "514"}) == 0
    assert spare_here(2, 4, {"ALPENGLOW_STEP_NODES": "8"}) == 1


def test_the_command_line() -> None:
    words = "jsrun -r1 python -m alpenglow_profiling.preflight --spare 2 --shrink 256,384 -- x -- y"
    order = Order.find(words.split())
    assert order == Order(spare=2, shrink=(384, 256), command=("x", "--", "y"))
    assert Order.find(["python", "-m", "alpenglow.train"]) is None
    for wrong in (["--spare", "x"], ["--shrink", "4,0"], ["--spares", "1"], ["--timeout", "0"]):
        with pytest.raises(OrderError):
            Order.parse(wrong)


def test_reports_are_awaited_and_the_missing_named(tmp_path: Path) -> None:
    # The order is that of the ranks, whatever the job's list says.
    for host, ranks in (("node2", (0, 1)), ("node1", (2, 3))):
        Report(host, host, ranks, "cpu", WELL).write(tmp_path)
    Report("node1", "elsewhere", (), "", {}, "too late").write(tmp_path)
    reports, missing = collect(tmp_path, 4, ["node1", "node2", "node9"], 0.1)
    assert list(reports) == ["node2", "node1"]
    assert reports["node1"] == Report("node1", "node1", (2, 3), "cpu", WELL)
    assert missing == ["node9", "unnamed node 1"]


def test_who_a_rank_is(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("batch1\n" + "h1\n" * 42 + "h2\n" * 42)
    jsm = {
        "JSM_NAMESPACE_RANK": "7", "JSM_NAMESPACE_SIZE": "12", "JSM_NAMESPACE_LOCAL_RANK": "1",
        "LSB_DJOB_HOSTFILE": str(hosts), "ALPENGLOW_HOST": "h2",
    }  # fmt: skip
    assert expected_hosts(jsm) == ["h1", "h2"]
    assert Place.from_environment(jsm) == Place(7, 12, 1, 6, "h2", "h2")
    slurm = {"SLURM_PROCID": "9", "SLURM_NTASKS": "16", "SLURM_LOCALID": "1",
             "SLURM_NTASKS_PER_NODE": "8", "ALPENGLOW_HOST": "x"}  # fmt: skip
    assert Place.from_environment(slurm) == Place(9, 16, 1, 8, "x", "x")
    assert Place.from_environment({"ALPENGLOW_HOST": "x"}) == Place(host="x", address="x")
    named = {**slurm, "ALPENGLOW_HOST_ADDRESS": "127.0.0.4"}
    assert Place.from_environment(named).address == "127.0.0.4"
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
    assert main(["--run", str(tmp_path), "--spare", "1"]) == 1
    assert "--spare 1 leaves none of 1 nodes" in capsys.readouterr().err
    assert main(["--fast"]) == 1
    assert capsys.readouterr().err == "preflight: unrecognized arguments: --fast\n"


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


@pytest.mark.distributed
def test_a_node_that_cannot_be_measured_is_left_out_where_there_is_a_spare(tmp_path: Path) -> None:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(JOB_VARIABLES)}
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/torch.py").write_text("raise ImportError('libcudart is missing')\n")
    program = "import os; print(*(os.environ['ALPENGLOW_' + n] for n in ('RANK', 'WORLD_SIZE')))"
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "alpenglow_profiling.preflight", "--run", tmp_path, "--spare",
             "1", "--", sys.executable, "-c", program],
            env={
                **kept,
                "ALPENGLOW_HOST": f"h{rank + 1}",
                "ALPENGLOW_SEGMENT": "7.1",
                "OMPI_COMM_WORLD_RANK": str(rank),
                "OMPI_COMM_WORLD_SIZE": "2",
                "OMPI_COMM_WORLD_LOCAL_RANK": "0",
                "OMPI_COMM_WORLD_LOCAL_SIZE": "1",
                "PYTHONPATH": os.pathsep.join([*path, str(ROOT / "profiling")]),
            },
            stdout=subprocess.PIPE, text=True,
        )
        for rank, path in enumerate(([str(tmp_path / "broken")], []))
    ]  # fmt: skip
    bad, good = (rank.communicate(timeout=120)[0] for rank in ranks)
    assert [rank.returncode for rank in ranks] == [0, 0]
    assert "preflight: h1: no torch to measure with: libcudart is missing\n" in bad
    assert bad.endswith("preflight: h1 stands aside\n")
    # Rank 0 judged, though its own node is the bad one; the other took its number.
    assert good == "0 1\n"
    verdict = json.loads((tmp_path / "preflight/7.1/verdict.json").read_text())
    assert (verdict["failed"], verdict["left_out"], verdict["hosts"]) == (["h1"], ["h1"], ["h2"])
    assert (verdict["ranks"], verdict["master"]) == ([1], "h2")
