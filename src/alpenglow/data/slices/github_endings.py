"""Which files are source text: endings and whole names, and the language that each says.

`REDPAJAMA` is the set of RedPajama v1 (data_prep/github/github_run_filter.py of branch rp_v1): what
a path may end with, capitals meant. `FIXED` compares without regard to capitals and adds what v1
missed: the usual name of a CMake file, other spellings of C++, Python's stubs, CUDA.
"""

from __future__ import annotations

from typing import Literal

LANGUAGES = {
    "Assembly": (".asm", ".s"),
    "Batchfile": (".bat", ".cmd"),
    "C": (".c", ".h"),
    "C#": (".cs",),
    "C++": (".cpp", ".hpp", ".c++", ".h++", ".cc", ".hh", ".C", ".H", ".cxx", ".hxx"),
    "CMake": (".cmake", "CMakeLists.txt"),
    "CSS": (".css",),
    "Cuda": (".cu", ".cuh"),
    "Cython": (".pyx", ".pxd"),
    "Dockerfile": (".dockerfile", "Dockerfile"),
    "Fortran": (".f90", ".f", ".f03", ".f08", ".f77", ".f95", ".for", ".fpp"),
    "Go": (".go",),
    "HTML": (".html",),
    "Haskell": (".hs",),
    "Java": (".java",),
    "JavaScript": (".js",),
    "Julia": (".jl",),
    "Kotlin": (".kt",),
    "Lua": (".lua",),
    "Makefile": ("Makefile",),
    "Markdown": (".md", ".markdown"),
    "Objective-C or MATLAB": (".m",),
    "PHP": (".php", ".php3", ".php4", ".php5", ".phps", ".phpt"),
    "Perl": (".pl", ".pm", ".pod", ".perl"),
    "PowerShell": (".ps1", ".psd1", ".psm1"),
    "Python": (".py", ".pyi"),
    "R": (".r",),
    "Ruby": (".rb",),
    "Rust": (".rs",),
    "SQL": (".sql",),
    "Scala": (".scala",),
    "Shell": (".sh", ".bash", ".command", ".zsh"),
    "Smali": (".smali",),
    "Swift": (".swift",),
    "TeX": (".tex",),
    "TypeScript": (".ts", ".tsx"),
    "Visual Basic": (".vb",),
    "XML": (".xml",),
    "reStructuredText": (".rst",),
}
"""Language -> endings and names; of languages that share an ending, the commoner one."""

ADDED = frozenset(
    {".s", ".cxx", ".hxx", "CMakeLists.txt", ".cu", ".cuh", ".pyx", ".pxd", ".kt", ".pyi", ".r",
     ".swift"}
)  # fmt: skip
"""What RedPajama's set lacks."""

REDPAJAMA = tuple(
    ending for endings in LANGUAGES.values() for ending in endings if ending not in ADDED
)
FIXED = tuple(dict.fromkeys(ending.lower() for row in LANGUAGES.values() for ending in row))

INSTALLED = (
    ".py", ".pyx", ".pyi", ".c", ".h", ".cc", ".cpp", ".hpp", ".cu", ".cuh", ".js", ".ts", ".java",
    ".go", ".rs", ".rb", ".pl", ".php", ".lua", ".r", ".jl", ".f90", ".scala", ".hs", ".sh", ".sql",
)  # fmt: skip
"""Of installed packages: programs only, for their documents and data are other slices' input."""

_EXACT = {ending: name for name, endings in LANGUAGES.items() for ending in endings}
_LOWER = {
    ending.lower(): name for name, endings in reversed(LANGUAGES.items()) for ending in endings
}
_LOWER |= {".c": "C", ".h": "C"}


def is_source(path: str, mode: Literal["fixed", "faithful"]) -> bool:
    """Whether a path has an ending or a name of the set of this mode."""
    return path.endswith(REDPAJAMA) if mode == "faithful" else path.lower().endswith(FIXED)


def language(path: str) -> str:
    """Name the language that a path's ending says, empty where it says none."""
    name = path.rpartition("/")[2]
    dot = name.rfind(".")
    ending = name[dot:] if dot >= 0 else ""
    found = _EXACT.get(ending) or _LOWER.get(ending.lower())
    if found is None or name.lower() == "cmakelists.txt":
        for special in ("Dockerfile", "Makefile", "CMakeLists.txt"):
            if name.lower().endswith(special.lower()):
                return _EXACT[special]
    return found or ""
