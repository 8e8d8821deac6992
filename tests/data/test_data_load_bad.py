"""Every kind of bad data is refused by name: the file or config, the row, what was expected."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_fakes import VISUAL, Table, changed, clear_tables, encoded_image, write_clear

from clear_dist.data.load import load_dataset
from clear_dist.types import UserError


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLEAR_DIST_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def clear(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clear(tmp_path_factory.mktemp("clear"), clear_tables())


def test_a_person_in_forget_and_retain_is_refused(tmp_path: Path) -> None:
    def contradict(tables: dict[str, Table]) -> None:
        tables["retain90"]["name"][4] = "Flo Gray"

    with pytest.raises(UserError, match=r"forget split with people in retain.*Flo Gray: forget10/0.*retain90/4"):
        load_dataset(changed(tmp_path, contradict, keep=VISUAL), modality="visual")


def test_missing_configs_and_columns_say_what_is_there(tmp_path: Path) -> None:
    path = changed(tmp_path, lambda t: t.pop("retain90+tofu"))
    with pytest.raises(UserError, match=r"no config retain90\+tofu.*found forget10, forget10\+tofu"):
        load_dataset(path)
    assert load_dataset(path, modality="visual").train["retain"], "what is not needed may be missing"
    path = changed(tmp_path / "b", lambda t: t["forget10"].pop("caption"), keep=VISUAL)
    with pytest.raises(UserError, match=r"config forget10 has no column caption\. Found image, name"):
        load_dataset(path, modality="visual")
    path = changed(tmp_path / "c", lambda t: t.pop("forget10_perturbed"), keep=VISUAL)
    with pytest.raises(UserError, match="no config forget10_perturbed"):
        load_dataset(path, modality="visual")


def cell(config: str, column: str, row: int, value: object) -> Callable[[dict[str, Table]], None]:
    def change(tables: dict[str, Table]) -> None:
        tables[config][column][row] = value

    return change


BAD_CELLS = [
    (cell("retain90", "caption", 7, "  "), r"retain90\[7\]: caption empty"),
    (cell("retain90", "name", 7, None), r"retain90\[7\]: name empty"),
    (cell("retain90", "image", 7, None), r"retain90\[7\]\.image: no picture"),
    (cell("retain90", "image", 7, {"bytes": b"no picture", "path": None}), r"retain90\[7\]\.image: not a picture"),
    (cell("retain90", "image", 7, {"bytes": b"", "path": None}), r"retain90\[7\]\.image: the picture is empty"),
    (cell("retain90+tofu", "question", 17, ""), r"retain90\+tofu\[17\]: question empty"),
    (cell("retain90+tofu", "answer", 17, None), r"retain90\+tofu\[17\]: answer empty"),
    (cell("real_world", "question", 0, ""), r"real_world\[0\]: question empty"),
    (cell("real_faces", "image", 1, None), r"real_faces\[1\]: image empty"),
]


@pytest.mark.parametrize(("change", "message"), BAD_CELLS)
def test_a_bad_row_is_refused_by_name_or_skipped_and_listed(
    tmp_path: Path, change: Callable[[dict[str, Table]], None], message: str
) -> None:
    path = changed(tmp_path, change)
    with pytest.raises(UserError, match=message):
        load_dataset(path)
    data = load_dataset(path, on_bad_data="skip")
    assert len(data.skipped) == 1
    full = {"forget": 8, "retain": 40}
    row = data.skipped[0].split(":")[0].removesuffix(".image").replace("[", "/").rstrip("]")
    dropped = sum(full.values()) - sum(len(examples) for examples in data.train.values())
    assert dropped == (0 if row.startswith("real") else 1 if "+tofu" in row else 2)
    everything = [*data.train["retain"], *data.sets["real_faces"], *data.sets["real_world"]]
    assert not any(e.id.startswith(f"{row}/") for e in everything)


def test_pictures_may_lie_beside_the_table(tmp_path: Path) -> None:
    # Written by arrow: datasets itself would put the file into the table.
    path = Path(changed(tmp_path, lambda t: None, keep="full"))
    table = clear_tables()["full"]
    table["image"][0] = {"bytes": None, "path": "ada.png"}
    image = pa.array(table["image"], type=pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    columns = {"image": image, "caption": pa.array(table["caption"]), "name": pa.array(table["name"])}
    pq.write_table(pa.table(columns), path / "full" / "train-00000-of-00001.parquet")
    with pytest.raises(UserError, match=r"full\[0\]\.image: no bytes in the table and no file ada\.png"):
        load_dataset(str(path), modality="visual", forget_names="Ada Berg")
    (path / "full" / "ada.png").write_bytes(encoded_image((9, 9, 9)))
    data = load_dataset(str(path), modality="visual", forget_names="Ada Berg")
    shown = data.train["forget"][0].picture
    assert shown is not None
    assert shown.read() == encoded_image((9, 9, 9))


def test_what_is_no_dataset_is_refused(tmp_path: Path) -> None:
    for source, message in (
        (str(tmp_path / "absent"), "no such file or directory"),
        ("./x/y", "no such file"),
        (str(tmp_path), "no dataset"),
    ):
        with pytest.raises(UserError, match=message):
            load_dataset(source)


@pytest.mark.parametrize("forget", ["forget", "retain90", "forget100"])
def test_an_unknown_split_names_the_known_ones(clear: Path, forget: str) -> None:
    with pytest.raises(UserError, match=rf"--forget {forget}: expected one of forget10"):
        load_dataset(str(clear), forget=forget)


def test_a_hub_that_cannot_be_reached_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("offline")

    monkeypatch.setattr(datasets, "get_dataset_config_names", unreachable)
    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    for name in ("therem/CLEAR", "locuslab/TOFU"):
        with pytest.raises(UserError, match=rf"{name}.*cannot be loaded.*offline"):
            load_dataset(name)


@pytest.mark.parametrize(("config", "row"), [("retain90", 2), ("retain90+tofu", 17)])
def test_an_id_given_twice_names_both_rows(tmp_path: Path, config: str, row: int) -> None:
    def number(tables: dict[str, Table]) -> None:
        table = tables[config]
        table["id"] = [f"r{i}" for i in range(len(table["image"]))]
        table["id"][row] = f"r{row - 1}"

    path = changed(tmp_path, number)
    with pytest.raises(
        UserError, match=rf"{re.escape(config)}\[{row}\]: id 'r{row - 1}' is also that of row {row - 1}"
    ):
        load_dataset(path)
    assert len(load_dataset(path, on_bad_data="skip").skipped) == 1
