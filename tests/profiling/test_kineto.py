"""Reading traces: every spelling of JSON, cut and damaged files, real files."""

from __future__ import annotations

import gzip
import json
import os
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alpenglow_profiling.kineto import Trace, TraceError, read, trace_files
from alpenglow_profiling.kineto_numbers import PADDING, decimals, words

KERNEL = {
    "ph": "X",
    "cat": "kernel",
    "name": 'void at::f<{lambda(int)#1}>(char*, "x\\\\") }{',
    "pid": 0,
    "tid": 7,
    "ts": 4458676983543.183,
    "dur": 41.407,
    "args": {"External id": 12, "stream": 7, "correlation": 5, "grid": [1, 2, 3]},
}
EVENTS: list[dict[str, Any]] = [
    {"ph": "M", "name": "process_name", "pid": 9, "tid": 0, "ts": 1, "args": {"name": "python"}},
    {"ph": "X", "cat": "user_annotation", "name": "ProfilerStep#4", "pid": 9, "tid": 9,
     "ts": 4458676983000.5, "dur": 900, "args": {"External id": 1}},
    {"ph": "X", "cat": "cuda_runtime", "name": "cudaLaunchKernel", "pid": 9, "tid": 9,
     "ts": 4458676983500.001, "dur": 3.5, "args": {"correlation": 5, "cbid": 211}},
    {"ph": "s", "id": 5, "pid": 9, "tid": 9, "ts": 4458676983500.1, "cat": "ac2g", "name": "ac2g"},
    KERNEL,
    {"ph": "X", "cat": "Trace", "name": "PyTorch Profiler (0)", "pid": "Spans",
     "tid": "PyTorch Profiler", "ts": 4458676982999, "dur": 1e3, "args": {"Op count": 0}},
    {"ph": "i", "s": "g", "name": "Record Window End", "pid": "", "tid": "", "ts": 4458676984999.1},
]  # fmt: skip
DOCUMENT = {
    "schemaVersion": 1,
    "distributedInfo": {"rank": 3, "note": 'a "traceEvents": [ in a string'},
    "traceEvents": EVENTS,
    "baseTimeNanoseconds": 1711964646000000000,
}


def written(path: Path, text: str) -> Path:
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def by_json(path: Path) -> list[tuple[Any, ...]]:
    """The same rows by the standard library, with exact decimals."""
    raw = path.read_bytes()
    text = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    document = json.loads(text, parse_float=Decimal)
    events = document["traceEvents"] if isinstance(document, dict) else document

    def number(value: Any) -> int:
        return int(value) if isinstance(value, int | Decimal) else -1

    return [
        (
            int(e["ts"] * 1000),
            int(e["ts"] * 1000) + int(e["dur"] * 1000),
            e["name"],
            e.get("cat", ""),
            number(e.get("pid")),
            number(e.get("tid")),
            *(number(e.get("args", {}).get(k)) for k in ("stream", "correlation", "External id")),
        )
        for e in events
        if e["ph"] == "X" and "dur" in e
    ]


def rows(trace: Trace) -> list[tuple[Any, ...]]:
    columns: list[np.ndarray[Any, Any]] = [
        trace.begin_ns,
        trace.end_ns,
        trace.name,
        trace.category,
        trace.pid,
        trace.tid,
    ]
    columns += [trace.stream, trace.correlation, trace.external]
    return [
        (*row[:2], trace.names[row[2]], trace.categories[row[3]], *row[4:])
        for row in zip(*(c.tolist() for c in columns), strict=True)
    ]


def spellings() -> dict[str, str]:
    shuffled = [dict(sorted(e.items(), reverse=True)) for e in EVENTS]
    moved = {k: DOCUMENT[k] for k in ("traceEvents", "schemaVersion", "distributedInfo")}
    return {
        "plain": json.dumps(DOCUMENT),
        "compact": json.dumps(DOCUMENT, separators=(",", ":")),
        "pretty": json.dumps(DOCUMENT, indent=4),
        "spaced colons": json.dumps(DOCUMENT, separators=(" , ", " \n: ")),
        "other order": json.dumps({**DOCUMENT, "traceEvents": shuffled}),
        "events first": json.dumps(moved),
        "only the list": json.dumps(EVENTS),
        "byte order mark": "\ufeff" + json.dumps(DOCUMENT),
        "carriage returns": json.dumps(DOCUMENT, indent=1).replace("\n", "\r\n"),
    }


@pytest.mark.parametrize("spelling", spellings())
@pytest.mark.parametrize("ending", ["json", "json.gz"])
def test_spellings_of_json_give_the_same_columns(
    tmp_path: Path, spelling: str, ending: str
) -> None:
    written(tmp_path / "plain.json", json.dumps(DOCUMENT))
    expected = by_json(tmp_path / "plain.json")
    assert len(expected) == 4
    path = written(tmp_path / f"t.{ending}", spellings()[spelling])
    for block in (1 << 19, 100, 7):
        trace = read(path, block)
        assert rows(trace) == expected
        assert not trace.damages
        assert trace.launch.tolist() == [-1, -1, 1, -1]
        assert trace.step.tolist() == [4, 4, 4, -1]
        assert not trace.whole_times
        if spelling == "plain":
            assert (trace.rank, trace.base_ns) == (3, 1711964646000000000)


NAMES = st.text(st.sampled_from('ab"\\{}[]:,| \nµ\u2028💡'), max_size=12)
ARGS = st.dictionaries(
    st.sampled_from(["stream", "correlation", "External id", "name", "ts", "bytes", 'x"ts']),
    st.one_of(st.integers(-5, 2**40), NAMES, st.lists(st.integers(0, 3), max_size=3)),
)
TIMES = st.one_of(
    st.integers(0, 2**52),
    st.decimals(0, 10**12, places=3, allow_nan=False).map(lambda d: float(f"{d:.3f}")),
)


@st.composite
def random_events(draw: st.DrawFn) -> dict[str, Any]:
    event: dict[str, Any] = {
        "ph": draw(st.sampled_from("XXXMsf")),
        "name": draw(NAMES),
        "cat": draw(st.sampled_from(["kernel", "cpu_op", "a_category_longer_than_24_bytes"])),
        "ts": draw(TIMES),
        "dur": draw(st.one_of(st.integers(0, 10**6), st.sampled_from([0.5, 12.25, 1e3]))),
        "tid": draw(st.one_of(st.integers(0, 2**62), NAMES.map(lambda t: "t" + t))),
        "args": draw(ARGS),
    }
    keys = draw(st.permutations(list(event)))
    left_out = draw(st.sampled_from(["", "", "", "tid", "args", "cat"]))
    return {key: event[key] for key in keys if key != left_out}


@given(
    events=st.lists(random_events(), max_size=6),
    style=st.sampled_from([{}, {"indent": 1}, {"separators": (",", ":")}]),
    escape=st.booleans(),
    block=st.sampled_from([3, 64, 1 << 19]),
)
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_events_read_as_json_reads_them(
    tmp_path: Path, events: list[dict[str, Any]], style: dict[str, Any], escape: bool, block: int
) -> None:
    text = json.dumps({"traceEvents": events, "tail": '"ts": {'}, ensure_ascii=escape, **style)
    path = written(tmp_path / "t.json", text)
    trace = read(path, block)
    # A string that spells a number counts as one; these names hold no digits.
    assert rows(trace) == by_json(path)
    assert not trace.damages
    assert trace.meta == {"tail": '"ts": {'}


@pytest.mark.parametrize(
    ("text", "milli", "whole"),
    [
        ("0", 0, 0), ("7", 7000, 7), ("12345678", 12345678000, 12345678),
        ("123456789", 123456789000, 123456789), ("1682725898236567", 1682725898236567000, None),
        ("1682725898236567.9", 1682725898236567900, None),
        ("4458676983543.183", 4458676983543183, None),
        ("1.5", 1500, 1), ("0.001", 1, 0), ("1.23456789012", 1234, 1), ("1.1234567", 1123, 1),
        ("-3.5", -3500, -3), ("1e3", 1000000, 1000), ("2.5E-1", 250, 0), ('"42"', 42000, 42),
        ('"x"', -1, -1), ("null", -1, -1), ("true", -1, -1), ("9223372036854775807", -1, 2**63 - 1),
        ("99999999999999999999999999", -1, -1), ("1234567890123456789012345.5", -1, -1),
    ],
)  # fmt: skip
def test_numbers_keep_every_digit(text: str, milli: int, whole: int | None) -> None:
    for end in (",", "}", " ", "\n"):
        buffer = f"{text}{end}5".encode() + bytes(PADDING)
        start = np.array([0, len(text) + 1])
        values, _ = decimals(buffer, words(buffer), start, milli=True)
        assert values.tolist()[0] == milli
        if whole is not None:
            values, _ = decimals(buffer, words(buffer), start, milli=False)
            assert values.tolist()[0] == whole


def test_a_cut_file_gives_its_whole_events_and_says_so(tmp_path: Path) -> None:
    text = json.dumps(DOCUMENT)
    whole = by_json(written(tmp_path / "whole.json", text))
    begin = text.index('"ph"') - 1
    for cut in range(begin, len(text) - 60, 23):
        trace = read(written(tmp_path / "cut.json", text[:cut]))
        count = len(trace)
        assert rows(trace) == whole[:count]
        closed = text[:cut].rstrip().endswith("]") and cut > text.index('"baseTime') - 3
        if not closed and cut < text.rindex("]"):
            assert len(trace.damages) == 1
            assert f"{tmp_path / 'cut.json'}: the file ends within the list" in trace.damages[0]
        assert trace.meta["distributedInfo"]["rank"] == 3


def test_a_cut_gzip_gives_its_whole_events_and_says_so(tmp_path: Path) -> None:
    text = json.dumps({**DOCUMENT, "traceEvents": [{**KERNEL, "ts": i} for i in range(4000)]})
    packed = gzip.compress(text.encode())
    path = tmp_path / "t.json.gz"
    path.write_bytes(packed[: len(packed) // 2])
    trace = read(path)
    assert 1000 < len(trace) < 3500
    assert trace.begin_ns.tolist() == [1000 * i for i in range(len(trace))]
    assert "its gzip data ends early" in trace.damages[0]
    assert f"first {len(trace)} events" in trace.damages[0]
    damaged = bytearray(packed)
    damaged[len(packed) // 2 : len(packed) // 2 + 40] = bytes(40)
    path.write_bytes(damaged)
    try:
        trace = read(path)
    except TraceError as error:  # what came out of it was no JSON any more
        assert str(path) in str(error)
    else:
        assert trace.damages


def test_gzip_in_several_members_is_one_text(tmp_path: Path) -> None:
    text = json.dumps(DOCUMENT).encode()
    path = tmp_path / "t.json"  # told by its bytes, not by its name
    path.write_bytes(gzip.compress(text[:300]) + gzip.compress(text[300:]) + bytes(512))
    assert rows(read(path)) == by_json(written(tmp_path / "p.json", text.decode()))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "the file is empty"),
        (b" \n", "the file is empty"),
        (b"hello", "no trace of torch.profiler"),
        (b"\x7fELF\x00", "no trace of torch.profiler"),
        (b'{"a": 1}', "no trace of torch.profiler"),
        (b'{"a": 1, "b": [', "or it was cut before its events"),
        (b'{"traceEvents": 3}', "no trace of torch.profiler"),
        (b'{"traceEvents": [1, 2]}', "is not a list of JSON objects"),
        (b'{"traceEvents": [{"ph": "M"} oops {"ph": "M"}]}', "is not a list of JSON objects"),
        (b"\x1f\x8b\x08\x00", "ends early before the first event"),
        (b"\x1f\x8bjunk, but long enough to hold a header", "is damaged"),
    ],
)
def test_what_is_no_trace_is_refused_in_one_sentence(
    tmp_path: Path, content: bytes, says: str
) -> None:
    path = tmp_path / "t.json"
    path.write_bytes(content)
    with pytest.raises(TraceError) as caught:
        read(path)
    assert says in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_folder_gives_its_traces(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"no \*\.json"):
        trace_files(tmp_path)
    with pytest.raises(TraceError, match="no such file"):
        trace_files(tmp_path / "none")
    for name in ("rank1.json", "rank0.json.gz", "notes.txt"):
        written(tmp_path / name, json.dumps({"traceEvents": []}))
    files = trace_files(tmp_path)
    assert [f.name for f in files] == ["rank0.json.gz", "rank1.json"]
    assert [read(f).rank for f in files] == [0, 1]
    assert [len(read(f)) for f in files] == [0, 0]


def real_traces() -> Path:
    folder = os.environ.get("ALPENGLOW_TEST_DATA")
    if not folder or not Path(folder, "traces").is_dir():
        pytest.skip("ALPENGLOW_TEST_DATA names no folder with traces: no real traces to read")
    return Path(folder, "traces")


@pytest.mark.parametrize(
    "name",
    ["sampled_rank-0of128", "sampled_rank-1of128", "nccl_a100_rank-0of2", "no_gpu_kernels"],
)
def test_real_traces_read_as_json_reads_them(name: str) -> None:
    path = real_traces() / f"{name}.json.gz"
    trace = read(path)
    assert rows(trace) == by_json(path)
    assert not trace.damages
