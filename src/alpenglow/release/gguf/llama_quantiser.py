"""llama.cpp's own quantiser, for the types that are defined by it (q4_0 to q6_k).

Whichever is there: the program `llama-quantize` in PATH, else the library inside the package
llama-cpp-python (`pip install alpenglow[llama]`). Both run the same code on a GGUF file that this
package wrote. Used by `alpenglow.release.gguf.command`.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from alpenglow.release.error import ReleaseError
from alpenglow.release.gguf.writer import appears

TYPES = {
    "q4_0": "Q4_0",
    "q4_1": "Q4_1",
    "q5_0": "Q5_0",
    "q5_1": "Q5_1",
    "q4_k_m": "Q4_K_M",
    "q5_k_m": "Q5_K_M",
    "q6_k": "Q6_K",
}
"""Our name -> llama.cpp's, on its command line and after LLAMA_FTYPE_MOSTLY_."""
PROGRAM = "llama-quantize"
HOW = (
    f"put llama.cpp's {PROGRAM} in PATH, or `pip install alpenglow[llama]` (which compiles "
    "llama-cpp-python)"
)

_kept: list[Any] = []
"""What llama.cpp calls back; it must outlive the library's use of it."""
_said: list[str] = []


def library() -> Any:
    """The module llama_cpp with its log turned to us and empty, None where it is not installed.

    Raises:
        ReleaseError: it is installed and cannot be loaded.
    """
    if importlib.util.find_spec("llama_cpp") is None:
        return None
    try:
        module = importlib.import_module("llama_cpp")
    except (ImportError, OSError, RuntimeError) as error:
        raise ReleaseError(f"llama_cpp is installed and does not load: {error}") from None
    if not _kept:

        def say(level: int, text: bytes, _data: object) -> None:
            if level >= _WARNING:
                _said.append(text.decode("utf-8", "replace").strip())
                del _said[:-20]

        _kept.append(module.llama_log_callback(say))
    module.llama_log_set(_kept[0], ctypes.c_void_p(0))
    _said.clear()
    return module


_WARNING = 3
"""GGML_LOG_LEVEL_WARN of ggml.h."""


def said() -> str:
    """The last things llama.cpp warned of, on one line."""
    return "; ".join(line for line in _said[-3:] if line) or "no reason given"


def quantiser() -> str | None:
    """What would quantise, in words; None where there is nothing."""
    program = shutil.which(PROGRAM)
    if program is not None:
        return program
    module = library()
    return None if module is None else f"llama-cpp-python {module.__version__}"


def quantise(source: Path, output: Path, type_name: str) -> str:
    """Write a quantised copy of a GGUF file; returns what did it, in words.

    Args:
        source: an f32, f16 or bf16 file.
        output: appears when it is whole and on the disk.
        type_name: a key of `TYPES`.

    Raises:
        ReleaseError: no quantiser, or it failed.
    """
    who = quantiser()
    if who is None:
        raise ReleaseError(f"{type_name}: only llama.cpp's own quantiser writes this type; {HOW}")
    with appears(output) as building:
        if shutil.which(PROGRAM) is not None:
            _by_program(who, source, building, type_name)
        else:
            _by_library(library(), source, building, type_name)
    return who


def _by_program(program: str, source: Path, output: Path, type_name: str) -> None:
    words = [program, str(source), str(output), TYPES[type_name], str(os.cpu_count() or 1)]
    done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode or not output.is_file():
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        why = lines[-1].strip() if lines else "no reason given"
        raise ReleaseError(f"{program} ended with {done.returncode} on {type_name}: {why}")


def _by_library(module: Any, source: Path, output: Path, type_name: str) -> None:
    settings = module.llama_model_quantize_default_params()
    settings.ftype = getattr(module, f"LLAMA_FTYPE_MOSTLY_{TYPES[type_name]}")
    settings.nthread = os.cpu_count() or 1
    code = module.llama_model_quantize(
        os.fsencode(source), os.fsencode(output), ctypes.byref(settings)
    )
    if code or not output.is_file():
        raise ReleaseError(f"llama.cpp did not write {type_name}: {said()}")
