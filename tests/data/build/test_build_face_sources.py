"""Folders of faces with their lists, good and bad, and a network behind its protocol."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from faults.fuzz import counted
from faults.fuzz_inputs import altered, damaged, files
from hypothesis import strategies as st

from clear_dist.data.build.face_drawer import DrawnFaces
from clear_dist.data.build.face_sources import FolderFaces, MadeFaces
from clear_dist.data.build.faces import Quality, collect, restored
from clear_dist.data.build.person import Gender, Group
from clear_dist.errors import UserError

ROWS = [
    {"file": "a.png", "age": 34, "gender": "female", "ethnicity": "pacific", "score": 0.5},
    {"file": "sub/b.png", "age": None, "gender": "male", "ethnicity": "african", "score": 2},
    {"file": "c.png"},
]
PICTURES = [face.read() for face in DrawnFaces(size=24).draw(3, 0)]


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, ["file", "age", "gender", "ethnicity", "score"])
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures, and no list yet."""
    inside = tmp_path / "faces"
    (inside / "sub").mkdir(parents=True)
    for row, data in zip(ROWS, PICTURES, strict=True):
        (inside / str(row["file"])).write_bytes(data)
    return inside


WRITERS: dict[str, Callable[[Sequence[dict[str, Any]]], str]] = {
    "attributes.csv": as_csv,
    "attributes.json": json.dumps,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_folder_gives_its_faces_as_listed(folder: Path, name: str) -> None:
    (folder / name).write_text("\ufeff" * (name == "attributes.csv") + WRITERS[name](ROWS), encoding="utf-8")
    source = FolderFaces(folder)
    faces = list(source.draw(10, 7))
    assert source.skipped == []
    assert [(f.id, f.age, f.gender, f.group, f.score) for f in faces] == [
        ("a.png", 34, "female", "pacific", 0.5),
        ("sub/b.png", None, "male", "african", 2.0),
        ("c.png", None, None, None, 0.0),
    ]
    assert [f.read() for f in faces] == PICTURES
    assert list(source.draw(1, 0, 1)) == faces[1:2]
    assert source.face("c.png") == faces[2]
    assert len(list(collect(source, 0, Quality(of=2, best=2)))) == 3


def test_pictures_that_cannot_be_read_are_listed_with_the_reason(folder: Path) -> None:
    (folder / "text.png").write_text("no picture")
    (folder / "empty.png").write_bytes(b"")
    (folder / "cut.png").write_bytes(PICTURES[0][:-200])
    (folder / "again.png").write_bytes(PICTURES[0])
    (folder / "folder.png").mkdir()
    names = ["a.png", "text.png", "empty.png", "cut.png", "again.png", "folder.png", "absent.png"]
    (folder / "attributes.json").write_text(json.dumps([{"file": name} for name in names]))
    source = FolderFaces(folder)
    assert list(source.faces) == ["a.png"]
    reasons = dict(source.skipped)
    assert list(reasons) == names[1:]
    for name, said in zip(
        names[1:],
        ("not a picture", "0 bytes", "not a picture", "same picture as a.png", "not a file", "No such file"),
        strict=True,
    ):
        assert said in reasons[name], reasons[name]


@pytest.mark.parametrize(
    "name", ["../outside.png", "/etc/hostname", "sub/../../outside.png", "link.png", "linked/x.png"]
)
def test_paths_that_leave_the_folder_are_refused(folder: Path, name: str) -> None:
    (folder.parent / "outside.png").write_bytes(PICTURES[0])
    (folder / "link.png").symlink_to(folder.parent / "outside.png")
    (folder / "linked").symlink_to(folder.parent)
    (folder / "attributes.json").write_text(json.dumps([{"file": "a.png"}, {"file": name}]))
    with pytest.raises(UserError, match=r"entry 1: file: .*not a path inside"):
        FolderFaces(folder)


def test_a_link_inside_the_folder_is_followed(folder: Path) -> None:
    (folder / "link.png").symlink_to(folder / "a.png")
    (folder / "attributes.json").write_text('[{"file": "link.png"}]')
    assert FolderFaces(folder).face("link.png").read() == PICTURES[0]


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("age", "old", "whole years from 0 to 120"),
        ("age", 121, "whole years"),
        ("age", -1, "whole years"),
        ("age", True, "whole years"),
        ("age", 30.5, "whole years"),
        ("gender", "femal", "did you mean female"),
        ("gender", ["male"], "expected one of female, male, nonbinary"),
        ("ethnicity", "eastasian", "did you mean east_asian"),
        ("score", "high", "expected a number"),
        ("score", "nan", "expected a number"),
        ("score", True, "expected a number"),
        ("file", "", "the name of a picture"),
        ("file", 3, "the name of a picture"),
        ("etnicity", "african", "did you mean ethnicity"),
    ],
)
def test_a_wrong_value_is_named_with_its_row(folder: Path, field: str, value: object, said: str) -> None:
    (folder / "attributes.json").write_text(json.dumps([ROWS[0], ROWS[1] | {field: value}]))
    with pytest.raises(UserError, match=rf"attributes\.json, entry 1: .*{field}.*{said}|entry 1: '{field}'.*{said}"):
        FolderFaces(folder)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1: expected column names"),
        ("age,gender\n3,male\n", "line 1: expected column names"),
        ("file,file\na.png,b.png\n", "each once"),
        ("file,age\na.png\n", "line 2: expected 2 cells"),
        ("file,age\na.png,3,4\n", "line 2: expected 2 cells"),
        ("file,age\n\na.png,x\n", "line 3: age"),
        ('file,age\n"a.png,3\n', "not CSV"),
        ("file,size\na.png,3\n", "'size' is no column"),
        ("file\na.png\na.png\n", "line 3: file: 'a.png' is listed already"),
    ],
)
def test_a_bad_csv_is_refused_by_line(folder: Path, text: str, said: str) -> None:
    (folder / "attributes.csv").write_text(text)
    with pytest.raises(UserError, match=rf"attributes\.csv, .*{said}"):
        FolderFaces(folder)


def test_a_folder_needs_one_list(folder: Path) -> None:
    with pytest.raises(UserError, match="found neither"):
        FolderFaces(folder)
    with pytest.raises(UserError, match="found neither"):
        FolderFaces(folder / "absent")
    for name, write in WRITERS.items():
        (folder / name).write_text(write(ROWS))
    with pytest.raises(UserError, match="both"):
        FolderFaces(folder)


def test_a_list_that_is_no_list_is_refused(folder: Path) -> None:
    for content in (b"{}", b"[1]", b"[", b"[" * 100_000, b"\xff", b'[{"file": "a.png", "file": "c.png"}]'):
        (folder / "attributes.json").write_bytes(content)
        with pytest.raises(UserError, match=r"attributes\.json"):
            FolderFaces(folder)


def test_a_picture_that_changes_later_is_refused(folder: Path) -> None:
    (folder / "attributes.json").write_text('[{"file": "a.png"}]')
    face = FolderFaces(folder).face("a.png")
    (folder / "a.png").write_bytes(PICTURES[1])
    with pytest.raises(UserError, match=r"a\.png: changed"):
        face.read()
    (folder / "a.png").unlink()
    with pytest.raises(UserError, match=r"a\.png: cannot be read"):
        face.read()


def test_a_face_that_is_not_there_is_refused(folder: Path) -> None:
    (folder / "attributes.json").write_text('[{"file": "a.png"}]')
    with pytest.raises(UserError, match=r"no face 'b.png' \(did you mean 'a.png'\?\)"):
        FolderFaces(folder).face("b.png")


def csv_files() -> st.SearchStrategy[bytes]:
    values = altered([[list(row.values()) for row in ROWS], [["a.png", "3"]]])

    def written(rows: Any) -> bytes:
        out = io.StringIO()
        writer = csv.writer(out)
        writer.writerow(["file", "age", "gender", "ethnicity", "score"])
        for row in rows if isinstance(rows, list) else [rows]:
            writer.writerow(row if isinstance(row, list) else [row])
        return out.getvalue().encode("utf-8", "replace")

    good = [as_csv(ROWS).encode(), b"file\na.png\n"]
    return st.one_of(values.map(written), damaged(good), damaged(good), st.sampled_from(good), st.binary(max_size=60))


@pytest.mark.parametrize("name", ["attributes.csv", "attributes.json"])
@pytest.mark.parametrize(
    "count", [pytest.param(1000, id="fast"), pytest.param(10_000, marks=pytest.mark.slow, id="10000")]
)
def test_any_list_is_read_or_refused_by_name(folder: Path, name: str, count: int) -> None:
    def listed(content: bytes) -> None:
        (folder / name).write_bytes(content)
        source = FolderFaces(folder)
        for face in source.draw(100, 0):
            assert (folder / face.id).resolve().is_relative_to(folder)
            assert face.age is None or 0 <= face.age <= 120

    inputs = csv_files() if name.endswith("csv") else files([json.dumps(ROWS).encode()], [ROWS, ROWS[:1]])
    counted(count, inputs, listed, names=[name], accepted_at_least=count // 20, rejected_at_least=count // 4)


class Network:
    """Drawings in place of a network's pictures; the score is the last digits of the seed."""

    def __init__(self) -> None:
        self.seeds: list[int] = []

    def make(self, seeds: Sequence[int]) -> Iterator[tuple[bytes, float]]:
        self.seeds += seeds
        for seed in seeds:
            yield DrawnFaces(size=16).face(f"drawn/0/{seed % 100}").read(), seed % 100 / 100


class Guess:
    def estimate(self, picture: bytes) -> tuple[int | None, Gender | None, Group | None]:
        return picture[-20] % 90, "female" if picture[-21] % 2 else None, "pacific"


def test_a_network_is_asked_once_a_face_with_seeds_of_their_own() -> None:
    network = Network()
    source = MadeFaces(network, Guess(), "stylegan2")
    faces = list(source.draw(6, 5))
    assert [face.id for face in faces] == [f"stylegan2/5/{number}" for number in range(6)]
    assert len(set(network.seeds)) == 6
    assert list(MadeFaces(Network(), Guess(), "stylegan2").draw(2, 5, 4)) == faces[4:]
    assert source.face("stylegan2/5/3") == faces[3]
    assert [face.source for face in source.draw(1, 6)] == ["generated face stylegan2/6/0"]
    assert network.seeds[-1] not in network.seeds[:-1]


def test_a_pool_of_a_network_goes_on_where_it_stopped() -> None:
    quality = Quality(of=4, best=2, until=9)
    whole = list(collect(MadeFaces(Network(), Guess()), 0, quality))
    begun = [kept for kept, _ in islice(iter(whole), 5)]
    network = Network()
    rest = list(collect(MadeFaces(network, Guess()), 0, quality, begun))
    assert [*begun, *(kept for kept, _ in rest)] == [kept for kept, _ in whole]
    assert restored(MadeFaces(Network(), Guess()), begun) == [face for _, face in whole[:5]]


def test_names_and_ids_of_networks_are_checked() -> None:
    with pytest.raises(UserError, match="expected letters"):
        MadeFaces(Network(), Guess(), "a/b")
    with pytest.raises(UserError, match="not a face of this network"):
        MadeFaces(Network(), Guess()).face("drawn/0/1")
