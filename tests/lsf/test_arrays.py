from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpenglow_lsf.arrays import key_of, parse_array, parse_id, parse_indices
from alpenglow_lsf.options import OptionError

if TYPE_CHECKING:
    from tests.lsf.conftest import Site


def test_names_of_arrays() -> None:
    array = parse_array("scan[1-10:3,20]%2")
    assert array is not None
    assert (array.name, array.indices, array.limit) == ("scan", (1, 4, 7, 10, 20), 2)
    assert parse_array("plain") is None and parse_array(None) is None
    one = parse_array("one[5]")
    assert one is not None and one.limit is None


@pytest.mark.parametrize(
    "text", ["[1-3]", "a[]", "a[0]", "a[3-1]", "a[1-3]x", "a[1-3]%", "a[1,1]", "a[x]", "a[1", "a]",
             "a[1-9999999999]", "a[1-3:0]"],
)  # fmt: skip
def test_what_is_no_array_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(OptionError) as caught:
        parse_array(text)
    assert "\n" not in str(caught.value) and str(caught.value).startswith("bsub: -J")


@given(st.sets(st.integers(1, 500), min_size=1, max_size=30), st.integers(1, 10**6))
def test_ids_are_read_as_they_are_written(indices: set[int], job_id: int) -> None:
    text = ",".join(str(i) for i in sorted(indices))
    assert parse_indices(text, "here") == tuple(sorted(indices))
    assert parse_id(f"{job_id}[{text}]") == (job_id, tuple(sorted(indices)))
    assert parse_id(key_of(job_id, min(indices))) == (job_id, (min(indices),))
    assert parse_id(key_of(job_id, 0)) == (job_id, None)


def test_an_array_runs_within_its_limit(site: Site) -> None:
    (site.spool / "settings.toml").write_text("jobs_at_once = 4\n")
    body = (
        "touch on.$LSB_JOBINDEX; ls on.* | wc -l >> seen; echo $LSB_JOBID $LSB_JOBINDEX "
        "$LSB_JOBNAME $LSB_OUTPUTFILE; sleep 0.2; rm on.$LSB_JOBINDEX; [ $LSB_JOBINDEX != 4 ]"
    )
    site.script("a.lsf", body)
    text = (site.folder / "a.lsf").read_text().replace("a.%J.out", "a.%J.%I.out")
    (site.folder / "a.lsf").write_text(text)
    job = site.bsub("-J", "scan[1-4,7]%2", "a.lsf")
    whole = site.bsub("-J", "whole", "-w", "done(scan)", "-o", "whole", "a.lsf")
    part = site.bsub("-J", "part", "-w", "done(scan[7]) && exit(scan[4])", "-o", "part", "a.lsf")
    keys = [f"{job}[{i}]" for i in (1, 2, 3, 4, 7)]
    site.until(lambda: "element limit (%2" in site.job(keys[4])["reason"])
    listed = site.call("bjobs", "-noheader", "-o", "jobid jobindex job_name", job).stdout
    assert listed.splitlines()[0].split() == [job, "1", "scan[1]"]
    assert len(listed.splitlines()) == 5
    states = [site.wait(key)["state"] for key in keys]
    assert states == ["DONE", "DONE", "DONE", "EXIT", "DONE"]
    # jobs_at_once would let four run: the array's own limit is what held them.
    assert max(int(n) for n in (site.folder / "seen").read_text().split()) == 2
    for key, index in zip(keys, (1, 2, 3, 4, 7), strict=True):
        name = f"a.{job}.{index}.out"
        assert site.job(key)["output"] == name
        assert (site.folder / name).read_text().startswith(f"{job} {index} scan[{index}] {name}\n")
    assert site.wait(part)["state"] == "DONE"
    site.until(lambda: "never satisfied" in site.job(whole)["reason"])
    site.call("bkill", whole)


def test_elements_are_killed_by_range_and_an_array_as_a_whole(site: Site) -> None:
    (site.spool / "settings.toml").write_text("jobs_at_once = 2\n")
    site.script("a.lsf", "exec sleep 50")
    job = site.bsub("-J", "sleepy[1-5]", "a.lsf")
    site.wait(f"{job}[1]", "RUN")
    assert site.call("bkill", f"{job}[3-4]").returncode == 0
    assert [site.wait(f"{job}[{i}]")["state"] for i in (3, 4)] == ["EXIT", "EXIT"]
    assert site.state(f"{job}[5]") == "PEND"
    assert site.call("bkill", f"{job}[9]").returncode == 255
    site.call("bkill", "-s", "KILL", job)
    assert {site.wait(f"{job}[{i}]")["state"] for i in (1, 2, 5)} == {"EXIT"}
    rows = json.loads(site.call("bjobs", "-a", "-o", "jobid stat", "-json", job).stdout)
    assert rows["JOBS"] == 5


def test_bkill_0_ends_all_unfinished_jobs(site: Site) -> None:
    site.script("a.lsf", "exec sleep 50")
    jobs = [site.bsub("a.lsf") for _ in range(2)]
    site.wait(jobs[0], "RUN")
    assert site.call("bkill", "-s", "KILL", "0").returncode == 0
    assert [site.wait(job)["state"] for job in jobs] == ["EXIT", "EXIT"]


def test_an_array_as_a_scheduler_sees_it(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    from alpenglow_lsf import machine
    from alpenglow_lsf.local import Local
    from alpenglow_lsf.scheduler import JobState

    site.script("a.lsf", "exit $((LSB_JOBINDEX - 1))")
    job = site.bsub("-J", "some[1-2]", "a.lsf")
    for key in (f"{job}[1]", f"{job}[2]"):
        site.wait(key)
    for name, value in site.environ.items():
        monkeypatch.setenv(name, value)
    backend = Local(machine.current())
    status = backend.status(job)
    assert status is not None
    assert (status.job_id, status.state, status.exit_code) == (job, JobState.FAILED, 1)
    element = backend.status(f"{job}[1]")
    assert element is not None and element.output is not None
    assert (element.job_id, element.state) == (f"{job}[1]", JobState.DONE)
    assert Path(element.output).parent == site.folder
