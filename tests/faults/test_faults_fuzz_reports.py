"""Texts of any kind in what is written for people: pages, Markdown, LaTeX, and lines on a terminal."""

from __future__ import annotations

import io
import re
import unicodedata
from typing import Any

import pytest
from hypothesis import strategies as st
from rich.console import Console

from clear_dist.report.certificate import certificate_page
from clear_dist.report.latex import escape as latex_escape
from clear_dist.report.markdown import escape as markdown_escape
from clear_dist.services import progress
from tests.faults.fuzz import counted
from tests.faults.fuzz_inputs import HOSTILE_TEXTS
from tests.faults.test_faults_html import PAYLOADS, certificate_of_texts, check_page

PIECES = (
    *PAYLOADS,
    *(text for text in HOSTILE_TEXTS if len(text) < 100),
    *(
        "\\input{/etc/passwd}",
        "\\write18{id}",
        "\\",
        "\\\\",
        "^^5cinput",
        "$",
        "%",
        "&",
        "#",
        "_",
        "{",
        "}",
        "~",
        "[",
        "]",
    ),
    *(
        "|",
        "\\|",
        "`",
        "```",
        "\n\n# head",
        "\n---\n",
        "<!--",
        "![x](http://x)",
        "[a](javascript:x)",
        "\r",
        "\u2028",
        "\x85",
    ),
)
TEXTS = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=12)), max_size=6).map("".join)
COMMANDS = {
    *("textbackslash", "textasciitilde", "textless", "textgreater", "textbar", "textasciicircum", "textasciigrave"),
    *("ldots", "times", "pm", "cdot", "leq", "geq", "rightarrow"),
}
COUNTS = [pytest.param(60, id="fast"), pytest.param(10_000, marks=pytest.mark.slow, id="10000")]


@pytest.mark.parametrize("count", COUNTS)
def test_a_text_in_markdown_stays_one_cell_without_html(count: int) -> None:
    def markdown(text: str) -> None:
        said = markdown_escape(text)
        bare = re.sub(r"\\[\\`*_{}\[\]|#~!&$]", "", said)  # what is escaped is text
        assert not re.search(r"[|`*_\[\]<>#$\\~!]", bare), said
        assert bare.replace("&lt;", "").replace("&gt;", "").count("&") == 0, said
        assert len(said.splitlines()) <= 1, said
        hidden = {c for c in said if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")} - {"\u200c", "\u200d"}
        assert not hidden, ascii(hidden)

    counted(count, TEXTS, markdown, names=[""], accepted_at_least=count, rejected_at_least=0)


@pytest.mark.parametrize("count", COUNTS)
def test_a_text_in_latex_runs_no_command_and_stays_one_cell(count: int) -> None:
    def latex(text: str) -> None:
        said = latex_escape(text)
        assert set(re.findall(r"\\([A-Za-z]+)", said)) <= COMMANDS, said
        bare = re.sub(r"\\[{}$&#%_]", "", said)
        assert not re.search(r"[&%#_~^]|\\\\", bare), said
        assert bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0, said
        assert len(said.splitlines()) <= 1, said

    counted(count, TEXTS, latex, names=[""], accepted_at_least=count, rejected_at_least=0)


@pytest.mark.parametrize("count", COUNTS)
def test_a_page_has_the_elements_of_one_with_harmless_texts(count: int) -> None:
    harmless = certificate_page(certificate_of_texts(["harmless"]))

    def page(texts: list[str]) -> None:
        check_page(certificate_page(certificate_of_texts(texts)), harmless)

    counted(
        count, st.lists(TEXTS, min_size=1, max_size=5), page, names=[""], accepted_at_least=count, rejected_at_least=0
    )


@pytest.mark.parametrize("count", COUNTS)
def test_a_line_on_a_terminal_is_printed_as_text(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    out = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=out, force_terminal=True, highlight=False, color_system=None))

    def line(text: Any) -> None:
        out.seek(0)
        out.truncate()
        progress.say(f"{text} [/b] [red]x")
        said = out.getvalue()
        assert "[/b] [red]x" in said and all(c.isprintable() or c == "\n" for c in said), ascii(said)

    counted(count, TEXTS, line, names=[""], accepted_at_least=count, rejected_at_least=0)
