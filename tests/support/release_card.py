"""A release folder, a report, an evaluation and a card of the tiny run, as the tests ask."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard
from release_run import CONFIG, write_checkpoint

from alpenglow.exchange.fragments import FragmentSource
from alpenglow.release.cards.model_card import Beside, Verified, model_card
from alpenglow.release.folder import put_in_place
from alpenglow.release.huggingface import write_release
from alpenglow.release.record import RunRecord

EVALUATION: dict[str, Any] = {
    "format": 1,
    "made": "2026-11-25T12:00:00Z",
    "model": {"step": 20, "dtype": "float32", "weights": "0" * 16},
    "harness": {
        "package": "lm_eval",
        "version": "0.4.13",
        "commit": "abc1234",
        "transformers": "5.23.0",
        "torch": "2.13.0",
    },
    "results": [
        {
            "task": "mmlu",
            "implementation": implementation,
            "about": f"as the {implementation} code scores",
            "metric": metric,
            "value": value,
            "stderr": None,
            "shots": 5,
            "items": items,
            "of": 14042,
            "prompt_xxh3": "0123456789abcdef",
        }
        for implementation, metric, value, items in (
            ("original", "acc", 0.251, 14042),
            ("helm", "exact_match (strict)", 0.243, 14042),
            ("whole answer", "acc", 0.274, 500),
        )
    ],
    "perplexity": [
        {
            "slice": "github",
            "windows": 16,
            "tokens": 1024,
            "bytes": None,
            "loss": 5.5,
            "perplexity": 244.69,
            "bits_per_byte": None,
            "held_out": True,
        }
    ],
    "notes": ["Items were cut on the left."],
}


def head(card: str) -> dict[str, Any]:
    """A card's head as the Hub's own parser reads it."""
    data: Any = ModelCard(card).data
    found: dict[str, Any] = data.to_dict()
    return found


def card_of(
    run: Path,
    verification: Verified | None = None,
    evaluation: dict[str, Any] | None = None,
    **options: Any,
) -> str:
    """The card of step 20, written from a checkpoint as the convert job does."""
    source = FragmentSource.open(write_checkpoint(run, 20, CONFIG))
    options["beside"] = Beside(evaluation=evaluation or {})
    return model_card(RunRecord.load(run), source, CONFIG, torch.float32, verification, **options)


def release(run: Path, *, verified: bool = True) -> Path:
    """A release folder with a card, as the convert job leaves it."""
    checkpoint = run / "checkpoints" / "step-00000020"
    if not checkpoint.exists():
        write_checkpoint(run, 20, CONFIG)
    source, record = FragmentSource.open(checkpoint), RunRecord.load(run)
    output = run / "release" / "huggingface"
    with put_in_place(output) as folder:
        write_release(folder, source, record.tokenizer)
        card = model_card(record, source, CONFIG, "float32", None)
        (folder / "README.md").write_text(card, encoding="utf-8")
    if verified:
        table = json.loads((output / "conversion.json").read_text())
        table["verification"] = {
            "largest": 7.5,
            "text": "training text",
            "tensors": 28,
            "positions": 512,
            "difference": 1.2e-6,
            "tolerance": 1e-4,
            "dtype": "float32",
        }
        (output / "conversion.json").write_text(json.dumps(table))
    return output


def write_report(run: Path) -> None:
    """A report with the keys that `alpenglow report` promises (analysis/report_json)."""
    rows = [
        ("startup", "Start-up", False, 0.2, 1.6),
        ("gradient", "Transfer of gradients", False, 0.3, 2.4),
        ("bytes", "a part of a row", True, 0.1, 0.8),
        ("compute", "Forward and backward compute", False, 0.5, 4.0),
        ("charged", "Charged, the sum", False, 1.0, 8.0),
    ]
    keys = ("key", "label", "part", "share", "equivalents")
    report = {
        "format": "alpenglow-report",
        "version": 1,
        "made": "2026-11-25T10:00:00Z",
        "run": {"unit": "GPU"},
        "summary": {
            "energy": {"value": 0.0123, "unit": "MWh", "baseline": "all jobs that were sampled"},
            "mfu": {"value": 0.314, "unit": "share", "baseline": "peak FLOP/s; 6 N a token"},
        },
        "account": {
            "baseline": "nodes x elapsed",
            "rows": [dict(zip(keys, row, strict=True)) for row in rows],
        },
    }
    (run / "report").mkdir()
    (run / "report" / "report.json").write_text(json.dumps(report))


def write_gguf_report(run: Path, *, checked: bool = True) -> Path:
    """A folder of GGUF files as `alpenglow release gguf` leaves it; the files hold no model."""
    folder = run / "release" / "gguf"
    folder.mkdir(parents=True)
    (folder / "tiny-f16.gguf").write_bytes(b"GGUF" + bytes(96))
    compared = {"logits": {"difference": 3.7e-4, "tolerance": 1e-2}, "perplexity": 250.5}
    row = {"file": "tiny-f16.gguf", "type": "f16", "bytes": 100, "xxh3_64": "0" * 16}
    report = {
        "format": 1,
        "step": 20,
        "llama_cpp": "0.3.36" if checked else None,
        "original_bytes": 203_000,
        "original_perplexity": 250.25,
        "files": [row | {"checked": compared if checked else None}],
        "notes": [],
    }
    (folder / "gguf.json").write_text(json.dumps(report))
    return folder
