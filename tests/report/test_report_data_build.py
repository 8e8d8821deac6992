"""The page of a build: stages done and to come, what needs a look, figures that add up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from page_reader import Page
from synthetic_data import PNG, blank_figures, build_files, changed, sheet, write_build

from clear_dist.report.data_build_page import build_view, contact_sheet_files, data_build_page, write
from clear_dist.report.data_build_read import read_build
from clear_dist.report.data_pieces import Section
from clear_dist.types import UserError

FILES = build_files()
STAGES = ["people", "faces", "matching", "prompts", "pictures", "texts", "dataset"]


@pytest.fixture(autouse=True)
def _blank(monkeypatch: pytest.MonkeyPatch) -> None:
    blank_figures(monkeypatch)


def sections(work: Path) -> dict[str, Section]:
    return {section.key: section for section in build_view(read_build(work), {}).sections}


def table(section: Section, key: str) -> list[list[str]]:
    found = next(table for table in section.tables if table.key == key)
    return [[cell.text for cell in row.cells] for row in found.rows]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return write_build(tmp_path / "work", FILES)


def test_a_finished_build(work: Path) -> None:
    page = Page(data_build_page(work, sheet(FILES)))
    assert "20 people, 0 faults" in page.text and "All stages are done." in page.text
    assert "20 people have a face." in page.text and "80 prompts for 20 people." in page.text
    assert list(sections(work)) == [*STAGES[:3], "against", *STAGES[3:]]
    targets = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    assert {(attributes["href"] or "")[1:] for attributes in page.all("a")} <= targets
    assert all(attributes["alt"] for attributes in page.all("img"))


@pytest.mark.parametrize("count", range(10))
def test_stages_that_are_missing_are_to_come(tmp_path: Path, count: int) -> None:
    """As a build goes on, file by file."""
    work = write_build(tmp_path / "work", dict(list(FILES.items())[:count]))
    view = build_view(read_build(work), {})
    done = [0, 1, 2, 2, 3, 3, 4, 5, 6, 7][count]
    assert [stage.state for stage in view.stages] == ["done"] * done + ["none"] * (7 - done)
    page = Page(data_build_page(work))
    assert page.text.count("Not done yet.") == 7 - done
    assert (f"{done} of 7 stages are done" in page.text) == (count < 9)


def test_files_that_are_empty_are_said_to_be(tmp_path: Path) -> None:
    work = write_build(tmp_path / "work", {name: [] for name in FILES if name.endswith(".jsonl")})
    page = Page(data_build_page(work))
    assert page.text.count("Its file is there and empty") == 6 and "0 of 7 stages are done" in page.text
    assert sections(work) == {}


def test_the_matching_may_lack_either_file(work: Path) -> None:
    (work / "matching.jsonl").unlink()
    assert "shortages" in {table.key for table in sections(work)["matching"].tables}
    (work / "matching.json").unlink()
    assert "matching" not in sections(work)


def test_where_attributes_come_from_adds_up_to_everybody(work: Path) -> None:
    rows = table(sections(work)["people"], "attributes")
    assert all(sum(map(int, row[1:5])) == 20 for row in rows)
    by_name = {row[0]: row[1:5] for row in rows}
    assert by_name["name"] == ["19", "0", "1", "0"]
    assert by_name["birth date"] == ["17", "1", "0", "2"], "one is from the table, two are missing"
    assert by_name["group"] == ["19", "0", "0", "1"] and by_name["books"] == ["20", "0", "0", "0"]


def test_the_least_sure_come_first_and_what_was_given_is_not_among_them(work: Path) -> None:
    changed(work, "attributes.jsonl", lambda row: row["genre"].update(confidence=0.05, evidence="Perhaps."), 11)
    changed(work, "attributes.jsonl", lambda row: row["birth_date"].update(confidence=0.01), 1)
    changed(work, "attributes.jsonl", lambda row: row["name"].update(confidence=0.02), 3)
    (look,) = sections(work)["people"].looks
    name = FILES["attributes.jsonl"][11]["name"]["value"]
    assert look.rows[0] == (name, "genre: crime", "Confidence .050. Line 48: Perhaps.")
    assert len(look.rows) == 12 and look.rest == _unsure(work) - 2 - 12, "two of them were given"


def _unsure(work: Path) -> int:
    rows = [json.loads(text) for text in (work / "attributes.jsonl").read_text().splitlines()]
    found = [v for row in rows for value in row.values() for v in (value if isinstance(value, list) else [value])]
    return sum(isinstance(v, dict) and v["value"] is not None and v["confidence"] < 1 for v in found)


def test_unknown_ages_and_invented_names_are_listed(work: Path) -> None:
    notes = sections(work)["people"].notes
    ageless = [row["name"]["value"] for row in FILES["attributes.jsonl"] if row["age"] is None]
    assert notes[0].startswith(f"Age unknown, 2: {', '.join(ageless)}.")
    assert notes[1] == f"Name made up, 1: {FILES['attributes.jsonl'][3]['name']['value']}."


def test_somebody_without_a_name_is_told_by_lines(work: Path) -> None:
    changed(work, "attributes.jsonl", lambda row: (row["name"].update(value=None), row.update(age=None)))
    assert "lines 1 to 4" in sections(work)["people"].notes[0]


def test_ties_shortages_and_what_fits_least(work: Path) -> None:
    section = sections(work)["matching"]
    assert table(section, "shortages") == [["nonbinary, african", "3", "0", "3", "gender of 3"]]
    dearest = table(section, "dearest")
    costs = [float(row[5]) for row in dearest]
    assert costs == sorted(costs, reverse=True) and len(costs) == 12 and dearest[0][7] == "gender, group"
    assert section.notes[0].startswith(f"Ties, 1: {FILES['matching.json']['ties'][0]}.")


def test_faces_against_people_counts_moved_faces_with_their_age(work: Path) -> None:
    pool, matched = sections(work)["against"].images
    assert pool.numbers is not None and matched.numbers is not None
    numbers = {(row.cells[0].text, row.cells[1].text): [c.text for c in row.cells[2:]] for row in matched.numbers.rows}
    assert numbers["gender", "male"][2:] == ["10", "50.0"]
    assert sum(int(cells[2]) for (part, _), cells in numbers.items() if part == "age") == 20
    moved = FILES["faces.jsonl"][0]["age"] + 30
    first = f"{moved // 10}0–{moved // 10}9"
    before = int(numbers["age", first][2])
    changed(work, "shifts.jsonl", lambda row: row.update(years=-1))
    (_, again) = sections(work)["against"].images
    assert again.numbers is not None
    after = {row.cells[1].text: row.cells[4].text for row in again.numbers.rows if row.cells[0].text == "age"}
    assert int(after.get(first, "0")) == before - 1
    assert "60 faces" in pool.alt and "20 matched faces" in matched.alt


def test_matched_faces_that_are_in_no_file_are_said_to_be(work: Path) -> None:
    changed(work, "matching.jsonl", lambda row: row.update(face="nowhere"), 4)
    assert sections(work)["against"].notes[0].startswith("1 matched face is not in faces.jsonl")


def test_settings_that_were_cut(work: Path) -> None:
    section = sections(work)["prompts"]
    cut = [p for p in FILES["prompts.jsonl"] if p["setting"] is None]
    assert [row[0] for row in section.looks[0].rows] == [p["name"] for p in cut]
    assert sum(int(row[2]) for row in table(section, "topics")) == len(cut)
    assert sum(int(row[1]) for row in table(section, "topics")) == 80


def test_pictures_by_what_becomes_of_them(work: Path) -> None:
    section = sections(work)["pictures"]
    kept = [shot for shot in FILES["images.jsonl"] if shot["kept"]]
    numbers = [int(row[1]) for row in table(section, "picture-groups")]
    unseen = sum(shot["unseen"] for shot in kept)
    assert numbers == [len(kept) - unseen, unseen, 80 - len(kept)]
    assert section.notes == (f"No picture was kept of 1: {FILES['images.jsonl'][24]['name']}.",)


def test_the_contact_sheet(work: Path) -> None:
    files = contact_sheet_files(work)
    shots = FILES["images.jsonl"]
    assert len(files) == 12 * 4 and set(files) <= {shot["file"] for shot in shots}
    page = Page(data_build_page(work, sheet(FILES)))
    shown = [image for image in page.all("img") if str(image["alt"]).startswith("Picture of")]
    assert len(shown) == 24 and page.text.count("no picture to show") == 24
    many = write_build(work, {"images.jsonl": [{**shots[0], "file": f"{n}.png", "line": n} for n in range(20)]})
    assert contact_sheet_files(many) == tuple(f"{n}.png" for n in range(8))
    (work / "images.jsonl").unlink()
    assert contact_sheet_files(work) == ()


def test_which_pictures_are_kept_may_follow_from_the_texts(work: Path) -> None:
    """Where images.jsonl does not say so itself: a picture that has texts is kept."""
    bare = [{k: v for k, v in shot.items() if k not in ("kept", "unseen")} for shot in FILES["images.jsonl"]]
    texts = [{**text, "unseen": text["line"] == 2} for text in FILES["texts.jsonl"][:10]]
    write_build(work, {"images.jsonl": bare, "texts.jsonl": texts})
    groups = {row[0]: int(row[1]) for row in table(sections(work)["pictures"], "picture-groups")}
    assert groups == {"kept, to train on": 9, "kept, unseen in training": 1, "left out": 70}
    assert "80 pictures of 20 people; 10 kept." in Page(data_build_page(work)).text
    (work / "texts.jsonl").unlink()
    section = sections(work)["pictures"]
    assert [row[:2] for row in table(section, "picture-groups")] == [["not decided yet", "80"]]
    assert section.notes == () and "80 pictures of 20 people." in Page(data_build_page(work)).text


def test_pictures_that_could_not_be_made(work: Path) -> None:
    shots = FILES["images.jsonl"]
    failed = {"name": shots[1]["name"], "line": shots[1]["line"], "file": None, "failed": "No face <b> was found."}
    write_build(work, {"images.jsonl": [shots[0], failed, *shots[2:]]})
    assert sections(work)["pictures"].looks[0].rows == ((shots[1]["name"], "line 2", "No face <b> was found."),)
    assert shots[1]["file"] not in contact_sheet_files(work)
    page = Page(data_build_page(work))
    assert "79 pictures" in page.text and "No face <b> was found." in page.text


def test_texts_that_cannot_serve_the_truth_ratio(work: Path) -> None:
    changed(work, "texts.jsonl", lambda row: row.update(perturbed=[row["caption"]]), 3)
    changed(work, "texts.jsonl", lambda row: row.update(perturbed=[]), 4)
    notes = sections(work)["texts"].notes
    lines = {row["line"]: f"{row['name']} (line {row['line']})" for row in FILES["texts.jsonl"]}
    assert notes == (
        f"The paraphrase is the caption itself, or empty, 1: {lines[7]}.",
        f"A wrong caption is the right one, 1: {lines[4]}.",
        f"There is no wrong caption, 1: {lines[5]}.",
    )


def test_splits_and_findings(work: Path) -> None:
    section = sections(work)["dataset"]
    assert table(section, "splits") == [["forget10", "2", ", ".join(FILES["dataset.json"]["splits"]["forget10"])]]
    changed(work, "dataset.json", lambda row: row.update(findings={"faults": 3, "warnings": 1}))
    assert "20 people, 3 faults" in Page(data_build_page(work)).text


def test_it_is_written(work: Path, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    write(file, work, {FILES["images.jsonl"][0]["file"]: PNG})
    assert file.read_text() == data_build_page(work, {FILES["images.jsonl"][0]["file"]: PNG})
    (work / "faces.jsonl").write_text("broken")
    with pytest.raises(UserError):
        write(file, work)
    assert file.read_text().startswith("<!doctype html>"), "what was there before stays"
