from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpenglow_lsf.job import ALLOC_FLAGS, SIGNALS, JobSpec
from alpenglow_lsf.options import OptionError
from alpenglow_lsf.script import Script, render

NAMES = st.from_regex(r"[A-Za-z0-9_.+@]{1,12}", fullmatch=True)
FILES = st.from_regex(r"[A-Za-z0-9_./% '\"$;]{1,20}", fullmatch=True).filter(
    lambda t: t.strip() == t
)


def _one_mode(flags: list[str]) -> bool:
    """Say whether the flags name one SMT mode at most: two are refused."""
    return len({flag for flag in flags if flag.startswith("smt")}) < 2


FLAGS = st.lists(st.sampled_from(ALLOC_FLAGS), max_size=3).filter(_one_mode)
WARNINGS = st.none() | st.tuples(st.sampled_from(SIGNALS), st.integers(1, 9))


@st.composite
def specs(draw: st.DrawFn) -> JobSpec:
    warning = draw(WARNINGS)
    return JobSpec(
        name=draw(st.none() | NAMES),
        project=draw(st.none() | NAMES),
        queue=draw(st.none() | NAMES),
        walltime=draw(st.none() | st.integers(10, 1440)),
        nodes=draw(st.none() | st.integers(1, 4608)),
        alloc_flags=tuple(
            draw(st.lists(st.sampled_from(ALLOC_FLAGS), max_size=3).filter(_one_mode))
        ),
        output=draw(st.none() | FILES),
        error=draw(st.none() | FILES),
        dependency=draw(st.none() | st.just("done(12) && ended(a)")),
        warning_action=warning[0] if warning else None,
        warning_time=warning[1] if warning else None,
        others=tuple(
            draw(st.lists(st.sampled_from([("-N", ""), ("-G", "a b"), ("-rn", "")]), unique=True))
        ),
    )


@given(specs())
def test_a_job_survives_being_written_as_a_script(spec: JobSpec) -> None:
    assert Script.parse(render(spec, "echo done\n")).spec == spec


def test_lines_are_known_by_number() -> None:
    script = Script.parse("#!/bin/sh\n# a remark\n#BSUB -J x -W 1:00\n#BSUBS -nonsense\n#BSUB -N\n")
    assert script.spec == JobSpec(name="x", walltime=60, others=(("-N", ""),))
    assert (script.line("-W"), script.line("-N"), script.line("-o")) == (3, 5, None)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("#BSUB -nnodes512\n", "s:1: bsub: unknown option -nnodes512"),
        ("\n#BSUB -W 1:00 # one hour\n", "s:2: bsub: '#' is no option"),
        ("#BSUB -J 'a\n", "s:1: No closing quotation"),
        (
            "#BSUB -alloc_flags smt1\n#BSUB -alloc_flags nvme\n",
            "s:2: bsub: -alloc_flags is given twice",
        ),
        ("#BSUB -W 1:00:00\n", "s:1: bsub: -W 1:00:00 has seconds"),
        ("#BSUB -J a\n#BSUB -wa URG\n", "s:2: bsub: -wa needs -wt"),
    ],
)
def test_a_bad_line_is_named(text: str, says: str) -> None:
    with pytest.raises(OptionError) as caught:
        Script.parse(text, "s")
    assert says in str(caught.value)


def test_a_missing_script_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no script"):
        Script.read(tmp_path / "none.lsf")


def test_jsrun_lines_are_found_where_they_stand() -> None:
    text = """#!/bin/bash
# jsrun -r9 in a remark
echo "jsrun -Z"
exec python -m alpenglow_lsf.run --run r --activity a -- \\
    jsrun -r1 -a6 -g6 -c42 -b packed:7 \\
    --smpiargs="-disable_gpu_hooks" python -m x jobs/a.toml
jsrun -n2 hostname & jsrun -n1 date; wait
jsrun -r $SETS hostname
"""
    steps = Script.parse(text).steps()
    assert [line for line, _ in steps] == [4, 7]
    assert steps[0][1].smpiargs == "-disable_gpu_hooks"
    assert steps[0][1].command == ("python", "-m", "x", "jobs/a.toml")
    assert steps[1][1].command == ("hostname",)


def test_a_jsrun_line_that_jsrun_would_refuse_is_named() -> None:
    with pytest.raises(OptionError, match=r"s:2: jsrun: -b packed:7 binds -a 6 tasks to 42 cores"):
        Script.parse("#!/bin/sh\njsrun -r1 -a6 -c21 -b packed:7 x\n", "s").steps()
