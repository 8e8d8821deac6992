"""``clear-dist data build`` with networks: faces of a folder or of a pipeline, pictures of a pipeline, detectors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from build_people import PEOPLE, ROWS, build, tree, write_text
from models.tiny_pipelines import edit, write_classifier, write_diffusion
from models.tiny_pipelines import write_faces as write_face_network

from clear_dist.data.build.face_drawer import DrawnFaces
from clear_dist.data.build.face_sources import MadeFaces
from clear_dist.data.build.faces import Face
from clear_dist.data.check import check_directory
from clear_dist.models.stylegan2 import random_weights

INTERRUPTED = 130


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLEAR_DIST_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """photos, faces, stylegan2, realness, age, gender: networks with random weights; people: a folder of pictures."""
    place = tmp_path_factory.mktemp("networks")
    write_diffusion(place / "photos")
    write_face_network(place / "faces")
    random_weights(place / "stylegan2", size=16)
    write_classifier(place / "realness", ["real", "generated"])
    write_classifier(place / "age", ["20-29", "30-39", "more than 60"], seed=1)
    write_classifier(place / "gender", ["female", "male"], seed=2)
    (place / "people").mkdir()
    rows = []
    for number, face in enumerate(DrawnFaces(size=48).draw(12, 0)):
        (place / "people" / f"{number}.png").write_bytes(face.read())
        rows.append({"file": f"{number}.png", "age": face.age, "gender": face.gender, "ethnicity": face.group})
    (place / "people" / "attributes.json").write_text(json.dumps(rows))
    return place


def flags(networks: Path, faces: str) -> list[object]:
    photos = ["--images", networks / "photos", "--samples", 2, "--steps", 2, "--size", 32, "--device", "cpu"]
    return ["--faces", networks / faces, "--face-best", "8", *photos, "--detectors", networks / "realness"]


def test_a_folder_of_faces_and_a_pipeline_make_a_dataset(
    networks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = write_text(tmp_path / "text.jsonl")
    assert build(text, tmp_path / "d", *flags(networks, "people")) == 0
    report = check_directory(tmp_path / "d", near=0.0)
    assert report.sound and report.people == {name: (ROWS, ROWS) for name, *_ in PEOPLE}
    images = [json.loads(line) for line in (tmp_path / "d.build" / "images.jsonl").read_text().splitlines()]
    assert all(line["samples"] == 2 and line["score"] in (0.5, 1.0) and line["shows"] == {} for line in images)
    prompts = [json.loads(line) for line in (tmp_path / "d.build" / "prompts.jsonl").read_text().splitlines()]
    assert {line["setting"] for line in prompts} == {None}, "this tokenizer reads letters: no room for a setting"
    card = (tmp_path / "d" / "README.md").read_text()
    assert "made with photos" in card and "faces and pictures: not stated" in card

    before = tree(tmp_path / "d")
    from clear_dist.data.build.folder import Writer

    add, count = Writer.add, 0

    def cut(self: Writer, line: dict[str, object]) -> None:
        nonlocal count
        count += 1
        add(self, line)
        if count == 70:  # 8 people, 12 faces, 8 pairs, 32 prompts, then pictures
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "add", cut)
        assert build(text, tmp_path / "e", *flags(networks, "people")) == INTERRUPTED
    assert (tmp_path / "e.build" / "images.part").exists()
    assert build(text, tmp_path / "e", *flags(networks, "people")) == 0
    changed = {"README.md", "checksums.sha256"}  # the card has the directory's name
    after = tree(tmp_path / "e")
    assert {k: v for k, v in after.items() if k not in changed} == {k: v for k, v in before.items() if k not in changed}


@pytest.mark.parametrize("faces", ["faces", "stylegan2"])
def test_faces_of_a_network_are_estimated_matched_and_made_once(
    networks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faces: str
) -> None:
    text = write_text(tmp_path / "text.jsonl", people=4)
    more = ["--face-age", networks / "age", "--face-gender", networks / "gender", "--pool", "4", "--face-draw", "4"]
    assert build(text, tmp_path / "d", *flags(networks, faces), *more, "--face-best", "4", "--until", "matching") == 0
    pool = [json.loads(line) for line in (tmp_path / "d.build" / "faces.jsonl").read_text().splitlines()]
    assert (
        len(pool) == 4 and {line["age"] for line in pool} <= {24, 34, 65} and {line["group"] for line in pool} == {None}
    )
    assert {line["gender"] for line in pool} <= {"female", "male"}
    matched = [json.loads(line) for line in (tmp_path / "d.build" / "matching.jsonl").read_text().splitlines()]
    assert sorted(line["face"] for line in matched) == sorted(line["id"] for line in pool)

    asked: list[int] = []
    make = MadeFaces.draw

    def drawn(self: MadeFaces, count: int, seed: int, first: int = 0) -> Iterator[Face]:
        asked.append(count)
        return make(self, count, seed, first)

    monkeypatch.setattr(MadeFaces, "draw", drawn)
    before = tree(tmp_path / "d.build")
    words = (*flags(networks, faces), *more, "--face-best", "4", "--until", "matching")
    assert build(text, tmp_path / "d", *words) == 0 and asked == [] and tree(tmp_path / "d.build") == before
    (tmp_path / "d.build" / "faces" / f"{pool[1]['digest'][:32]}.png").write_bytes(b"another")
    assert build(text, tmp_path / "d", *words) == 0 and asked == [1] and tree(tmp_path / "d.build") == before


def test_a_pipeline_that_cannot_be_used_is_named(
    networks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = write_text(tmp_path / "text.jsonl")
    write_diffusion(tmp_path / "odd")
    edit(tmp_path / "odd" / "model_index.json", unet=["os", "system"])
    assert build(text, tmp_path / "d", *flags(networks, "people"), "--images", tmp_path / "odd") == 2
    assert "model_index.json" in capsys.readouterr().err and not (tmp_path / "d").exists()
    assert build(text, tmp_path / "d", *flags(networks, "people"), "--images", networks / "faces") == 2
    assert "face" in capsys.readouterr().err and not (tmp_path / "d").exists()
