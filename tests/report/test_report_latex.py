"""LaTeX and Markdown of a table: nothing that data or models say can break it or run a command."""

from __future__ import annotations

import re
import string
import unicodedata

import pytest

from clear_dist.metrics.interval import Estimate
from clear_dist.report.cells import Cell, Row, Table, gap, measured, plain_number, text
from clear_dist.report.latex import escape, latex
from clear_dist.report.markdown import table
from clear_dist.report.words import clean

TABLE = Table(
    "t-1",
    "50% & more_",
    ("Run", "Real", "Real", "who"),
    (
        Row((text("[a]* \\input{x}"), measured(Estimate(0.5, 0.25, 0.75, 8)), plain_number(-4.917), text("x"))),
        Row((text("gold"), gap(), gap("itself"), text("|")), grey=True, rule=True),
    ),
    groups=(("", 1), ("Ours_1", 2), ("", 1)),
    notes=("100% sure",),
)


@pytest.mark.parametrize(
    ("given", "printed"),
    [
        ("a_b", r"a\_b"),
        ("50% & $x$ #1", r"50\% \& \$x\$ \#1"),
        ("\\end{table}", r"\textbackslash{}end\{table\}"),
        ("~^", r"\textasciitilde{}\textasciicircum{}"),
        ("<b>|", r"\textless{}b\textgreater{}\textbar{}"),
        ("--", "{-}{-}"),  # no ligature
        ("``'\"", r"\textasciigrave{}\textasciigrave{}{'}{''}"),
        ("*[1]", "{*}{[}1{]}"),
        ("a\r\nb\tc", "a b c"),
        ("Łukasz Ørsted", "Łukasz Ørsted"),
        ("10 ≤ 5·2 … – —", r"10 $\leq$ 5$\cdot$2 \ldots{} -- ---"),
        ("中\u202e", "{[}U+4E2D{]}{[}U+FFFD{]}"),
        ("😀", "{[}U+1F600{]}"),
        ("e\u0301", "e{[}U+0301{]}"),
        ("ſĸḁ", "{[}U+017F{]}{[}U+0138{]}{[}U+1E01{]}"),
        ("", ""),
    ],
)
def test_escaping(given: str, printed: str) -> None:
    assert escape(given) == printed


def test_no_special_character_is_left_bare() -> None:
    everything = "".join(map(chr, range(0x20, 0x2000))) + string.printable
    left = re.sub(r"\\(?:textbackslash|text\w+|ldots)\{\}|\$\\\w+\$|\$-\$|\\[{}$&#%_]", "", escape(everything))
    left = re.sub(r"\{[-'`\[\]*]+\}", "", left)
    assert not re.search(r"[\\{}$&#%_^<>|\"\[\]*]", left)
    others = {c for c in left if not c.isascii()}
    bare = {unicodedata.normalize("NFD", c)[0] for c in others}
    assert {c for c in bare if not c.isascii()} <= set("ßæÆœŒøØłŁđĐðÐþÞ"), "only what LaTeX's own fonts can set"
    assert {"é", "ą", "Ž", "ő"} <= others


def test_a_table_has_its_columns_in_every_row() -> None:
    source = latex(TABLE)
    assert source.startswith("\\begin{table}\n") and source.endswith("\\end{table}\n")
    assert "\\begin{tabular}{lrrl}" in source and r"\caption{50\% \& more\_}" in source and r"\label{tab:t-1}" in source
    assert r"\multicolumn{2}{c}{Ours\_1}" in source and r"\cmidrule(lr){2-3}" in source
    rows = [line for line in source.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 4
    for line in rows:
        spans = sum(int(n) - 1 for n in re.findall(r"\\multicolumn\{(\d)\}", line))
        assert len(re.findall(r"(?<!\\)&", line)) + spans == 3
    assert r"{[}a{]}{*} \textbackslash{}input\{x\} & .500 {\scriptsize (.250 to .750)} & $-$4.92 & x \\" in source
    assert r"\textit{gold} & \textit{\emph{not measured}} & \textit{\emph{itself}} & \textit{\textbar{}}" in source
    for rule in (r"\toprule", r"\bottomrule"):
        assert source.count(rule) == 1
    assert source.count(r"\midrule") == 2 and r"{\footnotesize 100\% sure}" in source
    depth = 0
    for at, char in enumerate(source):
        if char in "{}" and source[at - 1] != "\\":
            depth += 1 if char == "{" else -1
            assert depth >= 0
    assert depth == 0


def test_markdown_names_the_group_of_a_column() -> None:
    lines = table(TABLE)
    assert r"| Run | Ours\_1: Real | Ours\_1: Real | who |" in lines
    assert any(line.startswith(r"| \[a\]\* \\input\{x\} | .500 (.250 to .750) | -4.92 | x |") for line in lines)


def test_columns_of_numbers_and_gaps_are_flush_right() -> None:
    assert [TABLE.is_number(i) for i in range(4)] == [False, True, True, False]
    assert TABLE.group_of(0) == "" and TABLE.group_of(2) == "Ours_1" and TABLE.group_of(3) == ""
    with pytest.raises(AssertionError):
        Table("k", "t", ("a", "b"), (Row((Cell("x"),)),))


def test_what_turns_text_around_becomes_visible() -> None:
    assert clean("a\u202eb\u2066c\x1b[0m\x00") == "a\ufffdb\ufffdc\ufffd[0m\ufffd"
    for fine in ("مثال", "नमस्ते", "👩‍🔬", "a\nb", "plain"):
        assert clean(fine) == fine
