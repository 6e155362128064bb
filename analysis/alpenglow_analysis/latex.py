"""LaTeX: text made safe for it, and a PDF where one is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import unicodedata
from pathlib import Path

ENGINES = ("pdflatex", "lualatex", "xelatex", "tectonic")
"""Tried in this order from PATH."""
TIMEOUT_S = 300.0

ESCAPES = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "%": r"\%", "_": r"\_", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}",
    "<": r"\ensuremath{<}", ">": r"\ensuremath{>}", "|": r"\ensuremath{|}",
    '"': "''", "`": "{`}", "'": "'",
    "\u00a0": "~", "\u2009": r"\,", "\u202f": r"\,", "×": r"\ensuremath{\times}",
    "±": r"\ensuremath{\pm}", "−": r"\ensuremath{-}", "·": r"\ensuremath{\cdot}",
    "≤": r"\ensuremath{\le}", "≥": r"\ensuremath{\ge}", "≈": r"\ensuremath{\approx}",
    "→": r"\ensuremath{\rightarrow}", "°": r"\ensuremath{^\circ}", "µ": r"\ensuremath{\mu}",
    "μ": r"\ensuremath{\mu}", "–": r"\textendash{}", "—": r"\textemdash{}",
    "…": r"\dots{}", "‘": "`", "’": "'",
    "“": "``", "”": "''", "²": r"\ensuremath{^2}", "³": r"\ensuremath{^3}", "ß": r"\ss{}",
    "ø": r"\o{}", "Ø": r"\O{}", "æ": r"\ae{}", "Æ": r"\AE{}", "œ": r"\oe{}", "ł": r"\l{}",
    "Ł": r"\L{}", "€": "EUR", "§": r"\S{}", "\n": " ", "\r": " ", "\t": " ",
}  # fmt: skip
"""Character -> what LaTeX with no other package sets as it."""
ACCENTS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u",
    "\u0307": ".", "\u0308": '"', "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0327": "c",
}  # fmt: skip
"""Combining accent -> LaTeX's command."""


class LatexError(RuntimeError):
    """A document that LaTeX refused; the message is one sentence with its first complaint."""


def escape(text: str) -> str:
    """Text as LaTeX sets it, in plain ASCII; what it has no way to set stands as [U+1F600]."""
    text = "".join(_character(each) for each in unicodedata.normalize("NFC", text))
    # Two hyphens would become a dash, and options begin with two.
    return re.sub(r"(?<=-)(?=-)", "{}", text)


def _character(each: str) -> str:
    if each in ESCAPES:
        return ESCAPES[each]
    if " " <= each <= "~":
        return each
    parts = unicodedata.normalize("NFD", each)
    base, accent = parts[0], parts[1:]
    if accent and accent not in ACCENTS and base.isascii() and base.isalpha():
        return base  # plain LaTeX has no such accent
    if accent in ACCENTS and base.isascii() and base.isalpha():
        dotless = {"i": r"\i", "j": r"\j"}.get(base, base)
        return rf"\{ACCENTS[accent]}{{{dotless}}}"
    return f"[U+{ord(each):04X}]"


def verbatim(text: str) -> str:
    """A path or command in typewriter letters that may break behind its separators."""
    return r"\texttt{" + re.sub(r"(?<=[/.:=,])(?=.)", r"\\allowbreak{}", escape(text)) + "}"


def engine() -> str | None:
    """Path of the LaTeX that is installed; None where none is."""
    return next((found for name in ENGINES if (found := shutil.which(name))), None)


def compiled(source: Path, figures: Path, program: str | None = None) -> bytes | None:
    """Set a document.

    Args:
        source: the .tex file.
        figures: folder that it names as figures/.
        program: a LaTeX; None takes what `engine` finds.

    Returns:
        The PDF; None where no LaTeX is installed.

    Raises:
        LatexError: LaTeX refused it, or did not end in time.
        OSError: no place for its own files.
    """
    found = program or engine()
    if found is None:
        return None
    with tempfile.TemporaryDirectory(prefix="alpenglow-latex-") as name:
        folder = Path(name)
        shutil.copy(source, folder / "document.tex")
        if figures.is_dir():
            shutil.copytree(figures, folder / "figures")
        if Path(found).name == "tectonic":
            words = [found, "--only-cached", "document.tex"]
            rounds = 1
        else:
            words = [found, "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape",
                     "document.tex"]  # fmt: skip
            rounds = 2  # the second knows where the links lead
        for _ in range(rounds):
            try:
                done = subprocess.run(
                    words, cwd=folder, capture_output=True, timeout=TIMEOUT_S, check=False,
                    stdin=subprocess.DEVNULL,
                )  # fmt: skip
            except subprocess.TimeoutExpired:
                raise LatexError(f"{found} did not end within {TIMEOUT_S:g} s") from None
            if done.returncode:
                said = (done.stdout + done.stderr).decode("utf-8", "replace")
                raise LatexError(f"{found} refused {source}: {_complaint(said)}")
        return (folder / "document.pdf").read_bytes()


def _complaint(said: str) -> str:
    """The first complaint of a LaTeX, with the line that it is about."""
    lines = said.splitlines()
    for i, text in enumerate(lines):
        if text.startswith(("!", "error:")):
            where = next((other for other in lines[i:] if re.match(r"l\.\d+", other)), "")
            return f"{text.lstrip('! ')} {where}".strip()
    return lines[-1] if lines else "it said nothing"
