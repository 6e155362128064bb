"""What is told of a run, on records that a clock of our own has dated."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from alpenglow_lsf.scheduler import JobState, JobStatus
from alpenglow_lsf.status import StatusError, main, render, status

if TYPE_CHECKING:
    from tests.lsf.conftest import Site

HOUR = 3600.0


def write(run: Path, job: int, **fields: Any) -> None:
    record = {
        "format": 1, "job_id": str(job), "attempt": 1, "activity": "pretrain",
        "nodes_charged": 10, "walltime_s": 12 * HOUR, "estimated": False, "then": [],
        "successor": {"job_id": str(job + 1), "script": "t.lsf", "standing": "submitted"},
        **fields,
    }  # fmt: skip
    (run / "segments").mkdir(parents=True, exist_ok=True)
    (run / f"segments/{job}.1.json").write_text(json.dumps(record))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Two whole segments of 1,000 steps, one that crashed after 4 of 6 hours' work was safe."""
    path = tmp_path / "runs/x"
    for number, (since, durable, hours, reason) in enumerate(
        ((0, 1000, 10, "more to do"), (1000, 2000, 10, "more to do"), (2000, 2400, 6, "failed"))
    ):
        start = number * 20 * HOUR
        write(
            path,
            101 + number,
            submitted=start - 9 * HOUR,
            started=start,
            ended=start + hours * HOUR,
            resumed_from_step=since,
            last_step=durable + (150 if reason == "failed" else 0),
            last_durable_checkpoint=durable,
            reason=reason,
            reason_text="jsrun exited with code 85" if reason != "failed" else "node lost",
            estimated=reason == "failed",
        )
    (path / "progress.json").write_text(json.dumps({"activity": "pretrain", "total": 5000}))
    return path


def waits(job_id: str) -> JobStatus | None:
    return JobStatus(job_id, JobState.PENDING, reason="waits for ended(103)")


def test_the_forecast_is_the_pace_with_losses_and_queues(run: Path) -> None:
    found = status(run, waits, now=50 * HOUR)
    assert [s["gained"] for s in found["segments"]] == [1000, 1000, 400]
    assert found["node_hours"] == pytest.approx(260.0)
    assert (found["durable_step"], found["step"], found["total_steps"]) == (2400, 2550, 5000)
    coming = found["forecast"]
    # 2,400 steps took 26 hours; 2,600 are left: 28.17 hours in segments of 10.
    assert coming["steps"] == 2600
    assert coming["seconds_per_step"] == pytest.approx(26 * HOUR / 2400)
    assert coming["segments"] == 3
    assert coming["node_hours"] == pytest.approx(10 * 2600 * 26 / 2400)
    # The first waited 9 hours, the others 9 and 10 since the end of the one before.
    assert coming["queue_s"] == pytest.approx((9 + 9 + 9) / 3 * HOUR, rel=0.1)
    end = 50 * HOUR + 2600 * 26 * HOUR / 2400 + 3 * coming["queue_s"]
    assert coming["end"] == pytest.approx(end)
    assert [job["job_id"] for job in found["waiting"]] == ["104"]


def test_a_running_segment_counts_with_its_rest(run: Path) -> None:
    fields = {"resumed_from_step": 2400, "last_step": 2900, "last_durable_checkpoint": 2800}
    write(run, 104, started=60 * HOUR, submitted=60 * HOUR, ended=None, reason=None, **fields)
    found = status(run, lambda _: None, now=65 * HOUR)
    coming = found["forecast"]
    pace = (26 + 5) * HOUR / (2400 + 500)
    assert coming["steps"] == 2100
    assert coming["seconds_per_step"] == pytest.approx(pace)
    # 22.4 hours of work: 7 in the segment that runs, the rest in two of 10.
    assert coming["segments"] == 2
    assert found["waiting"] == [
        {
            "job_id": "105",
            "script": "t.lsf",
            "state": "?",
            "why": "the scheduler does not know this job (any more)",
        }
    ]
    assert "still open" in render(found)


def test_the_text_is_aligned_and_says_what_is_estimated(run: Path) -> None:
    text = render(status(run, waits, now=50 * HOUR))
    lines = text.splitlines()
    assert lines[0].split()[:4] == ["segment", "started", "hours", "nodes"]
    place = lines[0].index("ended because")
    assert lines[1][place:] == "more to do: jsrun exited with code 85"
    assert lines[3][place:] == "failed: node lost"
    assert "~6.00" in lines[3] and "~60.0" in lines[3]
    assert "safe up to step 2400 of 5000 (48%)" in text
    assert "waiting   job 104 t.lsf: PEND waits for ended(103)" in text
    assert "3 more segments" in text
    assert "~ estimated" in text


def test_nodes_left_out_are_named(run: Path) -> None:
    write(
        run, 104, started=60 * HOUR, ended=61 * HOUR, reason="complete", nodes_used=8,
        left_out=[f"h{n}" for n in range(9)],
    )  # fmt: skip
    found = status(run, lambda _: None, now=65 * HOUR)
    assert (found["segments"][-1]["nodes_used"], len(found["segments"][-1]["left_out"])) == (8, 9)
    line = "left out  h0, h1, h2, h3, h4, h5, h6, h7, ... of segment 104.1, which used the other"
    assert line in render(found)


def test_a_complete_run_has_no_forecast(run: Path) -> None:
    write(
        run, 104, started=60 * HOUR, ended=61 * HOUR, reason="complete", resumed_from_step=2400,
        last_step=5000, last_durable_checkpoint=5000, successor=None,
        then=[{"script": "report.lsf", "job_id": "110"}],
    )  # fmt: skip
    (run / "STOP").touch()
    found = status(run, waits, now=70 * HOUR)
    assert found["complete"]
    assert found["forecast"] is None
    assert [job["job_id"] for job in found["waiting"]] == ["110"]
    assert "a file STOP" in render(found)


def test_what_has_no_records_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(StatusError):
        status(tmp_path, waits, now=0.0)
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().err == (
        f"alpenglow_lsf.status: {tmp_path} has no segment records: is it a run directory?\n"
    )


def test_the_program_asks_the_scheduler_and_speaks_json(site: Site) -> None:
    run = "exec python -m alpenglow_lsf.run --run runs/x --activity a"
    site.script("after.lsf", "sleep 20")
    site.script("t.lsf", f"{run} --then after.lsf -- jsrun -n1 true")
    job = site.bsub("t.lsf")
    site.wait(job)
    done = site.call(sys.executable, "-m", "alpenglow_lsf.status", "runs/x", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["complete"]
    (waiting,) = found["waiting"]
    assert waiting["job_id"] == str(int(job) + 1)
    assert waiting["state"] in ("PEND", "RUN")
    plain = site.call(sys.executable, "-m", "alpenglow_lsf.status", "runs/x").stdout
    assert f"{job}.1" in plain
