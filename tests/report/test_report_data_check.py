"""The page of a check: what is on it, in which order, what is left out and counted, and hostile texts."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path
from typing import Any

import pytest
from page_reader import Page
from synthetic_data import CHECK, PNG, blank_figures, finding, make_check

from clear_dist.report.data_check_page import check_view, data_check_page, shown_pictures
from clear_dist.report.data_kinds import KINDS, OTHER, meaning_of
from clear_dist.report.data_pieces import thumbnail, write_page
from clear_dist.types import UserError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _blank(monkeypatch: pytest.MonkeyPatch) -> None:
    blank_figures(monkeypatch)


def page(found: dict[str, Any] = CHECK, shown: int = 5, **pictures: bytes) -> Page:
    return Page(data_check_page(found, pictures, shown=shown))


def test_every_kind_of_finding_is_explained() -> None:
    slug = re.compile(r"unbalanced|[a-z]+(-[a-z]+)+")
    sources = (ROOT / "clear_dist" / "data" / "check").glob("*.py")
    texts = {
        node.value
        for source in sources
        for node in ast.walk(ast.parse(source.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert {text for text in texts if slug.fullmatch(text)} == KINDS.keys()
    assert all(words.endswith(".") for pair in KINDS.values() for words in pair)
    assert meaning_of("something-new") == OTHER


def test_what_was_found_is_on_the_page() -> None:
    found = page(aa=PNG)
    assert "6 faults, 1 warning" in found.text and "6 people and 112 rows in 2 configs" in found.text
    for words in ("forget10[3]", "the caption is about Bo", "Look at the picture, and correct", "data/clear"):
        assert words in found.text
    targets = {attributes["id"] for _, attributes in found.tags if "id" in attributes}
    links = {(attributes["href"] or "")[1:] for attributes in found.all("a")}
    assert links <= targets and {"kind-1", "kind-4", "balance", "rows"} <= links


def test_faults_come_before_warnings_and_kinds_as_found() -> None:
    view = check_view(CHECK, {}, 5)
    assert [(kind.kind, kind.fault, kind.told) for kind in view.kinds] == [
        ("swapped-label", True, "1 fault"),
        ("paraphrase-missing", True, "4 faults"),
        ("picture-nearly-in-both", True, "1 fault"),
        ("picture-blank", False, "1 warning"),
    ]


def test_a_kind_that_is_fault_and_warning_is_shown_as_both() -> None:
    both = [finding("question-twice", "a[0]", severity="warning"), finding("question-twice", "a[1]")]
    assert [(kind.fault, kind.count) for kind in check_view(make_check(both), {}, 5).kinds] == [(True, 1), (False, 1)]


def test_more_than_shown_is_counted() -> None:
    found = page(shown=3)
    assert "forget10_perturbed[2]" in found.text and "forget10_perturbed[3]" not in found.text
    assert "1 more; --shown 4 shows all." in found.text
    assert "more; --shown" not in page(shown=4).text


def test_pictures_are_there_or_marked_as_missing() -> None:
    found = page(aa=PNG, bb=b"no picture", zz=PNG)
    shown = [image for image in found.all("img") if "forget10[3]" in str(image["alt"]) or "full[" in str(image["alt"])]
    assert [image["alt"] for image in shown] == [
        "Picture 1 of 1 at forget10[3]: swapped-label",
        "Picture 1 of 2 at full[7]: picture-nearly-in-both",
    ]
    assert all(str(image["src"]).startswith("data:image/png;base64,") for image in shown)
    assert found.text.count("no picture to show") == 2, "bb is no picture, cc was not given"


def test_a_page_has_places_for_pictures_of_what_it_shows_only() -> None:
    many = make_check([finding("picture-blank", f"full[{row}]", f"d{row}", "same") for row in range(9)])
    assert shown_pictures(many, 2) == ["d0", "same", "d1"]
    assert shown_pictures(CHECK, 5) == ["aa", "cc", "bb"]


def test_a_sound_dataset() -> None:
    found = page(make_check())
    assert "Sound: nothing was found" in found.text and "What was found" not in found.text
    warned = make_check([finding("unbalanced", "full: pictures", severity="warning")])
    assert "Sound, with 1 warning" in page(warned).text


def test_a_dataset_without_people_has_no_balance() -> None:
    found = page(make_check(people=0))
    assert {section["id"] for section in found.all("section")} == {"rows", "reading"}


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", '"><img src=x>', "{{7*7}}", "a" * 999])
def test_hostile_texts_stay_texts(text: str) -> None:
    hard = make_check([finding(text, text, text, what=text)])
    hard |= {"source": text, "people": {text: (3, 4), "Bo": (9, 9)}, "counts": {text: 7}}
    found = Page(data_check_page(hard, {text: PNG}))
    assert len(found.all("script")) == 1 and "x" not in {image["src"] for image in found.all("img")}
    assert found.text.count(text) > 6 and "49" not in found.text


def test_thumbnails_are_png_or_jpeg() -> None:
    assert str(thumbnail(b"\xff\xd8\xff more", "x").uri).startswith("data:image/jpeg;base64,")
    assert thumbnail(b"<svg onload=alert(1)>", "x").uri is None and thumbnail(None, "x").uri is None


def test_a_page_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "new" / "check.html"
    write_page(file, "first")
    assert file.read_text() == "first" and list(file.parent.iterdir()) == [file]
    with pytest.raises(UserError, match="is a directory"):
        write_page(file.parent, "x")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match=r"check\.html: cannot be written \(No space left"):
        write_page(file, "second")
    assert file.read_text() == "first"
