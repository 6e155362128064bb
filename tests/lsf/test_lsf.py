"""The LSF backend against real processes: the stand-ins speak LSF's words."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

from alpenglow_lsf.job import JobSpec
from alpenglow_lsf.lsf import DELIMITER, FIELDS, LSF, parse_status
from alpenglow_lsf.machine import load
from alpenglow_lsf.scheduler import JobState, SchedulerError, Submission, current

if TYPE_CHECKING:
    from tests.lsf.conftest import Site


@pytest.fixture
def here(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.chdir(site.folder)
    for name, value in site.environ.items():
        monkeypatch.setenv(name, value)
    return site


@pytest.mark.parametrize("form", ["file", "stdin"])
def test_both_submission_forms(here: Site, form: Literal["file", "stdin"]) -> None:
    lsf = LSF(dataclasses.replace(load("summit"), submit_form=form))
    script = here.script("s.lsf", 'echo "got $GIFT"; exit 3', "-J asked")
    over = JobSpec(walltime=5, name="over")
    job = lsf.submit(Submission(script, over, environment={"GIFT": "a b"}))
    here.wait(job)
    status = lsf.status(job)
    assert status is not None
    assert (status.state, status.exit_code, status.name) == (JobState.FAILED, 3, "over")
    assert status.walltime_s == 300
    assert status.output == here.folder / f"s.{job}.out"
    assert status.started is not None and abs(status.started - time.time()) < 60
    assert "got a b" in here.output(job)
    assert lsf.status("4711") is None


def test_cancel_and_refusals(here: Site) -> None:
    lsf = LSF(load("summit"))
    script = here.script("s.lsf", "exec sleep 50")
    job = lsf.submit(Submission(script))
    lsf.cancel([job], "KILL")
    assert here.wait(job)["state"] == "EXIT"
    with pytest.raises(SchedulerError, match="already finished"):
        lsf.cancel([job])
    with pytest.raises(SchedulerError, match="-W 5:00 is more than 2 h"):
        lsf.submit(Submission(script, JobSpec(walltime=300)))
    with pytest.raises(SchedulerError, match="no script"):
        lsf.submit(Submission(Path("none.lsf")))


def test_a_machine_names_its_scheduler(here: Site) -> None:
    assert isinstance(current(load("summit")), LSF)
    local = current(load("laptop"))
    job = local.submit(Submission(here.script("s.lsf", "true")))
    here.wait(job)
    status = local.status(job)
    assert status is not None and status.state is JobState.DONE


def test_without_lsf_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SchedulerError, match="no bjobs on PATH"):
        LSF(load("summit")).status("1")


def line(**values: str) -> str:
    return DELIMITER.join(values.get(name, "-") for name in FIELDS)


@pytest.mark.parametrize("state", list(JobState))
def test_every_state_word_of_lsf_is_known(state: JobState) -> None:
    assert parse_status(line(jobid="1", stat=state.value)).state is state


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [("120.0", 7200), ("120.0/batch2", 7200), ("2:30", 9000), ("90.0 min of h", 5400), ("-", None)],
)
def test_run_limits(limit: str, seconds: float | None) -> None:
    assert parse_status(line(jobid="1", stat="RUN", runtimelimit=limit)).walltime_s == seconds


def test_times_with_and_without_a_year() -> None:
    moment = time.mktime((2026, 3, 7, 9, 5, 30, 0, 0, -1))
    full = parse_status(line(jobid="1", stat="RUN", start_time="Mar  7 09:05:30 2026 L"))
    assert full.started == moment
    recent = time.localtime(time.time() - 3600)
    short = parse_status(
        line(jobid="1", stat="RUN", start_time=time.strftime("%b %d %H:%M", recent))
    )
    assert short.started is not None and abs(short.started - (time.time() - 3600)) < 61
    assert parse_status(line(jobid="1", stat="RUN", start_time="soon")).started is None
