from __future__ import annotations

import pytest

from alpenglow_lsf.dependency import (
    DependencyError,
    Standing,
    Verdict,
    conditions,
    parse,
    render,
    resolve,
)
from alpenglow_lsf.scheduler import JobState

JOBS = {
    "1": Standing(JobState.DONE, 0),
    "2": Standing(JobState.FAILED, 85),
    "3": Standing(JobState.RUNNING),
    "4": Standing(JobState.PENDING),
}
TRUE, NOT_YET, NEVER = Verdict.TRUE, Verdict.NOT_YET, Verdict.NEVER


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("1", TRUE), ("2", NEVER), ("3", NOT_YET), ("done(1)", TRUE), ("done(2)", NEVER),
        ("ended(1)", TRUE), ("ended(2)", TRUE), ("ended(3)", NOT_YET), ("exit(1)", NEVER),
        ("exit(2)", TRUE), ("exit(2,85)", TRUE), ("exit(2, 1)", NEVER), ("exit(2, >= 80)", TRUE),
        ("exit(2, != 85)", NEVER), ("exit(3)", NOT_YET), ("started(3)", TRUE),
        ("started(4)", NOT_YET), ("started(2)", TRUE), ("done(9)", NEVER),
        ("done(1) && ended(2)", TRUE), ("done(1) && done(3)", NOT_YET),
        ("done(2) && done(3)", NEVER), ("done(2) || done(3)", NOT_YET),
        ("done(2) || done(1)", TRUE), ("done(2)||exit(1)", NEVER),
        # && binds tighter than ||; parentheses change that.
        ("1 || 2 && 2", TRUE), ("(1 || 2) && 2", NEVER), ("((3))", NOT_YET),
    ],
)  # fmt: skip
def test_verdicts(text: str, verdict: Verdict) -> None:
    assert parse(text).judge(JOBS) is verdict
    assert parse(render(parse(text))).judge(JOBS) is verdict


@pytest.mark.parametrize(
    "text",
    ["", "done(", "done()", "done(1", "done(1))", "1 &&", "&& 1", "1 & 2", "done(1) done(2)",
     "finished(1)", "exit(1,x)", "done(1,2)", "1 | 2", "()"],
)  # fmt: skip
def test_what_is_no_expression_is_refused(text: str) -> None:
    with pytest.raises(DependencyError) as caught:
        parse(text)
    assert "\n" not in str(caught.value)


def test_names_become_the_ids_of_the_newest() -> None:
    found = resolve(
        parse('done("prepare") && ended(7)'), lambda job: "12" if job == "prepare" else job
    )
    assert [c.job for c in conditions(found)] == ["12", "7"]
    with pytest.raises(DependencyError, match="no job nobody"):
        resolve(parse("done(nobody)"), lambda job: None)


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("done(5)", NEVER), ("ended(5)", TRUE), ("done(5[1])", TRUE), ("done(5[2])", NEVER),
        ("exit(5[2], 7)", TRUE), ("done(6)", NOT_YET), ("done(6[1])", TRUE), ("started(6)", TRUE),
        ("done(6[9])", NEVER),
    ],
)  # fmt: skip
def test_arrays_and_their_elements(text: str, verdict: Verdict) -> None:
    jobs = {
        "5[1]": Standing(JobState.DONE, 0),
        "5[2]": Standing(JobState.FAILED, 7),
        "6[1]": Standing(JobState.DONE, 0),
        "6[2]": Standing(JobState.RUNNING),
    }
    assert parse(text).judge(jobs) is verdict
    assert parse(render(parse(text))).judge(jobs) is verdict


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("!done(1)", "!"), ("done(1) && !exit(2)", "!"), ("numdone(1, >= 3)", "numdone()"),
        ("post_done(1)", "post_done()"), ('external(1, "ok")', "external()"),
        ("done(data*)", "*"), ("done(scan[*])", "*"),
    ],
)  # fmt: skip
def test_what_lsf_knows_and_the_stand_in_does_not_is_named(text: str, names: str) -> None:
    with pytest.raises(DependencyError, match="not emulated on this computer") as caught:
        parse(text)
    assert names in str(caught.value).partition(":")[2]
