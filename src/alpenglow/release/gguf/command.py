"""A released Hugging Face folder as GGUF files for llama.cpp, checked by llama.cpp.

    alpenglow release gguf runs/pretrain_7b/release/huggingface
    alpenglow release gguf FOLDER --type f16,q8_0,q4_k_m --text held_out.txt

f32, f16, bf16 and q8_0 are written here; q4_0, q4_1, q5_0, q5_1, q4_k_m, q5_k_m and q6_k by
llama.cpp's own quantiser where one is installed. Where llama_cpp can be imported (`pip install
alpenglow[llama]`), tokens, logits and perplexity are compared before the files are put in place.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from alpenglow.exchange.error import ExchangeError
from alpenglow.release.error import ReleaseError
from alpenglow.release.gguf import llama_quantiser, writer
from alpenglow.release.gguf.llama_check import (
    EXCERPT,
    LENGTH,
    PROBES,
    WINDOW,
    Checked,
    Original,
    Text,
    compare_logits,
    compare_tokens,
    perplexity,
    windows,
)
from alpenglow.release.gguf.llama_model import LlamaModel, version
from alpenglow.release.gguf.report import REPORT, Report, describe, package_version
from alpenglow.release.gguf.source import ReleasedFolder

ALL = [*writer.TYPES, *llama_quantiser.TYPES]
_BUILDING = ".building"


def convert(
    folder: ReleasedFolder,
    output: Path,
    types: Sequence[str],
    *,
    verify: bool | None = None,
    text: Path | None = None,
    most: int = 64,
) -> Report:
    """Write the files and gguf.json; they appear in `output` when all are whole and checked.

    Args:
        folder: what to convert.
        output: where to.
        types: of `ALL`.
        verify: compare with transformers by llama.cpp; None: where llama_cpp can be imported.
        text: what perplexity is measured on; without it there is no perplexity.
        most: windows of the text that are measured.

    Raises:
        ReleaseError: what cannot be converted, or does not hold; `output` is as it was.
        OSError: the disk is full.
    """
    if verify is None:
        verify = version() is not None
    elif verify and version() is None:
        raise ReleaseError(f"--verify: llama_cpp is not installed; {llama_quantiser.HOW}")
    if text is not None and not verify:
        raise ReleaseError(
            "--text: perplexity is measured by llama.cpp, and verification is off or llama_cpp is "
            f"not installed; {llama_quantiser.HOW}"
        )
    passage = None if text is None else _read(text)
    fresh = not output.exists()
    building = output / _BUILDING
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    try:
        report = Report(
            folder.name,
            folder.step,
            str(folder.dtype).removeprefix("torch."),
            version() if verify else None,
            sum(path.stat().st_size for path in folder.source.files),
        )
        made = _write(folder, building, types, report)
        checked: dict[str, Checked] = {}
        if verify:
            checked = _check(folder, made, report, passage, most)
            if text is not None and report.text is not None:
                report.text = {"file": text.name, **report.text}
        for type_name, (path, who) in made.items():
            report.files.append(describe(path, type_name, who, checked.get(type_name)))
        report.write(building / REPORT)
        for path in [path for path, _ in made.values()] + [building / REPORT]:
            path.replace(output / path.name)
    finally:
        shutil.rmtree(building, ignore_errors=True)
        if fresh and not any(output.iterdir()):
            output.rmdir()
    return report


def _write(
    folder: ReleasedFolder, building: Path, types: Sequence[str], report: Report
) -> dict[str, tuple[Path, str]]:
    """Write every type; returns type -> (file, what wrote it)."""
    stem = re.sub(r"[^A-Za-z0-9._]+", "-", folder.name).strip("-.") or "model"
    made = {}
    here = [name for name in types if name in writer.TYPES]
    theirs = [name for name in types if name not in writer.TYPES]
    if theirs and llama_quantiser.quantiser() is None:
        raise ReleaseError(
            f"{theirs[0]}: only llama.cpp's own quantiser writes this type; {llama_quantiser.HOW}"
        )
    for name in here:
        written = writer.write(folder, building / f"{stem}-{name}.gguf", name)
        report.notes += [note for note in written.notes if note not in report.notes]
        made[name] = (written.path, f"gguf {package_version()}")
    if theirs:
        exact = _exact(folder)
        source = made[exact][0] if exact in made else building / f".{exact}.gguf"
        if exact not in made:
            report.notes += writer.write(folder, source, exact).notes
        for name in theirs:
            path = building / f"{stem}-{name}.gguf"
            made[name] = (path, llama_quantiser.quantise(source, path, name))
        if exact not in made:
            source.unlink()
    return {name: made[name] for name in types}


def _exact(folder: ReleasedFolder) -> str:
    """The type that holds the folder's weights as they are."""
    return {"float16": "f16", "bfloat16": "bf16"}.get(str(folder.dtype)[6:], "f32")


def _check(
    folder: ReleasedFolder,
    made: dict[str, tuple[Path, str]],
    report: Report,
    passage: str | None,
    most: int,
) -> dict[str, Checked]:
    original = Original(folder)
    context = folder.config.max_position_embeddings
    sample = original.tokenizer.encode("\n".join(PROBES) if passage is None else passage).ids
    sample = (sample * -(-LENGTH // max(1, len(sample))))[: min(LENGTH, context)]
    text = Text([])
    if passage is not None:
        text = windows(original.tokenizer.encode(passage).ids, min(WINDOW, context), most)
        if not text.windows:
            raise ReleaseError("--text: it holds fewer than two tokens")
        report.original_perplexity = perplexity(text, original.logits)
        report.text = {
            "sha256": hashlib.sha256(passage.encode()).hexdigest(),
            "windows": len(text.windows),
            "tokens": text.scored,
        }
    checked = {}
    for type_name, (path, _) in made.items():
        with LlamaModel(path, min(WINDOW, context)) as model:
            if report.token_ids_compared is None:  # every file carries the same tokenizer
                texts = [*PROBES, *([] if passage is None else [passage[:EXCERPT]])]
                report.token_ids_compared = compare_tokens(folder, model, texts)
            logits = compare_logits(original, model, type_name, sample)
            measured = perplexity(text, model.logits) if text.windows else None
            checked[type_name] = Checked(logits, measured)
    return checked


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ReleaseError(f"--text {path}: {error}") from None


def _types(words: Sequence[str]) -> list[str]:
    asked = [name for word in words for name in word.lower().split(",") if name]
    if "all" in asked:
        return ALL
    for name in asked:
        if name not in ALL:
            raise ReleaseError(f"--type {name}: not a type; choose from {', '.join(ALL)}, all")
    return list(dict.fromkeys(asked)) or ["f16"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="alpenglow release gguf",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="a released Hugging Face folder")
    parser.add_argument(
        "--type",
        action="append",
        default=[],
        help="f16 (default), or several with commas between, or all",
    )
    parser.add_argument("--output", type=Path, help="folder for the files; FOLDER/../gguf")
    parser.add_argument("--text", type=Path, help="UTF-8 text for perplexity")
    parser.add_argument("--windows", type=int, default=64, help="windows of the text (64)")
    parser.add_argument(
        "--verify",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="compare by llama.cpp; where llama_cpp is installed if not said",
    )
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run `alpenglow release gguf`; returns the exit code."""
    options = _parser().parse_args(list(arguments))
    try:
        types = _types(options.type)
        if options.windows < 1:
            raise ReleaseError(f"--windows {options.windows}: at least 1")
    except ReleaseError as error:
        sys.stderr.write(f"alpenglow release gguf: {error}\n")
        return 2
    try:
        folder = ReleasedFolder.open(options.folder)
        output = options.output or Path(os.path.abspath(options.folder)).parent / "gguf"  # noqa: PTH100
        report = convert(
            folder,
            output,
            types,
            verify=options.verify,
            text=options.text,
            most=options.windows,
        )
    except (ReleaseError, ExchangeError, OSError) as error:
        sys.stderr.write(f"alpenglow release gguf: {error}\n")
        return 1
    sys.stdout.write(f"{report.table()}\n\n")
    if report.llama_cpp is None:
        report.notes.append(f"Not compared with llama.cpp: {llama_quantiser.HOW}.")
    else:
        sys.stdout.write(
            f"{report.token_ids_compared} token ids are the same in llama.cpp (llama-cpp-python "
            f"{report.llama_cpp}).\n"
        )
    if report.text is not None:
        sys.stdout.write(
            f"Perplexity on {report.text['tokens']} tokens of {report.text['file']}, "
            f"{report.text['windows']} windows.\n"
        )
    sys.stdout.writelines(f"{note}\n" for note in report.notes)
    sys.stdout.write(f"written: {output}\n")
    return 0
