"""Figures as SVG files, which browsers run: no name in them becomes markup, and every XML parser reads them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest
from matplotlib import rc_context
from matplotlib.figure import Figure

from clear_dist.report import draw
from clear_dist.report.build import report_runs
from clear_dist.report.draw import LIGHT, encode, plain
from clear_dist.report.front import front
from clear_dist.report.words import clean
from tests.faults.pages import KINDS, Folder, all_texts
from tests.faults.test_faults_html import HARMLESS, PAYLOADS

NAMES = (
    *PAYLOADS,
    *(
        "]]><script>1</script>",
        "<![CDATA[<script>",
        "<!ENTITY a 'b'>&a;",
        "<?php 1 ?>",
        "a & b",
        "&#60;b&#62;",
        "--!><b>",
    ),
    *(
        "\"'><a href='javascript:1'>",
        "$x$",
        "\\$\\frac{",
        "$$",
        "\\",
        "--",
        "-",
        "\ufffe\uffff",
        "\ud800",
        "\0",
        "\x0b\x85\u2028",
    ),
)
ELEMENTS = {
    *("svg", "metadata", "RDF", "Work", "type", "format", "creator", "Agent", "title", "defs", "style", "clipPath"),
    *("g", "path", "use", "rect", "text", "tspan", "image", "pattern"),
}
SVG = "{http://www.w3.org/2000/svg}"


def check_svg(content: bytes) -> list[str]:
    """The texts of a figure that holds no more than shapes and texts. Raises AssertionError, or ParseError."""
    elements = list(ElementTree.fromstring(content).iter())
    assert {e.tag.rpartition("}")[2] for e in elements} <= ELEMENTS, "an element that no figure has"
    for element in elements:
        for name, value in element.attrib.items():
            bare = name.rpartition("}")[2]
            assert not bare.startswith("on"), f"{bare}={value}"
            assert bare != "href" or value.startswith(("#", "data:image/png;base64,")), f"{bare}={value}"
    styles = [e.text or "" for e in elements if e.tag == f"{SVG}style"]
    assert all(re.fullmatch(r"\*\{[a-z:; -]+\}", style) for style in styles), styles
    return ["".join(e.itertext()) for e in elements if e.tag == f"{SVG}text"]


def _named(names: Sequence[str]) -> Figure:
    """A figure with every name as a label and at a tick, and the last wherever else ours have one."""
    figure = Figure(figsize=(9, 9))
    axes = figure.subplots()
    for name in names:
        axes.plot([0, 1], [0, 1], label=plain(name))
    axes.set_yticks(range(len(names)), [plain(name) for name in names])
    axes.set_title(plain(names[-1]))
    axes.set_xlabel(plain(names[-1]))
    axes.annotate(plain(names[-1]), (0, 0))
    figure.text(0.5, 0.5, plain(names[-1]))
    figure.legend(*axes.get_legend_handles_labels())
    return figure


def test_a_name_in_a_figure_is_a_text() -> None:
    """Our files hold outlines, and the text as a comment; where a user's settings keep texts, they can be read."""
    check_svg(encode(_named(NAMES), "svg", LIGHT.card))
    with rc_context({"svg.fonttype": "none"}):
        texts = Counter(check_svg(encode(_named(NAMES), "svg", LIGHT.card)))
    assert all(texts[clean(name)] >= 2 for name in NAMES) and texts[clean(NAMES[-1])] == 6, texts


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """What the files of figures say, checked, once they are painted; no PNG is."""

    def painted(figure: Figure, kind: str, color: str) -> bytes:
        with rc_context({"svg.fonttype": "none"}):
            return encode(figure, kind, color) if kind == "svg" else b"\x89PNG"

    monkeypatch.setattr(draw, "encode", painted)
    return lambda: [text for file in tmp_path.rglob("*.svg") for text in check_svg(file.read_bytes())]


@pytest.mark.parametrize("kind", KINDS)
def test_no_name_in_the_figures_of_a_page_becomes_markup(
    tmp_path: Path, texts: Callable[[], list[str]], kind: str
) -> None:
    folder = Folder(kind, tmp_path / "folder")
    names = [f"<b>{name[:15]}" for name in NAMES if "\ud800" not in name]  # half a character, which no file can hold
    folder.page(all_texts(folder.good, names))
    found = texts()
    assert found and (kind == "runs" or any(text.startswith("<b>") for text in found)), "runs are named by folders"


def test_no_name_of_a_folder_becomes_markup(tmp_path: Path, texts: Callable[[], list[str]]) -> None:
    names = ["<b>&\"']]>", "--><svg onload=1>"]
    made = Folder("runs", tmp_path / "made").folder
    for old, name in zip(("npo", "retain_ft"), names, strict=True):
        (made / old).rename(tmp_path / name)
    report_runs([tmp_path / name for name in names], tmp_path / "out")
    assert set(names) <= set(texts())


@pytest.mark.parametrize("count", [6, len(NAMES)], ids=["beside its point", "in the key"])
def test_no_method_of_a_front_becomes_markup(tmp_path: Path, count: int) -> None:
    names = [f"{i} {name[:18]}" for i, name in enumerate(NAMES[:count])]
    with rc_context({"svg.fonttype": "none"}):
        front(
            [{"method": name, "forget": i / 40, "retain": i / 40} for i, name in enumerate(names)], tmp_path / "f.svg"
        )
    assert {clean(name) for name in names} <= set(check_svg((tmp_path / "f.svg").read_bytes()))


def test_markup_in_a_figure_is_noticed() -> None:
    good = encode(_named([HARMLESS]), "svg", LIGHT.card)
    check_svg(good)
    for bad in (
        b"<script/>",
        b"<foreignObject/>",
        b'<g onload="1"/>',
        b'<use href="javascript:1"/>',
        b"<style>a</style>",
    ):
        with pytest.raises(AssertionError):
            check_svg(good.replace(b"</svg>", bad + b"</svg>"))
    for bad in (b"\x1b", b"&nbsp;", b"<g>", b"<!-- -- -->"):
        with pytest.raises(ElementTree.ParseError):
            check_svg(good.replace(b"</svg>", bad + b"</svg>"))
