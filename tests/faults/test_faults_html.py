"""No page that the project writes lets the texts it shows become markup: payloads in every name it is given."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "report"))

from page_reader import Page  # noqa: E402  # pyright: ignore[reportMissingImports]
from synthetic_data import CHECK, build_files, sheet, write_build  # noqa: E402  # pyright: ignore[reportMissingImports]

from clear_dist.report.certificate import certificate_page  # noqa: E402
from clear_dist.report.data_build_page import data_build_page  # noqa: E402
from clear_dist.report.data_check_page import data_check_page  # noqa: E402
from tests.faults.pages import KINDS, Folder, all_texts, unpainted  # noqa: E402

HARMLESS = "harmless"
PAYLOADS = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{7*7777777}}",
    "</style><script>alert(1)</script>",
    "javascript:alert(1)",
    "--><svg onload=alert(1)>",
    "&lt;b&gt;",
    "' onmouseover='alert(1)",
    "\u202egnp.exe",
    "\x1b[2J\x07",
)


def certificate_of_texts(texts: Sequence[str]) -> dict[str, Any]:
    """A certificate.json all of whose texts are these, in turn."""
    turn = cycle(texts)
    figure = {"value": 0.1, "ci": [0.0, 0.2], "n": 9}

    def one() -> str:
        return next(turn)

    document = {
        "forgotten": {"people": [one()], "rows": 3, "digest": one(), "kept_people": 1},
        "data": {"digest": one(), "leaks": one()},
        "models": {"before": one(), "after": {one(): one()}},
        "method": {"objective": one(), "name": one()},
        "run": {"command": one()},
        "measured": {
            one(): {"sets": {one(): {one(): figure}}, "robustness": {one(): {one(): {"all": {one(): figure}}}}}
        },
        "environment": {"versions": {one(): one()}, "source": {"commit": one()}, "machine": {"cpu": one()}},
        "seeds": {one(): 1},
        "settings": {one(): one()},
        "files": {one(): {"sha256": one(), "bytes": 1}},
        "limits": [one()],
    }
    signature = {"fingerprint": one(), "algorithm": one(), "value": one(), "public_key": one()}
    return {"certificate": document, "signature": signature, "sha256": one(), "note": one()}


PAGES = {
    "page.html.j2": "run",
    "runs.html.j2": "runs",
    "farm.html.j2": "farm",
    "scale.html.j2": "scale",
    "certificate.html.j2": "certificate",
    "data_check.html.j2": "data_check",
    "data_build.html.j2": "data_build",
}
"""Template -> kind of page: those of ``pages.KINDS``, and those made of values here."""
INSIDE = {"base.html.j2", "macros.html.j2", "data_macros.html.j2"}
"""Templates that others are made of."""
WRITERS = ("build", "certificate", "data_build_page", "data_check_page", "farm", "scale_page")
"""Modules that fill them."""


def _shape(html: str) -> tuple[Counter[str], set[tuple[str, str]]]:
    """Elements, but for where a long name may be broken, and which attributes they have."""
    page = Page(html)
    elements = Counter(tag for tag, _ in page.tags if tag != "wbr")
    return elements, {(tag, name) for tag, attributes in page.tags for name in attributes}


def check_page(html: str, harmless: str, *, same_data: bool = True) -> None:
    """``same_data``: both are of data of the same shape, so that they have the same elements."""
    page, other = Page(html), Page(harmless)
    (elements, attributes), (wanted, known) = _shape(html), _shape(harmless)
    assert elements.keys() <= wanted.keys() and attributes <= known, (
        elements.keys() - wanted.keys(),
        attributes - known,
    )
    assert not same_data or (elements == wanted and attributes == known), elements - wanted | wanted - elements
    assert page.scripts == other.scripts and len(page.all("script")) == 1
    assert page.all("meta") == other.all("meta")
    assert (
        html[html.index("<style>") : html.index("</style>")]
        == harmless[harmless.index("<style>") : harmless.index("</style>")]
    )
    for tag, found in page.tags:
        for name, value in found.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("href", "src", "srcset"):
                start = (value or "").lower().lstrip()
                assert not start.startswith(("javascript:", "data:text", "vbscript:", "//", "/")), (tag, value)
                assert ".." not in start.split("data:")[0], (tag, value)
    assert not {"\u202e", "\x1b", "\x07"} & set(html)
    assert "54444439" not in page.text


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Folder]:
    return {kind: Folder(kind, tmp_path_factory.mktemp(kind) / "folder") for kind in KINDS}


@pytest.mark.parametrize("payload", PAYLOADS, ids=range(len(PAYLOADS)))
@pytest.mark.parametrize("kind", KINDS)
def test_no_text_becomes_markup(
    folders: dict[str, Folder], monkeypatch: pytest.MonkeyPatch, kind: str, payload: str
) -> None:
    """A payload alone, in every text of every file that the page is made of."""
    unpainted(monkeypatch, composed=False)
    folder = folders[kind]
    harmless = folder.page(all_texts(folder.good, [HARMLESS]))
    assert harmless.count(HARMLESS) > 10
    check_page(folder.page(all_texts(folder.good, [payload])), harmless)


@pytest.mark.parametrize("payload", PAYLOADS, ids=range(len(PAYLOADS)))
def test_no_text_of_a_certificate_becomes_markup(payload: str) -> None:
    check_page(certificate_page(certificate_of_texts([payload])), certificate_page(certificate_of_texts([HARMLESS])))


def check_of_texts(texts: Sequence[str]) -> str:
    """The page of a check all of whose texts are these, names of people and configs too."""
    found = all_texts({"check": CHECK}, texts)["check"]
    for name in ("people", "counts"):
        found[name] = {f"{texts[i % len(texts)]}{i}": value for i, value in enumerate(found[name].values())}
    for one, before in zip(found["findings"], CHECK["findings"], strict=True):
        one["severity"] = before["severity"]
    return data_check_page(found, {}, shown=2)


def build_of_texts(folder: Path, texts: Sequence[str]) -> str:
    """The page of a build all of whose texts are these, names of configs and of splits too."""
    files = all_texts(build_files(), texts)
    written = files["dataset.json"]
    for name in ("counts", "splits"):
        written[name] = {f"{texts[i % len(texts)]}{i}": value for i, value in enumerate(written[name].values())}
    return data_build_page(write_build(folder, files), sheet(files))


@pytest.mark.parametrize("payload", PAYLOADS, ids=range(len(PAYLOADS)))
def test_no_text_of_a_dataset_becomes_markup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, payload: str) -> None:
    unpainted(monkeypatch, composed=False)
    for make in (check_of_texts, lambda texts: build_of_texts(tmp_path, texts)):
        harmless = make([HARMLESS])
        assert harmless.count(HARMLESS) > 10
        check_page(make([payload]), harmless)


def test_every_kind_of_page_is_tried() -> None:
    assert set(PAGES.values()) == {*KINDS, "certificate", "data_check", "data_build"}


def test_every_template_is_in_the_table() -> None:
    there = {file.name for file in (ROOT / "clear_dist").rglob("*.j2")}
    assert there == set(PAGES) | INSIDE, "a new template: add how its page is built to PAGES"


def test_pages_are_written_where_we_know() -> None:
    """Whoever writes HTML does it through the templates above."""
    writers = {
        str(file.relative_to(ROOT / "clear_dist"))
        for file in (ROOT / "clear_dist").rglob("*.py")
        if "render(" in (text := file.read_text()) and ".html.j2" in text
    }
    assert writers == {f"report/{name}.py" for name in WRITERS}
    texts = {file.name: file.read_text() for file in (ROOT / "clear_dist").rglob("*.py")}
    by_hand = [name for name, text in texts.items() if "<html" in text or "<body" in text]
    assert by_hand == [], "HTML put together by hand: use a template"


def test_a_page_that_lets_markup_through_is_noticed() -> None:
    good = certificate_page(certificate_of_texts([HARMLESS]))
    for bad in ("<script>1</script>", '<p onclick="x">y</p>', '<a href="javascript:x">y</a>', "\u202e"):
        with pytest.raises(AssertionError):
            check_page(good.replace("<main", bad + "<main", 1), good)
