"""What ``clear-dist data build`` cannot build from is named and listed, and nothing is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from build_people import PEOPLE, build, rows_about, write_text

from clear_dist.data.build.face_drawer import DrawnFaces


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLEAR_DIST_CACHE", str(tmp_path / "cache"))


def refused(capsys: pytest.CaptureFixture[str], text: Path, out: Path, *more: object) -> str:
    """What is said; nothing is at ``out``."""
    assert build(text, out, *more) == 2
    assert not out.exists() and not list(out.parent.glob(".*.partial"))
    return " ".join(capsys.readouterr().err.split())


def write_faces(folder: Path, count: int, **columns: str) -> Path:
    """Drawn faces as PNG with a list; columns: what the list says of each."""
    folder.mkdir()
    lines = [",".join(("file", *columns))]
    source = DrawnFaces(size=48)
    for number, face in enumerate(source.draw(count, 0)):
        (folder / f"{number}.png").write_bytes(face.read())
        lines.append(",".join((f"{number}.png", *columns.values())))
    (folder / "attributes.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_a_person_without_an_age_is_listed_or_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [row for person in PEOPLE for row in rows_about(*person)]
    for row in lines[8:12]:  # Hana Tanaka
        for key in ("question", "answer"):
            row[key] = row[key].replace(" on 03/04/1975", "").replace(" on the 3rd of April, 1975,", " in spring,")
    text = tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    said = refused(capsys, text, tmp_path / "d", "--missing", "refuse")
    assert "1 people with something missing: Hana Tanaka (line 9): age. Give it with --people" in said
    assert build(text, tmp_path / "d") == 0
    assert "1 people with something missing: Hana Tanaka (line 9): age" in " ".join(capsys.readouterr().err.split())
    assert "Of 1 people an age, gender or group is not known" in (tmp_path / "d" / "README.md").read_text()


def test_a_person_without_a_name_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = write_text(tmp_path / "text.jsonl")
    text.write_text(text.read_text().replace("Emil Varga", "the author"), encoding="utf-8")
    assert "no name of person 7 (line 29)" in refused(capsys, text, tmp_path / "d", "--block", "4")
    assert (tmp_path / "d.build" / "people.csv").is_file(), "the table to give it in"
    assert build(text, tmp_path / "d", "--block", "4", "--unnamed", "invent") == 0
    card = (tmp_path / "d" / "README.md").read_text(encoding="utf-8")
    assert "so a name was invented" in card


def test_more_people_than_faces(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, faces = write_text(tmp_path / "text.jsonl"), write_faces(tmp_path / "faces", 5, age="40", gender="female")
    said = refused(capsys, text, tmp_path / "d", "--faces", faces, "--images", tmp_path / "none", "--face-best", "8")
    assert "faces: 5 for 8 people; everybody needs a face of their own" in said


def test_of_faces_without_scores_none_is_passed_over(tmp_path: Path) -> None:
    text, faces = write_text(tmp_path / "text.jsonl"), write_faces(tmp_path / "faces", 8)
    assert build(text, tmp_path / "d", "--faces", faces, "--images", tmp_path / "none", "--until", "matching") == 0
    scores = faces / "attributes.csv"
    lines = scores.read_text(encoding="utf-8").splitlines()
    listed = [f"{line},{number}" if number else f"{line},score" for number, line in enumerate(lines)]
    scores.write_text("\n".join(listed), encoding="utf-8")
    assert build(text, tmp_path / "d", "--faces", faces, "--images", tmp_path / "none", "--until", "matching") == 2


def test_a_face_that_cannot_be_read_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, faces = write_text(tmp_path / "text.jsonl"), write_faces(tmp_path / "faces", 9)
    (faces / "3.png").write_bytes(b"no picture")
    (faces / "5.png").write_bytes((faces / "4.png").read_bytes())
    more = ("--faces", faces, "--images", tmp_path / "none", "--face-best", "8")
    said = refused(capsys, text, tmp_path / "d", *more)
    assert "face left out: 3.png" in said and "face left out: 5.png" in said and "faces: 7 for 8 people" in said


def test_a_prompt_that_is_too_long(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "people.csv"
    name = " ".join(["Maria"] * 15)
    table.write_text(f"person,name\n2,{name}\n", encoding="utf-8")
    text = write_text(tmp_path / "text.jsonl")
    assert build(text, tmp_path / "ok", "--people", table) == 0, "the estimate of a name of 15 words fits"
    capsys.readouterr()
    table.write_text(
        "person,name\n2," + " ".join("ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFGHIJKLMNOPQRSTUVWXY") + "\n", encoding="utf-8"
    )
    said = refused(capsys, text, tmp_path / "d", "--people", table)
    assert "name: expected at most 100 characters" in said
    letters = " ".join("ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFGHIJKLMNOPQRSTUVWX")
    table.write_text(f"person,name\n2,{letters}\n", encoding="utf-8")
    said = refused(capsys, text, tmp_path / "d", "--people", table)
    assert "line 9: the prompt has" in said and "more than the 77 allowed" in said and "Shorten the name" in said


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--year", "1960"], "born too early or too late for --year 1960"),
        (["--people", "none.csv"], "none.csv: cannot be read"),
        (["--companions", "none/there"], "--companions none/there: no such directory"),
        (["--companions", "."], "expected at least one of them, or --companions none"),
        (["--real", "none/there"], "none/there: cannot be loaded"),
        (["--faces", "none/there", "--images", "x"], "--faces none/there: no such directory"),
        (["--faces", "none/there"], "--images and --faces go together"),
        (["--pictures", "5"], "--pictures 5: Amara Okafor has 4 questions"),
        (["--pictures", "few"], "expected clear, all, or a whole number"),
        (["--face-best", "9"], "expected at most --face-draw (8)"),
        (["--ask-url", "http://localhost:1/v1"], "--ask-url and --ask-model go together"),
        (["--ask-for", "jokes"], "expected some of attributes, prompts, captions"),
        (["--block", "5"], "block"),
        (["--detectors", "none/there"], "none/there"),
    ],
)
def test_a_wrong_option_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, more: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert says in refused(capsys, write_text(tmp_path / "text.jsonl"), tmp_path / "d", *more)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "no rows"),
        (b"{", "text.jsonl:1: not JSON"),
        (b'{"question": "a"}', "text.jsonl:1: no answer"),
        (b'{"question": "a", "answer": ""}\n', "text.jsonl:1: answer is empty"),
        (b"\xff\xfe", "text.jsonl:1: not JSON"),
    ],
)
def test_a_broken_text_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], data: bytes, says: str) -> None:
    (tmp_path / "text.jsonl").write_bytes(data)
    assert says in refused(capsys, tmp_path / "text.jsonl", tmp_path / "d")


def test_too_few_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = write_text(tmp_path / "text.jsonl", people=3)
    assert "3 people: expected at least 4" in refused(capsys, text, tmp_path / "d")
