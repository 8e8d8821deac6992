"""Names that lead elsewhere: of a picture in a table. (Those in shard indices, manifests, archives, objects of a farm
and records have tests beside what reads them; docs/reliability.md lists all.)"""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clear_dist.data.load import load_dataset
from clear_dist.types import UserError

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data"))
from data_fakes import changed, clear_tables, encoded_image  # pyright: ignore[reportMissingImports]


def dataset(folder: Path, picture: str) -> Path:
    """Pictures beside the table, the first of them at ``picture``."""
    path = Path(changed(folder, lambda tables: None, keep="full"))
    table = clear_tables()["full"]
    table["image"][0] = {"bytes": None, "path": picture}
    image = pa.array(table["image"], type=pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    columns = {"image": image, "caption": pa.array(table["caption"]), "name": pa.array(table["name"])}
    pq.write_table(pa.table(columns), path / "full" / "train-00000-of-00001.parquet")
    return path


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CLEAR_DIST_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("how", ["up from its config", "up", "absolute", "link", "linked folder"])
def test_a_picture_elsewhere_is_refused(tmp_path: Path, how: str) -> None:
    secret = tmp_path / "elsewhere" / "secret.png"
    secret.parent.mkdir()
    secret.write_bytes(encoded_image((9, 9, 9)))
    up = {"up from its config": "../../elsewhere/secret.png", "up": "../elsewhere/secret.png", "absolute": str(secret)}
    name = up.get(how, "a/secret.png")
    path = dataset(tmp_path, name)
    if how == "link":
        (path / "a").mkdir()
        (path / "a" / "secret.png").symlink_to(secret)
    elif how == "linked folder":
        (path / "a").symlink_to(secret.parent)
    assert (path / name).is_file() or (path / "full" / name).is_file(), "it would be found"
    with pytest.raises(UserError, match=r"full\[0\]\.image: .*secret\.png leads out of the dataset directory"):
        load_dataset(str(path), modality="visual", forget_names="Ada Berg")
    skipped = load_dataset(str(path), modality="visual", forget_names="Ada Berg", on_bad_data="skip").skipped
    assert len(skipped) == 1 and "leads out" in skipped[0]


@pytest.mark.parametrize("name", ["a" * 300, "a/" * 3000, "a\0b", "loop.png"])
def test_names_no_file_can_have_are_refused(tmp_path: Path, name: str) -> None:
    path = dataset(tmp_path, name)
    (path / "loop.png").symlink_to("loop.png")
    with pytest.raises(UserError, match=r"full\[0\]\.image: no bytes in the table and no file"):
        load_dataset(str(path), modality="visual", forget_names="Ada Berg")


def test_links_within_and_those_of_the_hub_s_cache_are_followed(tmp_path: Path) -> None:
    blob = tmp_path / "hub" / "datasets--a--b" / "blobs" / "0123"
    blob.parent.mkdir(parents=True)
    blob.write_bytes(encoded_image((9, 9, 9)))
    made = dataset(tmp_path / "made", "ada.png")
    (made / "ada.png").symlink_to("kept.png")
    (made / "kept.png").write_bytes(encoded_image((9, 9, 9)))
    assert load_dataset(str(made), modality="visual", forget_names="Ada Berg").train["forget"]
    (made / "ada.png").unlink()
    snapshot = blob.parents[1] / "snapshots" / "c0ffee"
    snapshot.parent.mkdir()
    made.rename(snapshot)
    (snapshot / "ada.png").symlink_to(blob)
    assert load_dataset(str(snapshot), modality="visual", forget_names="Ada Berg").train["forget"]
