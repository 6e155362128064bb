from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.lsf.conftest import Site


def test_bpeek_shows_what_there_is_and_f_follows_to_the_end(site: Site) -> None:
    body = "echo early; while [ ! -e go ]; do sleep 0.05; done; printf late"
    site.script("p.lsf", body, "-J peeked")
    job = site.bsub("p.lsf")
    waiting = site.bsub("p.lsf")
    site.until(lambda: bool(site.job(job)["process"]) and "early" in site.output(job))
    assert site.call("bpeek", job).stdout == "<< output from stdout >>\nearly\n"
    assert site.call("bpeek").stdout == "<< output from stdout >>\nearly\n"
    assert "early" in site.call("bpeek", "-J", "peeked").stdout
    not_yet = site.call("bpeek", waiting)
    assert (not_yet.returncode, not_yet.stdout) == (255, "")
    assert not_yet.stderr == f"Job <{waiting}>: Not yet started.\n"
    follower = site.start("bpeek", "-f", job)
    try:
        assert follower.stdout is not None
        assert [follower.stdout.readline() for _ in range(2)][-1] == "early\n"
        (site.folder / "go").touch()
        rest, _ = follower.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        follower.kill()
        raise
    assert rest.startswith("late\n---") and "Successfully completed." in rest
    assert follower.returncode == 0
    site.wait(waiting)
    ended = site.call("bpeek", job)
    assert ended.returncode == 255 and "Job has already finished" in ended.stderr
    assert site.call("bpeek", "4711").stderr == "Job <4711>: No matching job found\n"
    assert "-m is not emulated" in site.call("bpeek", "-m", "node1", job).stderr
