"""Push: what it would send, the upload itself against a Hub of our own, and every refusal."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import TOKEN, Hub, hub
from huggingface_hub import constants, snapshot_download
from release_card import release, write_gguf_report
from release_run import CONFIG, tensors, write_checkpoint

from alpenglow.release.__main__ import main

NAME = "alps/tiny"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A Hub that huggingface_hub speaks to, with a token saved."""
    with hub() as state:
        point_to(state.url, monkeypatch, tmp_path)
        yield state


def point_to(url: str, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def pushed(server: Hub, branch: str = "main", key: str = f"models/{NAME}") -> dict[str, bytes]:
    files = dict(server.repositories[key][branch])
    files.pop(".gitattributes")
    return files


def test_a_release_arrives_and_comes_back(
    run: Path, server: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = release(run)
    whole = files_of(folder)
    (folder / "notes.txt").write_text("mine")
    (folder / "logs").mkdir()
    (folder / "logs" / "x.log").write_text("log")
    assert main(["push", str(folder), NAME, "--private", "--yes"]) == 0
    out, err = capsys.readouterr()
    assert pushed(server) == whole
    assert server.private[f"models/{NAME}"]
    assert len(server.objects) >= 2, "weights and tokenizer went through LFS"
    assert "left out, not files of a release: logs/x.log, notes.txt" in out
    command = f"hf upload {NAME} {folder} . --repo-type model --private --exclude logs/x.log"
    assert command in out
    assert "sent: main, " in out
    assert TOKEN not in out + err
    back = snapshot_download(NAME, cache_dir=tmp_path / "cache", endpoint=server.url, token=TOKEN)
    assert {k: v for k, v in files_of(Path(back)).items() if k != ".gitattributes"} == whole
    # Weights that were cut otherwise before are gone after the next push; other files stay.
    server.repositories[f"models/{NAME}"]["main"] |= {
        "model-00001-of-00002.safetensors": b"old",
        "paper.pdf": b"by hand",
    }
    (folder / "generation_config.json").write_text("{}\n")
    assert main(["push", str(folder), NAME]) == 0
    assert set(pushed(server)) == {*whole, "paper.pdf"}
    assert pushed(server)["generation_config.json"] == b"{}\n"


def test_the_command_that_is_printed_sends_the_same(
    run: Path, server: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = release(run)
    whole = files_of(folder)
    (folder / "notes [1].txt").write_text("mine")
    assert main(["push", str(folder), NAME, "--private", "--revision", "v1", "--dry-run"]) == 0
    out = capsys.readouterr().out
    command = next(line for line in out.splitlines() if line.startswith("  hf upload "))
    words = shlex.split(command)
    program = Path(sys.executable).with_name(words[0])
    more = {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(
        [str(program), *words[1:]],
        env={**os.environ, **more, "HF_HUB_OFFLINE": "0"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert pushed(server, "v1") == whole
    assert server.private[f"models/{NAME}"]


def test_a_revision_and_a_data_card(run: Path, server: Hub) -> None:
    folder = release(run)
    assert main(["push", str(folder), NAME, "--revision", "step20"]) == 0
    assert pushed(server, "step20") == files_of(folder)
    assert pushed(server) == {}
    assert main(["card", "--data", str(run)]) == 0
    card = run / "release" / "data_card"
    assert main(["push", str(card), "alps/data", "--dataset"]) == 0
    assert pushed(server, key="datasets/alps/data") == files_of(card)


@pytest.mark.parametrize("form", ["folders", "revisions"])
def test_a_series_goes_to_branches(
    run: Path, server: Hub, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (5, 10):
        write_checkpoint(run, step, CONFIG, tensors(CONFIG, step))
    output = run / "release" / "series"
    assert main(["series", str(run), "--every", "5-steps", "--form", form]) == 0
    command = ["push", str(output), NAME, "--series"]
    assert main(command) == 1
    assert "nobody has compared it" in capsys.readouterr().err
    assert server.repositories == {}
    assert main([*command, "--unverified"]) == 0
    branches = server.repositories[f"models/{NAME}"]
    assert sorted(branches) == ["main", "step10", "step5"]
    assert pushed(server) == pushed(server, "step10")
    model = pushed(server, "step5")["model.safetensors"]
    assert model != pushed(server)["model.safetensors"]
    if form == "folders":
        assert pushed(server, "step5") == files_of(output / "step5")
    branches["step5"]["evaluation.json"] = b"of another step"
    assert main([*command, "--unverified"]) == 0
    assert "evaluation.json" not in pushed(server, "step5"), "a branch is one release, exactly"


def test_gguf_files_go_with_their_report(
    run: Path, server: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_gguf_report(run)
    assert main(["push", str(folder), "alps/tiny-gguf"]) == 0
    assert pushed(server, key="models/alps/tiny-gguf") == files_of(folder)
    (folder / "tiny-f16.gguf").write_bytes(b"GGUF")
    assert_refused(capsys, folder, "missing or cut")
    shutil.rmtree(folder)
    assert_refused(capsys, write_gguf_report(run, checked=False), "nobody has compared it")
    (folder / "other.gguf").write_bytes(b"GGUF")
    assert_refused(capsys, folder, "does not tell of other.gguf", "--unverified")


def test_where_the_large_file_service_fails_it_is_one_sentence(
    run: Path, server: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("hf_xet")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    folder = release(run)
    assert main(["card", "--data", str(run)]) == 0
    # Small files need no service for large ones.
    assert main(["push", str(run / "release" / "data_card"), "alps/data", "--dataset"]) == 0
    assert set(pushed(server, key="datasets/alps/data")) == {
        "README.md",
        "catalogue.json",
        "ledger.json",
    }
    capsys.readouterr()
    assert main(["push", str(folder), NAME]) == 1
    err = capsys.readouterr().err
    assert err.startswith("alpenglow release push: ")
    assert err.count("\n") == 1
    assert TOKEN not in err


def test_nothing_is_sent_without_token_network_or_wish(
    run: Path, server: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = release(run)
    command = ["push", str(folder), NAME]
    assert main([*command, "--dry-run"]) == 0
    assert "nothing was sent: --dry-run" in capsys.readouterr().out
    monkeypatch.delenv("HF_TOKEN")
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "nothing was sent: no token is saved here" in out
    assert f"hf upload {NAME} {folder} . --repo-type model" in out
    assert server.calls == []
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: "n")
    assert main(command) == 0
    assert "nothing was sent: as you said" in capsys.readouterr().out
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert main(command) == 0
    assert "nothing was sent: http://127.0.0.1:9 does not answer" in capsys.readouterr().out
    assert server.repositories == {}


@pytest.mark.parametrize(
    ("part", "status", "said"),
    [
        ("/whoami-v2", 401, "refuses: "),
        ("/repos/create", 403, "no rights for the token ***"),
        ("/preupload/", 413, "too much"),
        ("/commit/", 400, "a bad commit"),
    ],
)
def test_what_the_hub_refuses_is_one_sentence(
    run: Path,
    server: Hub,
    part: str,
    status: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server.refuse[part] = (status, said.replace("***", TOKEN))
    assert main(["push", str(release(run)), NAME, "--yes"]) == 1
    out, err = capsys.readouterr()
    assert err.startswith("alpenglow release push: ")
    assert err.count("\n") == 1
    assert said in err
    assert TOKEN not in out + err


def test_a_folder_that_is_not_a_whole_release_is_refused(
    run: Path, server: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = release(run)
    half = folder.rename(folder.with_name("huggingface.tmp"))
    assert_refused(capsys, half, "not finished")
    half.rename(folder)
    model = folder / "model.safetensors"
    data = model.read_bytes()
    model.write_bytes(data[:-10])
    assert_refused(capsys, folder, "cut, or not a safetensors file")
    model.write_bytes(b"not one")
    assert_refused(capsys, folder, "cut, or not a safetensors file")
    model.write_bytes(data)
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert_refused(capsys, folder, "model-00001-of-00002.safetensors is missing")
    (folder / "model.safetensors.index.json").unlink()
    for name in ("README.md", "tokenizer.json", "conversion.json"):
        kept = (folder / name).read_bytes()
        (folder / name).unlink()
        assert_refused(capsys, folder, name)
        (folder / name).write_bytes(kept)
    for wrong in ("no-owner", "a/b/c", "alps/ti ny", "alps/--x", "alps/" + "x" * 100):
        assert_refused(capsys, folder, "not a name that the Hub takes", wrong)
    assert_refused(capsys, run, "no data card", "--dataset")
    assert_refused(capsys, run, "no series", "--series")
    shutil.rmtree(folder)
    assert_refused(capsys, release(run, verified=False), "nobody has compared it")
    assert server.calls == []


def assert_refused(
    capsys: pytest.CaptureFixture[str], folder: Path, words: str, option: str = NAME
) -> None:
    capsys.readouterr()
    extra = [NAME, option] if option.startswith("--") else [option]
    assert main(["push", str(folder), *extra]) == 1
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1
