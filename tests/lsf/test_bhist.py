from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.lsf.conftest import Site


def unfolded(text: str) -> str:
    assert max(map(len, text.splitlines())) <= 79
    return re.sub(r"\n {21}", "", text)


def test_the_history_of_a_job_that_was_signalled_and_failed(site: Site) -> None:
    site.script("h.lsf", "trap 'exit 7' USR1; echo ready; while :; do sleep 0.05; done", "-P GEO1")
    first = site.bsub("-J", "told", "h.lsf")
    second = site.bsub("-w", f"done({first})", "h.lsf")
    site.until(lambda: bool(site.job(first)["process"]) and "ready" in site.output(first))
    site.call("bkill", "-s", "USR1", first)
    site.wait(first)
    site.until(lambda: "never" in site.job(second)["reason"])
    site.call("bkill", second)
    site.wait(second)
    text = unfolded(site.call("bhist", "-l", first).stdout)
    assert text.startswith(f"Job <{first}>, Job Name <told>, User <")
    events = [
        "Submitted from host",
        "Dispatched 85 Task(s) on Host(s) <batch1> <node1> <node2>",
        f"Starting (Pid {site.job(first)['process']})",
        "Signal <USR1> requested by user or administrator",
        "Exited with exit code 7. The CPU time used is ",
        "Completed <exit>;",
        "Summary of time in seconds spent in various states by",
    ]
    places = [text.index(event) for event in events]
    assert places == sorted(places)
    stamped = re.findall(r"^\w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d: ", text, re.MULTILINE)
    assert len(stamped) == 6
    header, numbers = text.splitlines()[-2:]
    assert header.split() == ["PEND", "PSUSP", "RUN", "USUSP", "SSUSP", "UNKWN", "TOTAL"]
    counts = [int(n) for n in numbers.split()]
    assert counts[-1] == sum(counts[:-1])
    waited = unfolded(site.call("bhist", "-l", second, LSB_DISPLAY_YEAR="y").stdout)
    assert f"Pending: waits for done({first});" in waited
    assert f"dependency done({first}) is never satisfied" in waited
    assert "Exited; TERM_OWNER: job killed by owner;" in waited
    assert re.search(r"\d\d:\d\d:\d\d \d{4}: Submitted", waited)


def test_walltime_signals_stand_in_the_history(hasty: Site) -> None:
    hasty.script("w.lsf", "trap '' URG USR2; exec sleep 50", "-wa URG -wt 2")
    job = hasty.bsub("-W", "4", "w.lsf")
    hasty.wait(job)
    text = unfolded(hasty.call("bhist", "-l", job).stdout)
    sent = re.findall(r"Signal <(\w+)> sent: ([^;]+);", text)
    assert sent == [
        ("URG", "-wa"),
        ("USR2", "run limit reached"),
        ("KILL", "run limit reached"),
    ]
    assert "Completed <exit>; TERM_RUNLIMIT: job reached its walltime limit;" in text


def test_bhist_lists_what_is_asked_for(site: Site) -> None:
    site.script("h.lsf", "true")
    job = site.bsub("-J", "done", "h.lsf")
    site.wait(job)
    assert site.call("bhist").stderr == "No matching job found\n"
    rows = site.call("bhist", "-a").stdout.splitlines()
    assert rows[0] == "Summary of time in seconds spent in various states:"
    assert rows[1].split()[:3] == ["JOBID", "USER", "JOB_NAME"]
    assert rows[2].split()[0] == job
    assert site.call("bhist", "-J", "done", "-d").stdout.splitlines()[2].split()[0] == job
    assert site.call("bhist", "4711").returncode == 255
    refused = site.call("bhist", "-S", "2026/01/01,")
    assert refused.returncode == 255 and "-S is not emulated" in refused.stderr
