"""``clear-dist data check``: faults in a table or as JSON, and an exit status that says whether there are any."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from clear_dist import cli
from clear_dist.data.mini.write import write_clear_mini

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data"))
from data_fakes import clear_tables, write_clear  # pyright: ignore[reportMissingImports]


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


def test_what_is_no_dataset_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "check", str(tmp_path / "none")]) == cli.USER_ERROR
    assert "no such directory" in capsys.readouterr().err
