"""A series: which checkpoints, under which names, once on disk, and loaded by revision offline."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard, scan_cache_dir
from release_run import CONFIG, tensors, write_checkpoint
from safetensors.torch import load_file

from alpenglow.release.__main__ import main
from alpenglow.release.error import ReleaseError
from alpenglow.release.hub.series import load_series
from alpenglow.release.hub.series_names import Every, Point, amount, choose, name_of

# step 5 and 10 have the same weights, so one file of them serves for both.
SEEDS = {0: 0, 5: 1, 10: 1, 20: 2}


@pytest.fixture
def series_run(run: Path) -> Path:
    for step, seed in SEEDS.items():
        write_checkpoint(run, step, CONFIG, tensors(CONFIG, seed))
    return run


def point(step: int, tokens: int | None = None) -> Point:
    return Point(step, tokens, Path(f"step-{step}"), f"{step}")


def test_the_first_at_or_after_each_multiple() -> None:
    points = [point(step) for step in (0, 3, 5, 9, 10, 24, 31)]
    chosen, missing = choose(points, Every.parse("5-steps"))
    assert [each.step for each in chosen] == [0, 5, 10, 24, 31]
    assert missing == [15, 25]
    chosen, missing = choose(points, Every.parse("100-steps"))
    assert [each.step for each in chosen] == [0, 31], "the last of the run is always there"
    assert (choose(points, Every.parse("all"))[0], missing) == (points, [])
    assert Every.parse("1.5B-tokens") == Every(1_500_000_000, "tokens")
    for wrong in ("10B", "0-steps", "0.5-steps", "-5-steps", "10 B-tokens", ""):
        with pytest.raises(ReleaseError, match="--every"):
            Every.parse(wrong)
    with pytest.raises(ReleaseError, match="choose by steps"):
        choose([point(1)], Every.parse("1k-tokens"))


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        (240_123_456_789, "240b"),
        (1_400_000_000, "1.4b"),
        (999_950, "1m"),
        (999_499, "999k"),
        (20_480, "20.5k"),
        (1_000_000_000_000, "1t"),
        (7, "7"),
        (0, "0"),
    ],
)
def test_amounts_have_three_digits(tokens: int, text: str) -> None:
    assert amount(tokens) == text


def test_names_that_would_collide_are_finer() -> None:
    taken: list[str] = []
    for tokens in (240_100_000_000, 240_300_000_000, 240_300_000_001):
        taken.append(name_of(point(1, tokens), "tokens", taken))
    assert taken == ["240b_tokens", "240.3b_tokens", "240.300000001b_tokens"]
    with pytest.raises(ReleaseError, match="another checkpoint of"):
        name_of(point(1, 7), "tokens", ["7_tokens"])


def test_folders_with_equal_files_once(
    series_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["series", str(series_run), "--every", "5-steps", "--license", "mit", "--verify"]
    assert main(command) == 0
    assert "no checkpoint for: 15 steps" in capsys.readouterr().out
    output = series_run / "release" / "series"
    names = ["step0", "step10", "step20", "step5"]
    assert sorted(path.name for path in output.iterdir() if path.is_dir()) == names
    _, rows = load_series(output)
    assert [row.step for row in rows] == [0, 5, 10, 20]
    assert all(row.verified for row in rows)
    for row in rows:
        released = load_file(output / row.name / "model.safetensors")
        trained = tensors(CONFIG, SEEDS[row.step])
        assert released["embed_out.weight"].equal(trained["embed_out.weight"])
        card = ModelCard.load(output / row.name / "README.md")
        assert f"step {row.step:,}" in str(card)
        assert "license: mit" in str(card)
        conversion = json.loads((output / row.name / "conversion.json").read_text())
        assert conversion["verification"]["tensors"] == len(trained)
    inodes = {row.step: (output / row.name / "model.safetensors").stat().st_ino for row in rows}
    assert inodes[5] == inodes[10]
    assert len(set(inodes.values())) == 3
    assert len({(output / name / "tokenizer.json").stat().st_ino for name in names}) == 1
    model = (output / "step5" / "model.safetensors").stat().st_size
    assert rows[2].bytes_added < model < rows[1].bytes_added
    table = (output / "series.md").read_text().splitlines()
    last = next(line for line in table if line.startswith("| `step20`"))
    assert last.startswith("| `step20` | 20 | 20,480 | 4.2500 | unknown | unknown | ")
    assert "No checkpoint for: 15 steps." in table


def test_a_second_call_goes_on(series_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["series", str(series_run), "--every", "5k-tokens"]
    assert main(command) == 0
    output = series_run / "release" / "series"
    before = {row.name: row for row in load_series(output)[1]}
    assert sorted(before) == ["0_tokens", "10.2k_tokens", "20.5k_tokens", "5.12k_tokens"]
    stamps = {name: (output / name / "config.json").stat().st_mtime_ns for name in before}
    # A kill left half a folder, a file of another is cut, and training went on; an old one is gone.
    (output / "25.6k_tokens.tmp").mkdir()
    (output / "20.5k_tokens" / "model.safetensors").write_bytes(b"cut")
    shutil.rmtree(series_run / "checkpoints" / "step-00000005")
    write_checkpoint(series_run, 25, CONFIG, tensors(CONFIG, 3))
    spoilt = write_checkpoint(series_run, 30, CONFIG)
    (spoilt / "manifest.json").write_text("{")
    (output / "10.2k_tokens" / "README.md").write_text("longer than before")
    capsys.readouterr()
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "passed over: " in said
    assert "made 2, kept 3" in said
    assert "no checkpoint for: 15k tokens\n" in said
    rows = load_series(output)[1]
    assert [row.step for row in rows] == [0, 5, 10, 20, 25]
    for name in ("0_tokens", "10.2k_tokens", "5.12k_tokens"):
        assert (output / name / "config.json").stat().st_mtime_ns == stamps[name]
    assert load_file(output / "20.5k_tokens" / "model.safetensors")
    assert sorted(path.name for path in output.glob("*.tmp")) == []
    for wrong in (["--dtype", "fp16"], ["--names", "steps"], ["--form", "revisions"]):
        assert main([*command, *wrong]) == 1
        assert "name another --output" in capsys.readouterr().err


def test_transformers_loads_revisions_offline(
    series_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"
    command = ["series", str(series_run), "--form", "revisions", "--output", str(cache)]
    command += ["--repository", "alps/tiny", "--every", "5k-tokens"]
    assert main(command) == 0
    assert main(command) == 0
    assert "made 0, kept 4" in capsys.readouterr().out
    script = f"""
import json, os, socket, sys
def refuse(*_): raise OSError("no network in this test")
socket.socket.connect = refuse
from transformers import AutoModelForCausalLM, AutoTokenizer
sums = {{}}
for name in sys.argv[1:]:
    where = dict(revision=name, cache_dir={str(cache)!r})
    model = AutoModelForCausalLM.from_pretrained("alps/tiny", **where)
    AutoTokenizer.from_pretrained("alps/tiny", **where)
    sums[name] = model.get_input_embeddings().weight.double().sum().item()
print(json.dumps(sums))
"""
    names = ["0_tokens", "5.12k_tokens", "10.2k_tokens", "20.5k_tokens", "main"]
    done = subprocess.run(
        [sys.executable, "-c", script, *names],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    sums = json.loads(done.stdout.splitlines()[-1])
    wanted = [float(tensors(CONFIG, SEEDS[s])["embed_in.weight"].double().sum()) for s in SEEDS]
    assert [sums[name] for name in names] == [*wanted, wanted[-1]]
    # The Hub's own tool understands the cache, and equal blobs are there once.
    info = next(iter(scan_cache_dir(cache).repos))
    assert (info.repo_id, set(info.refs)) == ("alps/tiny", set(names))
    blobs = [
        p for p in (cache / "models--alps--tiny" / "blobs").iterdir() if p.stat().st_size > 1e5
    ]
    assert len(blobs) == 3, "one of the four checkpoints has the weights of another"
    assert sum(row.bytes_added for row in load_series(cache)[1]) == sum(
        path.stat().st_size for path in (cache / "models--alps--tiny" / "blobs").iterdir()
    )


def test_a_series_that_cannot_be_is_one_sentence(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for options, words in (
        ([str(run), "--every", "5"], "--every 5: 10B-tokens, 1000-steps or all"),
        ([str(tmp_path / "none"), "--every", "all"], "no such run"),
        ([str(run), "--every", "all"], "no whole checkpoint"),
    ):
        assert main(["series", *options]) == 1
        said = capsys.readouterr().err
        assert said.startswith("alpenglow release series: ")
        assert words in said
        assert said.count("\n") == 1
    write_checkpoint(run, 20, CONFIG)
    command = ["series", str(run), "--every", "all", "--form", "revisions"]
    assert main([*command, "--repository", "../up"]) == 1
    assert "ORGANISATION/NAME" in capsys.readouterr().err
    # A run whose tokenizer is gone: nothing half-made is left.
    (run.parents[1] / "shards" / "tokenizer.json").unlink()
    assert main(["series", str(run), "--every", "all"]) == 1
    output = run / "release" / "series"
    assert [path.name for path in output.iterdir()] == []
