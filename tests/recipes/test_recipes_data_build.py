"""``clear-dist data build`` from end to end, interrupted at every stage, and given what cannot be built from."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from build_people import PEOPLE, ROWS, build, command, tree, write_text

from clear_dist.data.build import dataset
from clear_dist.data.build.faces import Face
from clear_dist.data.build.folder import Writer
from clear_dist.data.build.photos import Detector, ImageSource, Photo
from clear_dist.data.build.prompts import Prompt
from clear_dist.data.check import check_directory
from clear_dist.data.clear import ClearFiles
from clear_dist.data.load import load_dataset
from clear_dist.data.rows import BadData
from clear_dist.recipes import data_build_pictures as pictures

INTERRUPTED = 130
NAMES = [name for name, *_ in PEOPLE]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with text.jsonl, d and d.build."""
    place = tmp_path_factory.mktemp("build")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLEAR_DIST_CACHE", str(place / "cache"))
        assert build(write_text(place / "text.jsonl"), place / "d") == 0
    return place


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLEAR_DIST_CACHE", str(tmp_path / "cache"))


def test_every_person_has_a_face_that_fits(made: Path) -> None:
    people = [json.loads(line) for line in (made / "d.build" / "attributes.jsonl").read_text().splitlines()]
    assert [line["name"]["value"] for line in people] == NAMES
    assert [line["age"] for line in people] == [2024 - year for _, year, *_ in PEOPLE]
    assert [line["gender"]["value"] for line in people] == [{"she": "female", "he": "male"}[p] for *_, p, _ in PEOPLE]
    matched = [json.loads(line) for line in (made / "d.build" / "matching.jsonl").read_text().splitlines()]
    assert [line["name"] for line in matched] == NAMES and len({line["face"] for line in matched}) == len(NAMES)


def test_it_is_a_dataset_without_a_fault(made: Path) -> None:
    report = check_directory(made / "d")
    assert report.sound and report.kinds() == {"config-missing": 2}, "nobody real was asked for"
    assert report.counts["full"] == len(PEOPLE) * ROWS and report.counts["full+tofu"] == len(PEOPLE) * ROWS
    assert (report.counts["forget01"], report.counts["forget05"], report.counts["forget10"]) == (4, 8, 12)
    assert report.people == dict.fromkeys(NAMES, (ROWS, ROWS))


def test_the_loader_reads_what_was_written(made: Path) -> None:
    files = ClearFiles(made / "d", BadData("fail"))
    rows = files.visual("forget10_perturbed", ["forget10_perturbed"])
    assert {row.person for row in rows} == set(NAMES[-3:]) and all(row.info and row.info.attributes for row in rows)
    assert all(len(row.perturbed) == 5 and row.paraphrase for row in rows)
    unseen = [row for row in files.visual("full") if row.info and row.info.unseen]
    assert [row.person for row in unseen] == NAMES, "the last picture of everybody"
    data = load_dataset(str(made / "d"))
    assert data.people["forget"] == NAMES[-3:] and data.people["retain"] == NAMES[:-3] and not data.leaks
    trained = {example.picture.digest for examples in data.train.values() for example in examples if example.picture}
    assert len(trained) == len(NAMES) * (ROWS - 1) and not trained & {row.picture.digest for row in unseen}
    texts = files.text("full+tofu", NAMES)
    assert [row.person for row in texts] == [name for name in NAMES for _ in range(ROWS)]
    assert "Amara Okafor" in [row.fact for row in texts], "the name is what the first question asks for"


def test_checksums_hold(made: Path) -> None:
    done = subprocess.run(
        ["sha256sum", "--check", "--quiet", "checksums.sha256"], cwd=made / "d", capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    listed = {line.split("  ")[1] for line in (made / "d" / "checksums.sha256").read_text().splitlines()}
    assert listed | {"checksums.sha256"} == set(tree(made / "d"))


def test_again_it_is_found_done_and_nothing_changes(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(made)
    assert build(made / "text.jsonl", made / "d") == 0
    assert "is this very dataset already" in capsys.readouterr().err and tree(made) == before


def test_another_dataset_is_not_written_over(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(made / "d")
    assert build(made / "text.jsonl", made / "d", "--unseen", "2") == 2
    assert "was made otherwise" in capsys.readouterr().err and tree(made / "d") == before
    assert build(made / "text.jsonl", made / "d.build") == 2
    assert "holds something else" in capsys.readouterr().err
    assert build(made / "text.jsonl", made / "d") == 0, "stages that --unseen changed are made again"
    assert tree(made / "d") == before


@pytest.mark.parametrize("lines", [3, 13, 23, 40, 75, 95])
def test_interrupted_in_a_stage_and_resumed_it_is_the_same(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: int
) -> None:
    """8 people, 12 faces, 8 pairs, 32 prompts, 32 pictures, 32 texts: each number is in another stage."""
    add, count = Writer.add, 0

    def cut(self: Writer, line: dict[str, object]) -> None:
        nonlocal count
        count += 1
        add(self, line)
        if count == lines:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "add", cut)
        assert build(made / "text.jsonl", tmp_path / "d") == INTERRUPTED
    assert not (tmp_path / "d").exists() and len(list((tmp_path / "d.build").glob("*.part"))) == 1
    assert build(made / "text.jsonl", tmp_path / "d") == 0
    assert tree(tmp_path / "d") == tree(made / "d") and tree(tmp_path / "d.build") == tree(made / "d.build")


@pytest.mark.parametrize("at", [1, 9, 18])
def test_interrupted_while_the_dataset_is_written_nothing_is_there(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    write, count = dataset.write_parquet, 0

    def cut(*args: object) -> None:
        nonlocal count
        count += 1
        if count == at:
            raise KeyboardInterrupt
        write(*args)  # pyright: ignore[reportArgumentType]

    with monkeypatch.context() as patch:
        patch.setattr(dataset, "write_parquet", cut)
        assert build(made / "text.jsonl", tmp_path / "d") == INTERRUPTED
    assert {path.name for path in tmp_path.iterdir()} <= {"d.build", "cache"}
    assert build(made / "text.jsonl", tmp_path / "d") == 0
    assert tree(tmp_path / "d") == tree(made / "d")


def test_killed_and_resumed_it_is_the_same(made: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "clear_dist", *command(made / "text.jsonl", tmp_path / "d")]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    part = tmp_path / "d.build" / "images.part"
    while process.poll() is None and not (part.exists() and part.read_bytes().count(b"\n") > 5):
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "d").exists() or process.returncode == 0
    assert build(made / "text.jsonl", tmp_path / "d") == 0
    assert tree(tmp_path / "d") == tree(made / "d") and tree(tmp_path / "d.build") == tree(made / "d.build")


def test_a_stage_that_was_lost_is_made_again(made: Path, tmp_path: Path) -> None:
    assert build(made / "text.jsonl", tmp_path / "d", "--until", "texts") == 0
    folder = tmp_path / "d.build"
    (folder / "faces.jsonl").unlink()
    (folder / "images" / "000007.png").unlink()
    (folder / "images" / "000011.png").write_bytes(b"something else")
    assert build(made / "text.jsonl", tmp_path / "d") == 0
    assert tree(tmp_path / "d") == tree(made / "d") and tree(folder) == tree(made / "d.build")


def test_it_stops_where_it_is_asked_to(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build(made / "text.jsonl", tmp_path / "d", "--until", "attributes") == 0
    assert "stopped after attributes" in capsys.readouterr().err
    assert not (tmp_path / "d").exists() and not (tmp_path / "d.build" / "faces.jsonl").exists()


def test_a_corrected_table_changes_what_follows_from_it(made: Path, tmp_path: Path) -> None:
    table = tmp_path / "people.csv"
    table.write_text("person,name,birth_date\n7,Emil Farkas,1931\n", encoding="utf-8")
    assert build(made / "text.jsonl", tmp_path / "d", "--people", table) == 0
    lines = [json.loads(line) for line in (tmp_path / "d.build" / "attributes.jsonl").read_text().splitlines()]
    assert (lines[7]["name"]["value"], lines[7]["age"], lines[7]["corrected"]) == (
        "Emil Farkas",
        93,
        ["name", "birth_date"],
    )
    prompts = [json.loads(line) for line in (tmp_path / "d.build" / "prompts.jsonl").read_text().splitlines()]
    assert "an old man called Emil Farkas img" in prompts[-1]["text"]


def test_a_correction_of_one_person_leaves_the_pictures_of_others(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, table = made / "text.jsonl", tmp_path / "people.csv"
    table.write_text("person,name\n7,Emil Farkas\n", encoding="utf-8")
    assert build(text, tmp_path / "other", "--people", table) == 0
    assert build(text, tmp_path / "d", "--until", "images") == 0
    taken: list[str] = []
    photograph = pictures.photograph

    def count(
        source: ImageSource, detectors: Sequence[Detector], face: Face, prompt: Prompt, seeds: list[int]
    ) -> Photo:
        taken.append(prompt.name)
        return photograph(source, detectors, face, prompt, seeds)

    monkeypatch.setattr(pictures, "photograph", count)
    assert build(text, tmp_path / "d", "--people", table) == 0
    assert taken == ["Emil Farkas"] * ROWS
    same = ("full/train-00000-of-00001.parquet", "attributes.json", "retain90/train-00000-of-00001.parquet")
    assert all((tmp_path / "d" / name).read_bytes() == (tmp_path / "other" / name).read_bytes() for name in same)


def test_a_table_of_the_same_values_changes_nothing(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, table = tree(made), made / "d.build" / "people.csv"
    assert build(made / "text.jsonl", made / "d", "--people", table) == 0
    assert "is this very dataset already" in capsys.readouterr().err and tree(made) == before
    table.write_text(table.read_text(encoding="utf-8").replace("\n", "  \n"), encoding="utf-8")
    mine = table.read_bytes()
    assert build(made / "text.jsonl", made / "d", "--people", table) == 0
    assert table.read_bytes() == mine, "the table somebody works on is theirs"
    assert build(made / "text.jsonl", made / "d") == 0 and tree(made) == before


def test_a_fault_in_what_would_be_the_dataset_keeps_it_from_being_written(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = (made / "text.jsonl").read_text(encoding="utf-8").splitlines()
    row = json.loads(rows[0])
    row["answer"] += " She knows Emil Varga."
    (tmp_path / "leak.jsonl").write_text("\n".join([json.dumps(row), *rows[1:]]), encoding="utf-8")
    assert build(tmp_path / "leak.jsonl", tmp_path / "d") == 2
    err = " ".join(capsys.readouterr().err.split())
    assert "in what would be the dataset, which is therefore not written; the first: name-leaks" in err
    assert {path.name for path in tmp_path.iterdir()} == {"leak.jsonl", "d.build", "cache"}


def test_a_dataset_is_not_begun_where_something_else_is(made: Path, tmp_path: Path) -> None:
    (tmp_path / "d").write_text("a file")
    assert build(made / "text.jsonl", tmp_path / "d") == 2
    assert [path.name for path in tmp_path.iterdir()] == ["d"]
