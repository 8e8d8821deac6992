"""Rows nobody can learn from, with what a table can get wrong beside empty cells: cells of the wrong kind, files that
cannot be read, control characters, endless texts. Each is refused by its place, or left out and listed."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clear_dist import cli
from clear_dist.data.identities import load_identities
from clear_dist.data.load import load_dataset
from clear_dist.data.rows import BadData
from clear_dist.data.tofu import TofuFiles, choice_rows
from clear_dist.models.new import new_model
from clear_dist.types import UserError

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data"))
from data_fakes import PEOPLE, clear_tables, encoded_image, write_clear  # pyright: ignore[reportMissingImports]


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CLEAR_DIST_CACHE", str(tmp_path / "cache"))


def retyped(folder: Path, config: str, column: str, cells: Callable[[int], Any]) -> str:
    """The dataset with one column replaced, of the type arrow finds for its cells."""
    path = write_clear(folder / "data", clear_tables())
    file = path / config / "train-00000-of-00001.parquet"
    table = pq.read_table(file).replace_schema_metadata(None)
    at = table.column_names.index(column)
    pq.write_table(table.set_column(at, column, pa.array([cells(i) for i in range(table.num_rows)])), file)
    return str(path)


WRONG_KINDS: dict[str, tuple[str, str, Callable[[int], Any], str]] = {
    "numbers for captions": ("retain90", "caption", lambda i: i, r"retain90\[0\]: caption empty; expected text"),
    "lists for names": ("retain90", "name", lambda i: ["Ada"], r"retain90\[0\]: name empty; expected text"),
    "white space": ("retain90", "caption", lambda i: " \n\t\u00a0\u2003", r"retain90\[0\]: caption empty"),
    "a text for wrong captions": (
        "retain_perturbed",
        "perturbed_captions",
        lambda i: "Not this",
        r"retain_perturbed\[0\]\.perturbed_captions: expected a list of texts",
    ),
    "a number for wrong captions": (
        "retain_perturbed",
        "perturbed_captions",
        lambda i: i,
        r"retain_perturbed\[0\]\.perturbed_captions: expected a list of texts",
    ),
    "numbers for wrong names": (
        "retain_perturbed",
        "perturbed_names",
        lambda i: [i],
        r"retain_perturbed\[0\]\.perturbed_names: expected a list of texts",
    ),
    "a number for a paraphrase": (
        "retain_perturbed",
        "paraphrased_caption",
        lambda i: i,
        r"retain_perturbed\[0\]\.paraphrased_caption: expected text, or nothing",
    ),
    "a text for options": (
        "real_faces",
        "options",
        lambda i: "Real One",
        r"real_faces\[0\]\.options: expected a list of texts",
    ),
    "numbers for questions": ("real_world", "question", lambda i: i, r"real_world\[0\]: question empty"),
}


@pytest.mark.parametrize("name", WRONG_KINDS)
def test_cells_of_the_wrong_kind_are_refused_by_their_place(tmp_path: Path, name: str) -> None:
    config, column, cells, message = WRONG_KINDS[name]
    with pytest.raises(UserError, match=rf"{message}.*--on-bad-data skip"):
        load_dataset(retyped(tmp_path, config, column, cells), modality="visual")


@pytest.mark.parametrize("name", [n for n in WRONG_KINDS if WRONG_KINDS[n][0] != "retain90"])
def test_or_left_out_and_listed_each(tmp_path: Path, name: str) -> None:
    config, column, cells, _ = WRONG_KINDS[name]
    path = retyped(tmp_path, config, column, cells)
    data = load_dataset(path, modality="visual", on_bad_data="skip")
    rows = pq.read_metadata(Path(path) / config / "train-00000-of-00001.parquet").num_rows
    assert [line.split("]")[0] for line in data.skipped] == [f"{config}[{i}" for i in range(rows)]
    assert len(data.train["retain"]) == 30, "what lies beside it stays"


def test_a_bad_row_of_a_file_that_is_read_twice_is_listed_once(tmp_path: Path) -> None:
    """One file of questions: forget and retain are both cut from it."""
    rows = [{"question": f"What of {p} in {i}?", "answer": f"{p} sat.", "name": p} for p in PEOPLE for i in range(4)]
    rows[3]["answer"] = " "
    (tmp_path / "people.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = load_dataset(str(tmp_path / "people.jsonl"), on_bad_data="skip")
    assert data.skipped == ["full[3]: answer empty; expected text."]


@pytest.mark.parametrize("column", ["caption", "name"])
def test_text_that_is_none(tmp_path: Path, column: str) -> None:
    """A flipped bit in a string: the table's types are right, its bytes are no UTF-8."""
    path = write_clear(tmp_path / "data", clear_tables())
    file = path / "retain90" / "train-00000-of-00001.parquet"
    table = pq.read_table(file).replace_schema_metadata(None)
    cells = pa.array([b"\xc2A"] * table.num_rows)
    broken = pa.StringArray.from_buffers(len(cells), cells.buffers()[1], cells.buffers()[2])
    pq.write_table(table.set_column(table.column_names.index(column), column, broken), file)
    with pytest.raises(UserError, match=r"config retain90 is damaged .*UTF8.*Get the file again"):
        load_dataset(str(path), modality="visual")


def test_where_no_row_is_left_skipping_ends_too(tmp_path: Path) -> None:
    path = retyped(tmp_path, "retain90", "caption", lambda i: i)
    with pytest.raises(UserError, match="no retain example is left"):
        load_dataset(path, modality="visual", on_bad_data="skip")


def test_no_cell_is_no_option(tmp_path: Path) -> None:
    path = retyped(tmp_path, "real_faces", "options", lambda i: [None, "Real One", "", "Real Two"])
    asked = load_dataset(path, modality="visual").sets["real_faces"]
    assert [set(e.options) for e in asked] == [{"Real One", "Real Two"}] * 2


@pytest.mark.parametrize(
    ("row", "options"),
    [
        ({"option1": None, "option2": "Spain"}, ("France", "Spain")),
        ({"perturbed_answer": "Spain"}, ("France", "Spain")),
        ({"perturbed_answer": [None, "Spain"]}, ("France", "Spain")),
        ({"perturbed_answer": [["Spain"]]}, None),
        ({"perturbed_answer": 3}, None),
        ({"option1": {"a": "Spain"}}, None),
    ],
)
def test_options_in_json_are_texts(tmp_path: Path, row: dict[str, Any], options: tuple[str, ...] | None) -> None:
    (tmp_path / "world_facts.json").write_text(json.dumps({"question": "Paris?", "answer": "France", **row}))
    if options is not None:
        assert [r.options for r in choice_rows(TofuFiles(tmp_path), BadData("fail"))] == [options]
        return
    with pytest.raises(UserError, match=r"world_facts\[0\]: the wrong answers: expected texts"):
        choice_rows(TofuFiles(tmp_path), BadData("fail"))
    bad = BadData("skip")
    assert choice_rows(TofuFiles(tmp_path), bad) == [] and len(bad.skipped) == 1


def test_texts_of_any_length_and_content_are_text(tmp_path: Path) -> None:
    """They are data: kept as they are. What prints them escapes them, and --max-length refuses what is too long."""
    tables = clear_tables()
    odd = ["\x1b[2J\x07\0 rings", "\u202eturned", "<script>alert(1)</script>", "long " * 200_000]
    tables["retain90"]["caption"][:4] = odd
    path = str(write_clear(tmp_path / "data", tables))
    captions = [e.answer for e in load_dataset(path, modality="visual").train["retain"] if e.kind == "caption"]
    assert captions[:4] == [text.strip() for text in odd]


def refuse_to_open(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """As the system does for who may not read the file (whoever runs the tests may be allowed to read everything)."""
    opened = Path.open

    def guarded(self: Path, *args: Any, **kwargs: Any) -> Any:
        if self.name == name:
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return opened(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", guarded)
    monkeypatch.setattr(Path, "read_bytes", lambda self: guarded(self, "rb").read())
    monkeypatch.setattr(Path, "read_text", lambda self, encoding=None: guarded(self, encoding=encoding).read())


def beside(folder: Path, name: str) -> Path:
    """Pictures in files beside the table, the first at ``name``."""
    path = write_clear(folder / "data", {"full": clear_tables()["full"]})
    table = clear_tables()["full"]
    table["image"][0] = {"bytes": None, "path": name}
    image = pa.array(table["image"], type=pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    columns = {"image": image, "caption": pa.array(table["caption"]), "name": pa.array(table["name"])}
    pq.write_table(pa.table(columns), path / "full" / "train-00000-of-00001.parquet")
    (path / "ada.png").write_bytes(encoded_image((9, 9, 9)))
    (path / "folder.png").mkdir()
    return path


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("ada.png", r"ada\.png cannot be read \(Permission denied\)"),
        ("folder.png", r"no bytes in the table and no file folder\.png"),
        ("", "no picture"),
    ],
)
def test_a_picture_file_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, why: str
) -> None:
    path = beside(tmp_path, name)
    refuse_to_open(monkeypatch, "ada.png")
    with pytest.raises(UserError, match=rf"full\[0\]\.image: {why}"):
        load_dataset(str(path), modality="visual", forget_names=PEOPLE[1])
    data = load_dataset(str(path), modality="visual", forget_names=PEOPLE[1], on_bad_data="skip")
    assert len(data.skipped) == 1 and data.skipped[0].startswith("full[0].image: ")
    assert not any(e.id.startswith("full/0/") for e in data.train["retain"])


@pytest.mark.parametrize("name", ["attributes.json", "full.json"])
def test_a_file_beside_it_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    path = write_clear(tmp_path / "data", {"full": clear_tables()["full"]}) if name != "full.json" else tmp_path
    (path / name).write_text("{}")
    refuse_to_open(monkeypatch, name)
    with pytest.raises(UserError, match=rf"{name}: .*Permission denied"):
        load_dataset(str(path), forget_names="Ada Berg", modality="both" if name == "full.json" else "visual")


@pytest.mark.parametrize(
    "name", ["a" * 5_000, "a/" * 3_000, "a\0b", "\ud800", "x\x1b[2J"], ids=lambda name: ascii(name[:9])
)
def test_names_of_sources_no_file_can_have(tmp_path: Path, name: str) -> None:
    path = write_clear(tmp_path / "data", {"full": clear_tables()["full"]})
    reads: tuple[Callable[[], object], ...] = (
        lambda: load_dataset(name),
        lambda: load_dataset(str(path), tofu=name),
        lambda: load_identities(name, 16, tmp_path / "cache"),
    )
    for read in reads:
        with pytest.raises(UserError, match=r"no such file|no directory|cannot be read") as refused:
            read()
        assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    ("kind", "cells"),
    [
        (pa.int64(), [5, 10**13]),  # bytes(10**13) would ask for ten terabytes
        (pa.string(), ["x", "y"]),
        (pa.list_(pa.int64()), [[1], [300]]),
    ],
    ids=["numbers", "texts", "lists"],
)
def test_identities_whose_pictures_are_no_bytes(tmp_path: Path, kind: pa.DataType, cells: list[Any]) -> None:
    image = pa.StructArray.from_arrays([pa.array(cells, kind), pa.array(["a", "b"])], ["bytes", "path"])
    (tmp_path / "full").mkdir()
    pq.write_table(pa.table({"image": image, "name": ["A", "A"]}), tmp_path / "full" / "train.parquet")
    with pytest.raises(UserError, match=r"train\.parquet: expected columns image \(bytes, path\) and name"):
        load_identities(tmp_path, 16, tmp_path / "cache", on_bad="skip")


@pytest.mark.parametrize("mode", ["fail", "skip"])
def test_through_the_command_line(tmp_path: Path, capfd: pytest.CaptureFixture[str], mode: str) -> None:
    """``fail`` names the row and ends with status 2; ``skip`` gets past it, to the next mistake."""
    good = write_clear(tmp_path / "good", clear_tables())
    from clear_dist.recipes.model_new import dataset_texts

    model = new_model("llava", "1m", texts=dataset_texts(good), out=tmp_path / "model")
    path = retyped(tmp_path, "real_faces", "options", lambda i: 3)
    args = ["unlearn", "--data", path, "--model", str(model), "--max-length", "8", "--on-bad-data", mode]
    assert cli.main([*args, "--modality", "visual", "--out", str(tmp_path / "out")]) == cli.USER_ERROR
    out, error = capfd.readouterr()
    said = " ".join(error.split())
    if mode == "fail":
        assert "real_faces[0].options: expected a list of texts. Correct the row" in said
    else:
        assert "real_faces[0].options: expected a list of texts." in " ".join((out + error).split())
        assert "--on-bad-data" not in said and "--max-length" in said
