r"""LaTeX to text: RedPajama v1's defects in one mode, none of them in the other."""

from __future__ import annotations

import itertools

import pytest

from alpenglow.data.slices import latex_v1
from alpenglow.data.slices.latex import Cleaned, Paper
from alpenglow.data.slices.latex_comments import comment_environments, without_comments
from alpenglow.data.slices.latex_input import FILES
from alpenglow.data.slices.latex_macros import BODY, Macros


def cleaned(*files: str, main: str | None = None) -> Cleaned:
    """Clean a paper of the files a.tex, b.tex, ..."""
    paper = Paper({f"{chr(97 + number)}.tex": text for number, text in enumerate(files)})
    return paper.clean(main or paper.main())


def expanded(definitions: str, text: str) -> str:
    macros = Macros(work=1_000_000)
    macros.read(definitions)
    return macros.expand(text)


S = "\\section{S}\n"

CASES = {
    "paragraph as the only header": ("\\paragraph{A} text", "", "\\paragraph{A} text"),
    "paragraph, then subparagraph": (
        "pre \\paragraph{A}\\subparagraph{B} t",
        "\\paragraph{A}\\subparagraph{B} t",
        "\\paragraph{A}\\subparagraph{B} t",
    ),
    "no header": ("words only", "", "words only"),
    "comment and the character before it": (S + "x%c", S, S + "x"),
    "bare % at the end of a line": (S + "foo%\nbar", S + "foo%\nbar", S + "foobar"),
    "comment after the end of a row": (
        S + "a \\\\%c\n& b", S + "a \\\\%c\n& b", S + "a \\\\& b",
    ),
    "per cent sign in verbatim": (
        S + "\\begin{verbatim}\na % b\n\\end{verbatim}",
        S + "\\begin{verbatim}\na\n\\end{verbatim}",
        S + "\\begin{verbatim}\na % b\n\\end{verbatim}",
    ),
    "per cent sign in an address": (S + "\\url{a/b%20c} d", S + "\\url{a/", S + "\\url{a/b%20c} d"),
    "header in a comment": (
        "%\\section{old}\npreamble\n" + S, "\\section{old}\npreamble\n" + S, S.strip(),
    ),
    "definition without braces": (
        "\\newcommand\\x{Y}\n" + S + "\\x.", S + "\\x.", S + "Y.",
    ),
    "definition with a comment behind": (
        "\\newcommand{\\x}{Y}% why\n" + S + "\\x.", S + "\\x.", S + "Y.",
    ),
    "macro with an argument": (
        "\\newcommand{\\x}[1]{Y(#1)}\n" + S + "\\x{1}.", S + "\\x{1}.", S + "Y(1).",
    ),
    "definition in the body": (
        S + "\\newcommand{\\x}{Y}\n\\x.",
        S + "\\newcommand{Y}{Y}\nY.",
        S + "\\newcommand{\\x}{Y}\nY.",
    ),
    "macro in a macro, defined later": (
        "\\newcommand{\\x}{Y}\n\\newcommand{\\y}{\\x}\n" + S + "\\y.", S + "\\x.", S + "Y.",
    ),
    "macro as the last character": ("\\newcommand{\\x}{Y}\n" + S + "\\x", S + "\\x", S + "Y"),
    "macro before an empty group": (
        "\\newcommand{\\x}{Y}\n" + S + "\\x{} z", S + "Y{} z", S + "Y z",
    ),
    "\\appendixname": (
        S + "see \\appendixname{} b", S + "see ", S + "see \\appendixname{} b",
    ),
    "\\printbibliography": (
        S + "b\n\\printbibliography\nc", S + "b\n\\printbibliography\nc", S + "b",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_defects_of_v1(case: str) -> None:
    source, faithful, fixed = CASES[case]
    assert latex_v1.clean([source]).text == faithful
    assert cleaned(source).text == fixed


def test_files_are_joined_or_followed() -> None:
    child, parent = "\\section{Two}\ntwo", S + "\\input{a}\nend"
    assert latex_v1.clean([child, parent]).text == f"{child}\n{parent}"
    assert cleaned(child, parent).text == S + f"{child}\nend"
    headless = "a part without header"
    assert latex_v1.clean([headless, parent]).text == f"\n{parent}"
    assert cleaned(headless, parent).text == S + f"{headless}\nend"


def test_v1_refuses_what_it_failed_on() -> None:
    # Its replacement text held \xe9, an escape that Python's re does not know.
    with pytest.raises(latex_v1.Refused, match="macro that is not ASCII"):
        latex_v1.clean(["\\newcommand{\\x}{\xe9}\n" + S])
    assert latex_v1.clean(["\\newcommand{\\x}{\xe9}\nno header"]).text == ""
    grows = "\\newcommand{\\x}{" + "y" * 100_000 + "}\n" + S + "\\x " * 1000
    with pytest.raises(latex_v1.Refused, match="larger than 50 MB"):
        latex_v1.clean([grows])


@pytest.mark.parametrize(
    ("text", "stripped"),
    [
        ("x%c", "x"),
        ("50\\% of%c", "50\\% of"),
        ("a & b \\\\%c", "a & b \\\\"),
        ("foo%\n  bar", "foobar"),
        ("foo%\n\nbar", "foo\n\nbar"),
        ("foo %\nbar", "foo\nbar"),
        ("\\foo%\nbar", "\\foo\nbar"),
        ("a%\n%b\nc", "ac"),
        ("a\n  % b\nc", "a\nc"),
        ("% only", ""),
        ("\\url{a/b%20c} d %e", "\\url{a/b%20c} d"),
        ("\\href{a%20{b}}{c}% d", "\\href{a%20{b}}{c}"),
        ("\\verb|50%| a % b", "\\verb|50%| a"),
        ("\\verb*+%+ % b\n\\verb|no end % c", "\\verb*+%+\n\\verb|no end"),
        ("\\lstinline[language=C]!a % b! c%", "\\lstinline[language=C]!a % b! c"),
        ("\\begin{minted}\n% k\n\\end{minted}% g", "\\begin{minted}\n% k\n\\end{minted}"),
        ("a\n\\begin{comment}\nb\n\\end{comment}\nc", "a\nc"),
        ("% \\begin{verbatim}\na % b\n", "a\n"),
        ("\\begin{verbatim} no end % a", "\\begin{verbatim} no end"),
    ],
)  # fmt: skip
def test_comments(text: str, stripped: str) -> None:
    assert without_comments(text) == stripped


def test_environments_that_are_comments_by_definition() -> None:
    preamble = "\\newenvironment{history}{\\comment}{\\endcomment}\n\\excludecomment{notes}\n"
    silent = comment_environments([preamble])
    assert silent == {"comment", "history", "notes"}
    found = cleaned(preamble + S + "a\n\\begin{history}\nb\n\\end{history}\nc")
    assert found.text == S + "a\nc"


@pytest.mark.parametrize(
    ("definition", "use", "written"),
    [
        ("\\newcommand{\\R}{\\mathbb{R}}", "$\\R^n$", "$\\mathbb{R}^n$"),
        ("\\newcommand*\\R{\\mathbb{R}}", "$x \\in\\R$", "$x \\in\\mathbb{R}$"),
        ("\\def\\R{\\mathbb{R}}", "\\R\\Real", "\\mathbb{R}\\Real"),
        ("\\renewcommand{\\R}{A}\\providecommand{\\R}{B}", "\\R", "A"),
        ("\\newcommand{\\R}{A}\n\\renewcommand\\R{B}", "\\R", "B"),
        ("\\DeclareMathOperator{\\Hom}{Hom}", "\\Hom(A)", "\\operatorname{Hom}(A)"),
        ("\\DeclareMathOperator*\\colim{colim}", "\\colim_I", "\\operatorname*{colim}_I"),
        ("\\newcommand{\\n}[2]{|#1-#2|}", "\\n{a}{b} \\n ab", "|a-b| |a-b|"),
        ("\\newcommand{\\n}[2][p]{|#2|_#1}", "\\n{a} \\n[q]{a}", "|a|_p |a|_q"),
        ("\\def\\n#1#2{#2#1}", "\\n{a}{\\n{b}{c}}", "cba"),
        ("\\def\\n#1.#2{#1}", "\\n a.b", "\\n a.b"),
        ("\\newcommand{\\a}{\\b}\n\\newcommand{\\b}{c}", "\\a", "c"),
        ("\\newcommand{\\v}[1]{\\mathbf#1}", "\\v x \\v{xy}", "\\mathbf x \\mathbf xy"),
        ("\\newcommand{\\x}{ab}", "\\bar\\x", "\\bar{ab}"),
        ("\\newcommand{\\x}{a}", "\\bar\\x", "\\bar a"),
        ("\\newcommand{\\x}{\\alpha}", "\\x{}b \\x b \\x\n\nc",
         "\\alpha{}b \\alpha b \\alpha\n\nc"),
        ("\\newcommand{\\be}{\\begin{equation}}", "\\be\nx", "\\begin{equation}\nx"),
        ("\\newcommand{\\x}{Y}", "\\\\x \\verb|\\x| \\url{\\x}", "\\\\x \\verb|\\x| \\url{\\x}"),
        ("\\newcommand{\\x}{Y}", "\\begin{verbatim}\\x\\end{verbatim}\\x",
         "\\begin{verbatim}\\x\\end{verbatim}Y"),
        ("\\newcommand{\\x}[1]{\\ifx#1a b\\fi}", "\\x{a}", "\\x{a}"),
        ("\\newcommand{\\x}{Y}", "\\x\\def\\x{Z}\\x", "Y\\def\\x{Z}Z"),
        ("\\newcommand{\\x}[1]{#1}", "\\x{open", "\\x{open"),
        ("\\def\\my@x{Y}", "\\my@x", "\\my@x"),
    ],
)  # fmt: skip
def test_macros(definition: str, use: str, written: str) -> None:
    assert expanded(definition, use) == written


def test_macro_bombs_stay_in_place() -> None:
    names = [chr(97 + number) for number in range(26)]
    doubling = "".join(f"\\def\\q{a}{{\\q{b}\\q{b}}}" for a, b in itertools.pairwise(names))
    found = cleaned(doubling + "\\def\\qz{x}\n" + S + "\\qa \\qy")
    assert found.text.endswith("xx")
    assert len(found.text) < 2 * BODY
    for definition in (
        "\\def\\s{\\s\\s}",
        "\\def\\s{\\t}\\def\\t{\\s}",
        "\\def\\s{a\\t}\\def\\t{\\t}",
    ):
        found = cleaned(definition + "\n" + S + "\\s.")
        assert found.text == S + "\\s."
        assert found.counts == {"macros left": 1}
    # Everyone calls everyone: only a share of the work bounds that.
    body = "".join(f"\\q{name}" for name in names)
    circle = "".join(f"\\def\\q{name}{{{body}}}" for name in names)
    assert cleaned(circle + "\n" + S + "\\qa").text == S + "\\qa"
    arguments = "\\newcommand{\\d}[1]{#1#1}\n" + S + "\\d{" * 39 + "x" + "}" * 39
    assert len(cleaned(arguments).text) < 1_000_000
    spent = Macros(work=100)
    spent.read("\\def\\x{" + "y" * 40 + "}")
    assert spent.expand("\\x \\x \\x \\x").count("\\x") == 3


def test_bounds_of_the_text() -> None:
    head = "\\documentclass{article}\n\\title{On \\emph{Alps}}\n"
    head += "\\begin{document}\n\\author{A, a@b.c}\n"
    tail = "\n\\end{document}\njunk"
    found = cleaned(head + "\\begin{abstract}We.\\end{abstract}\n\\section{S} x" + tail)
    assert found.text == "\\begin{abstract}We.\\end{abstract}\n\\section{S} x"
    assert found.title == "On \\emph{Alps}"
    assert set(found.trimmed) == {"preamble", "after the end", "macros and blank lines"}
    assert (
        cleaned(head + "\\maketitle\nA letter.\n\\section{S}" + tail).text
        == "A letter.\n\\section{S}"
    )
    assert cleaned(head + "plain" + tail).text == "\\author{A, a@b.c}\nplain"
    for mark, rule in {
        "\\appendix": "appendix", "\\begin{appendices}": "appendix",
        "\\bibliography{x}": "references", "\\printbibliography[title=x]": "references",
        "\\begin{thebibliography}{9}": "references", "\\begin{references}": "references",
    }.items():  # fmt: skip
        found = cleaned(S + "x\n" + mark + "\ny" + tail)
        assert found.text == S + "x"
        assert found.trimmed[rule] == len(mark + "\ny" + tail)
    hidden = "\\verb|\\appendix| \\newcommand{\\bib}{\\appendix}\n% \\appendix\nend"
    assert cleaned(S + hidden).text.endswith("end")


@pytest.mark.parametrize(
    ("command", "name", "text"),
    [
        ("\\input{b}", "b.tex", "in"),
        ("\\input b ", "b.tex", "in"),
        ("\\include{sub/b}", "sub/b.tex", "in"),
        ("\\import{sub/}{b.tex}", "sub/b.tex", "in"),
        ("\\subfile{sub/b}", "sub/b.tex", "\\documentclass{x}\\begin{document}in\\end{document}"),
        ("\\input{\"b\"}", "b.tex", "in"),
    ],
)  # fmt: skip
def test_inputs(command: str, name: str, text: str) -> None:
    paper = Paper({"main.tex": S + command + "!", name: text})
    assert paper.main() == "main.tex"
    assert paper.clean("main.tex").text == S + "in!"


def test_inputs_that_cannot_be_followed() -> None:
    assert cleaned(S + "\\input{gone} \\verb|\\input{gone}|").counts == {"inputs missing": 1}
    for path in ("../b", "/etc/passwd", "sub/../../b", "|ls", "~/b"):
        found = cleaned(S + f"\\input{{{path}}}", "secret", main="a.tex")
        assert found.text == S + f"\\input{{{path}}}"
        assert found.counts == {"inputs outside": 1}
    circle = cleaned(S + "\\input{b}", "b \\input{a}", main="a.tex")
    assert circle.text == S + "b \\input{a}"
    assert circle.counts == {"inputs cycles": 1}
    # Each reads the next in twice: 2^25 files.
    chain = {f"f{n}.tex": f"\\input{{f{n + 1}}}\\input{{f{n + 1}}}" for n in range(25)}
    bomb = Paper({**chain, "f25.tex": ""}).clean("f0.tex")
    assert 0 < bomb.counts["inputs too much"] < 2 * FILES


def test_main_file() -> None:
    document = "\\documentclass{a}\\begin{document}"
    files = {
        "supplement.tex": document + "x" * 50,
        "paper.tex": document + "\\input{body}",
        "body.tex": "y" * 100,
        "old.tex": "z" * 500,
    }
    paper = Paper(files)
    assert paper.main() == "paper.tex"
    assert paper.documents() == ["supplement.tex", "paper.tex"]
    assert paper.unused(["paper.tex"]) == len(files["supplement.tex"]) + 500


SOURCES = [
    *(source for source, _, _ in CASES.values()),
    "\u00e9%\u00e9\n" + S + "\u00fc \\input{b} % \u00f6",
]


@pytest.mark.parametrize("source", SOURCES)
def test_every_byte_is_accounted_for(source: str) -> None:
    child = "\u00e4 child % note\n"
    found = cleaned(source, child, main="a.tex")
    files = source + (child if "\\input{b}" in source else "")
    kept = len(found.text.encode())
    assert kept + sum(found.trimmed.values()) == len(files.encode()) + found.grown
    assert all(size > 0 for size in found.trimmed.values())
    old = latex_v1.clean([source, child])
    both = len((source + child).encode())
    assert len(old.text.encode()) + sum(old.trimmed.values()) == both + old.grown
