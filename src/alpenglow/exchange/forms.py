"""Which form of checkpoint a folder holds, by the files in it.

This module is imported, never started.
"""

from __future__ import annotations

from pathlib import Path

from alpenglow.exchange import neox
from alpenglow.exchange.error import ExchangeError
from alpenglow.exchange.huggingface_config import CONFIG, WEIGHTS
from alpenglow.exchange.layer_files import present
from alpenglow.exchange.step_folder import engine_files, tagged
from alpenglow.train.checkpoint_manifest import MANIFEST, STEP

FORMS = ("fragments", "deepspeed", "universal", "neox", "huggingface")
"""What `open_source` knows, by the names that it takes."""

_LOOKED_FOR = (
    "manifest.json of step-N (fragments), layer_XX-model_YY-model_states.pt (deepspeed, neox), "
    "zero/ (universal), config.json with model.safetensors or pytorch_model.bin (huggingface)"
)


def form_of(path: Path) -> str:
    """One of `FORMS`.

    GPT-NeoX's pipeline has functions without parameters in its slots 1 and L+2, so it has no
    `layer_01`, where ours has its first transformer layer.

    Raises:
        ExchangeError: no such folder, or nothing of these forms in it.
    """
    if not path.is_dir():
        raise ExchangeError(f"{path}: no such folder")
    if (path / MANIFEST).is_file() or STEP.fullmatch(path.name) or any(path.glob("*.fragments")):
        return "fragments"
    if (path / CONFIG).is_file() or any((path / name).is_file() for name in WEIGHTS):
        return "huggingface"
    folder = tagged(path)
    if folder == path and not (path / "zero").is_dir():
        folder = tagged(path, "latest_universal")
    if (folder / "zero").is_dir():
        return "universal"
    slots = present(folder)
    if slots:
        return "neox" if 1 not in slots and neox.looks_like(folder) else "deepspeed"
    if engine_files(folder) and neox.looks_like(folder):
        return "neox"
    if (path / "checkpoints").is_dir():
        raise ExchangeError(f"{path}: a run; name one of its checkpoints/step-N")
    raise ExchangeError(f"{path}: no checkpoint of a known form in it; looked for {_LOOKED_FOR}")
