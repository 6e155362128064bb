"""Licence headers: what RedPajama v1's stripper did, what ours does; licences and their rules."""

from __future__ import annotations

import ast
import re
import sysconfig
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpenglow.data.slices import github_licence, licence_header
from alpenglow.data.slices.github_endings import REDPAJAMA, is_source, language

MIT = (
    "MIT License\n\nPermission is hereby granted, free of charge, to any person obtaining a copy\n"
    "of this software. The above copyright notice and this permission notice shall be\nincluded in "
    "all copies. THE SOFTWARE IS PROVIDED AS IS.\n"
)
BSD = "Redistribution and use in source and binary forms, with or without modification, are ok."


@pytest.mark.parametrize(
    ("path", "text", "faithful", "fixed"),
    [
        # The cases of the reference code's defects.
        ("a.c", "#include <a.h>\n#define B\n\nint x;", "int x;",
         "#include <a.h>\n#define B\n\nint x;"),
        ("a.md", "# Title\n\n## H\ntext", "text", "# Title\n\n## H\ntext"),
        ("a.sh", "#!/bin/sh\necho", "echo", "#!/bin/sh\necho"),
        ("a.c", "/* a */\n/* Copyright B */\nint x;", "/* a */\n/* Copyright B */\nint x;",
         "/* a */\nint x;"),
        # The first comment of the file is cut wherever it is, and a header above it stays.
        ("a.js", "// Copyright A\nx()\n/* copyright */ y()", "// Copyright A\nx()\n y()",
         "x()\n/* copyright */ y()"),
        ("a.sql", "-- Adds a user.\nselect", "select", "-- Adds a user.\nselect"),
        ("a.lua", "--[[ Copyright A\n]]\nx", "]]\nx", "--[[ Copyright A\n]]\nx"),
        # What both take out, and what only `fixed` knows.
        ("a.py", "# Copyright 2020 A\n# Licensed under the MIT License\n\nx = 1", "x = 1", "x = 1"),
        ("a.c", "/*\n * Copyright (C) 1991 A\n */\n\nint x;", "\n\nint x;", "int x;"),
        ("a.tex", "% Copyright A\n\\section{A}", "% Copyright A\n\\section{A}", "\\section{A}"),
        ("a.asm", "; Copyright 2001 A\nnop", "; Copyright 2001 A\nnop", "nop"),
        ("a.xml", "<?xml version='1.0'?>\n<!-- Copyright A -->\n<a/>",
         "<?xml version='1.0'?>\n<!-- Copyright A -->\n<a/>", "<?xml version='1.0'?>\n<a/>"),
        ("a.hs", "-- | Copyright: A\nmain", "main", "main"),
        ("a.py", "#!/usr/bin/python\n# coding: latin-1\n# (c) 2001 A\nx", "x",
         "#!/usr/bin/python\n# coding: latin-1\nx"),
        ("a.go", "// Copyright 2009 A\n//go:build linux\n\npackage a", "package a",
         "//go:build linux\n\npackage a"),
        # Words that are no notice, and no comment.
        ("a.py", "# Prints each licence.\nx", "x", "# Prints each licence.\nx"),
        ("a.py", '"""Copyright A."""\n', '"""Copyright A."""\n', '"""Copyright A."""\n'),
        ("a.py", "# Copyright A\n#\n# Adds numbers.\nx", "x", "# Adds numbers.\nx"),
        ("a.py", "# Adds.\n#\n# Copyright A\n#\n# http://a/b\n#\n# WITHOUT ANY WARRANTY\nx", "x",
         "# Adds.\nx"),
        ("a.c", "/* Copyright A", "/* Copyright A", "/* Copyright A"),
        ("a.php", "<?php\n#[A]\n# Copyright A\n", "<?php\n#[A]\n# Copyright A\n",
         "<?php\n#[A]\n# Copyright A\n"),
        ("a.vb", "' Copyright A\nx", "' Copyright A\nx", "' Copyright A\nx"),
        ("a.py", "# Copyright A\f\f\u2028b\nx", "x", "x"),
        ("a.py", "", "", ""),
        ("a.py", "\n\n", "", "\n\n"),
        ("a.py", "# Copyright A", "", ""),
    ],
)  # fmt: skip
def test_headers(path: str, text: str, faithful: str, fixed: str) -> None:
    assert licence_header.strip(text, path, "faithful") == faithful
    assert licence_header.strip(text, path, "fixed") == fixed


def test_copies_that_differ_in_the_header_become_equal() -> None:
    body = "#include <a.h>\n\nint x;\n"
    headers = [
        "", "/* Copyright (c) 2001 A */\n", "// SPDX-License-Identifier: MIT\n\n",
        "/*\n * Copyright B\n */\n\n", "// Copyright C\n// All rights reserved.\n\n",
    ]  # fmt: skip
    assert {licence_header.strip(h + body, "a.c", "fixed") for h in headers} == {body}
    assert len({licence_header.strip(h + body, "a.c", "faithful") for h in headers}) > 1


PIECES = st.sampled_from(
    ["/*", "*/", "//", "#", "--", "\n", " ", "Copyright A", "x", "<!--", "-->", "#!a", "coding:"]
)
PATHS = st.sampled_from(["a.c", "a.py", "a.md", "a.lua", "a.php", "a.tex", "a"])


@given(st.lists(PIECES).map("".join), PATHS)
def test_fixed_takes_out_and_never_adds(text: str, path: str) -> None:
    stripped = licence_header.strip(text, path, "fixed")
    characters = iter(text)
    assert all(character in characters for character in stripped)
    if "copyright" not in text.lower():
        assert stripped == text


@pytest.mark.parametrize("path", ["a.c", "a.py", "a.html", "a.php", "a.sql"])
@pytest.mark.parametrize(
    "piece", [" ", "# ", "#", "/*", "<!--", "//", "\n", "\n\n#", "copyright ", "under the ", "-- ("]
)
def test_time_grows_with_the_length(piece: str, path: str) -> None:
    # A rule that looks back from every place would need hours.
    text = piece * 300_000 + "\nx"
    assert licence_header.strip(text, path, "fixed").endswith("x")
    assert licence_header.strip(text, path, "faithful").endswith("x")


def test_real_programs_mean_the_same_without_their_headers() -> None:
    stdlib, packages = (Path(sysconfig.get_paths()[name]) for name in ("stdlib", "purelib"))
    changed = 0
    for path in [*sorted(stdlib.glob("*.py"))[::2], *sorted(packages.glob("*/*.py"))[:200]]:
        text = path.read_text(encoding="utf-8", errors="replace")
        stripped = licence_header.strip(text, path.name, "fixed")
        if stripped != text:
            changed += 1
            assert ast.dump(ast.parse(stripped)) == ast.dump(ast.parse(text)), path
    assert changed > 20


def test_endings_are_redpajamas() -> None:
    assert len(REDPAJAMA) == 66
    assert is_source("a/Dockerfile", "faithful")
    assert [is_source("a.PY", mode) for mode in ("faithful", "fixed")] == [False, True]
    assert [is_source("CMakeLists.txt", mode) for mode in ("faithful", "fixed")] == [False, True]
    assert not is_source("a.txt", "fixed")
    names = {
        "a.c": "C",
        "a.C": "C++",
        "a.H": "C++",
        "a.R": "R",
        "x/GNUmakefile": "Makefile",
        "a": "",
    }
    assert {name: language(name) for name in names} == names


@pytest.mark.parametrize(
    ("files", "licence"),
    [
        ({"LICENSE": MIT}, "MIT"),
        ({"LICENSE": BSD}, "BSD-2-Clause"),
        ({"COPYING": BSD + " Neither name may be used to endorse or promote products."},
         "BSD-3-Clause"),
        ({"LICENSE": "Apache License\nVersion 2.0, January 2004"}, "Apache-2.0"),
        ({"COPYING": "GNU GENERAL PUBLIC LICENSE\n Version 3, 29 June 2007 ... GNU Affero General "
          "Public License"}, "GPL-3.0"),
        ({"LICENSE": MIT + BSD}, "BSD-2-Clause AND MIT"),
        ({"LICENSE": MIT, "COPYING": "All mine."}, "MIT AND not recognised"),
        ({"LICENSE-MIT": MIT, "LICENSE-APACHE": "Apache License, Version 2.0"},
         "Apache-2.0 OR MIT"),
        ({"LICENSE": "Take either.", "LICENSE.BSD": BSD, "LICENSE.MIT": MIT},
         "BSD-2-Clause OR MIT"),
        ({"LICENSE": "SPDX-License-Identifier: MIT OR GPL-2.0-only */"}, "MIT OR GPL-2.0-only"),
        ({"LICENSE": "Do as you please."}, "not recognised"),
        ({}, None),
    ],
)  # fmt: skip
def test_licence_of_a_repository(files: dict[str, str], licence: str | None) -> None:
    assert github_licence.of_folder(files) == licence


def test_licences_that_debian_ships() -> None:
    folder = Path("/usr/share/common-licenses")
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: no texts of common licences to tell apart")
    shipped = [p for p in folder.iterdir() if re.fullmatch(r"(?:L?GPL|Apache|MPL)-[23].*", p.name)]
    assert len(shipped) >= 4
    for path in shipped:
        told = github_licence.of_file(path.read_text(encoding="utf-8"))
        assert told.removesuffix(".0") == path.name.removesuffix(".0")


@pytest.mark.parametrize(
    ("expression", "kept"),
    [
        ("mit", True), ("MIT-0", True), ("apache-2.0", True), ("GPL-2.0", False), ("", False),
        ("MIT OR GPL-2.0-only", True), ("MIT AND GPL-2.0-only", False),
        ("(MIT OR GPL-2.0-only) AND BSD-3-Clause", True), ("Apache-2.0 WITH LLVM-exception", True),
        ("GPL-2.0 AND (MIT OR BSD-3-Clause)", False), ("limited", False), ("(MIT", False),
        ("MIT)", False), ("AND", False), ("MIT AND not recognised", False),
    ],
)  # fmt: skip
def test_a_licence_rule(expression: str, kept: bool) -> None:
    assert github_licence.permitted(expression, ("mit", "bsd", "apache")) is kept


def test_which_files_hold_licences() -> None:
    names = ["LICENSE", "license.txt", "LICENCE.md", "COPYING.LESSER", "LICENSE-MIT", "UNLICENSE"]
    others = ["license.py", "LICENSES", "licensee.txt", "copying.c", "license-rules.rst",
              "README"]  # fmt: skip
    assert [n for n in names + others if github_licence.is_licence_file(n)] == names
