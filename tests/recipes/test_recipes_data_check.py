"""``clear-dist data check``: faults in a table or as JSON, and an exit status that says whether there are any."""

from __future__ import annotations

import base64
import io
import json
import re
import sys
from pathlib import Path

import pytest
from PIL import Image

from clear_dist import cli
from clear_dist.data.mini.write import write_clear_mini
from clear_dist.recipes import data_check

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data"))
from data_fakes import clear_tables, encoded_image, write_clear  # pyright: ignore[reportMissingImports]


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CLEAR_DIST_CACHE", str(tmp_path / "cache"))


def test_clear_mini_is_sound(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_clear_mini(tmp_path / "mini")
    capsys.readouterr()
    assert cli.main(["data", "check", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "24 people; rows: " in said and "full 384" in said and said.endswith("0 faults, 0 warnings\n")


def test_faults_are_listed_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables = clear_tables()
    tables["forget10_perturbed"]["paraphrased_caption"] = ["", "", ""]
    tables["full"]["name"][0] = "\x1b[31mEve [/b]"
    folder = write_clear(tmp_path / "data", tables)
    capsys.readouterr()
    assert cli.main(["data", "check", str(folder), "--shown", "2"]) == 1
    said = capsys.readouterr().out
    assert "\u2715 paraphrase-missing" in said and "1 more of paraphrase-missing; --shown 3 lists all" in said
    assert "\x1b" not in said and "Eve [/b]" in said, "neither control characters nor markup get through"
    assert cli.main(["data", "check", str(folder), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["v"] == 1 and found["sound"] is False and found["counts"]["full"] == 18
    kinds = [finding["kind"] for finding in found["findings"]]
    assert kinds.count("paraphrase-missing") == 3 and "swapped-label" in kinds
    assert {"kind", "place", "what", "severity", "pictures"} == set(found["findings"][0])


def broken_dataset(folder: Path) -> Path:
    """A label swapped, a picture damaged, a picture of two people."""
    tables = clear_tables()
    tables["full"]["name"][0] = "Eve </b><script>"
    tables["full"]["image"][4] = {"bytes": b"no picture", "path": None}
    tables["full"]["image"][8] = {"bytes": encoded_image((200, 10, 10), size=700), "path": None}
    tables["full"]["image"][14] = tables["full"]["image"][8]
    return write_clear(folder, tables)


def test_the_page_shows_findings_and_their_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, page = broken_dataset(tmp_path / "data"), tmp_path / "new" / "check.html"
    assert cli.main(["data", "check", str(folder), "--report", str(page), "--shown", "2"]) == 1
    assert f"to read: {page}" in capsys.readouterr().err
    html = page.read_text()
    assert list(page.parent.iterdir()) == [page] and "</b><script>" not in html
    assert "swapped-label" in html and "picture-of-two" in html and "--shown" in html
    assert html.count("no picture to show") == 1, "the damaged one"
    found = re.findall(r'<img src="data:image/jpeg;base64,([^"]+)" alt="([^"]+)"', html)
    sizes = {Image.open(io.BytesIO(base64.b64decode(data))).size for data, _ in found}
    assert sizes == {(8, 8), (192, 192)} and any("picture-of-two" in alt for _, alt in found)


def test_more_pictures_than_a_page_holds_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_check, "MOST", 1)
    folder, page = broken_dataset(tmp_path / "data"), tmp_path / "check.html"
    assert cli.main(["data", "check", str(folder), "--report", str(page)]) == 1
    assert re.search(r"check\.html: has the first 1 of \d+ pictures", capsys.readouterr().err)
    html = page.read_text()
    assert len(set(re.findall(r'src="data:image/jpeg[^"]+', html))) == 1 < html.count("no picture to show")


def test_json_is_the_same_with_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = broken_dataset(tmp_path / "data")
    capsys.readouterr()
    assert cli.main(["data", "check", str(folder), "--json"]) == 1
    alone = capsys.readouterr()
    assert cli.main(["data", "check", str(folder), "--json", "--report", str(tmp_path / "x.html")]) == 1
    assert capsys.readouterr() == alone and json.loads(alone.out)["v"] == 1
    assert (tmp_path / "x.html").is_file()


@pytest.mark.parametrize("name", ["page.parquet", "page", "folder.html"])
def test_only_a_page_is_replaced_by_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "page.parquet").write_text("precious")
    folder = write_clear(tmp_path / "data", clear_tables())
    capsys.readouterr()
    assert cli.main(["data", "check", str(folder), "--report", str(tmp_path / name)]) == cli.USER_ERROR
    said = capsys.readouterr()
    assert f"--report {tmp_path / name}: " in said.err and said.out == "", "before anything is checked"
    assert (tmp_path / "page.parquet").read_text() == "precious" and not (tmp_path / "page").exists()


def test_a_page_stays_as_it_was_where_the_check_fails(tmp_path: Path) -> None:
    page = tmp_path / "check.html"
    page.write_text("before")
    assert cli.main(["data", "check", str(tmp_path / "none"), "--report", str(page)]) == cli.USER_ERROR
    assert page.read_text() == "before"


def test_what_is_no_dataset_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "check", str(tmp_path / "none")]) == cli.USER_ERROR
    assert "no such directory" in capsys.readouterr().err
