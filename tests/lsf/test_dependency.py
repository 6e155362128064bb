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
