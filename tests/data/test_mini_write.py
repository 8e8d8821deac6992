"""The written dataset: CLEAR's layout, schema and row counts; the same bytes; never half, never over something."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
from PIL import Image

from clear_dist.data.mini import write as writer
from clear_dist.data.mini import write_clear_mini
from clear_dist.data.mini.tables import Photo, Row, Tables, columns, tofu_files
from clear_dist.data.mini.world import build_world
from clear_dist.types import UserError

Find = Callable[[str], Path]
# Row counts of the Hub dataset therem/CLEAR; where its card rounds, full minus forget.
FULL_ROWS = {
    "full": 3768,
    "forget01": 35,
    "forget05": 188,
    "forget10": 379,
    "retain99": 3733,
    "retain95": 3580,
    "retain90": 3389,
    "full+tofu": 7768,
    "forget01+tofu": 75,
    "forget05+tofu": 388,
    "forget10+tofu": 779,
    "retain99+tofu": 7693,
    "retain95+tofu": 7380,
    "retain90+tofu": 6989,
    "forget01_perturbed": 35,
    "forget05_perturbed": 188,
    "forget10_perturbed": 378,
    "retain_perturbed": 395,
    "real_faces": 151,
    "real_world": 367,
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clear_mini(tmp_path_factory.mktemp("mini") / "data", "mini", 0)


@pytest.fixture(scope="module")
def loaded(written: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, datasets.Dataset]:
    """Every config, opened by its name as from the Hub."""
    return {config: load(written, config, tmp_path_factory.mktemp("cache")) for config in columns()}


@pytest.fixture(scope="module")
def configs(loaded: dict[str, datasets.Dataset]) -> dict[str, list[Row]]:
    """Every config's rows, pictures undecoded."""
    undecoded = datasets.Image(decode=False)
    return {config: data.cast_column("image", undecoded).to_list() for config, data in loaded.items()}


@pytest.fixture(scope="module")
def truth(written: Path) -> Row:
    return json.loads((written / "attributes.json").read_text(encoding="utf-8"))


def load(folder: Path, config: str, cache: Path) -> datasets.Dataset:
    data = datasets.load_dataset(str(folder), config, split="train", cache_dir=str(cache))
    assert isinstance(data, datasets.Dataset)
    return data


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def lines(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_same_bytes_every_time(written: Path, tmp_path: Path) -> None:
    again = write_clear_mini(tmp_path / "again", "mini", 0)
    assert digests(again) == digests(written)
    other = digests(write_clear_mini(tmp_path / "other", "mini", 1))
    assert other["full/train-00000-of-00001.parquet"] != digests(written)["full/train-00000-of-00001.parquet"]


def test_full_has_clears_row_counts() -> None:
    world = build_world("full")

    def photos(shots) -> list[Photo]:
        return [Photo(b"", hashlib.sha256(repr(shot).encode()).hexdigest(), shot) for shot in shots]

    shots = {name: photos(shots) for name, shots in world.shots.items()}
    tables = Tables(world, shots, photos(world.real_faces), photos(world.strangers))
    assert {config: len(tables.rows(config)) for config in columns()} == FULL_ROWS
    files = {name: len(rows) for name, rows in tofu_files(world).items()}
    assert (files["full"], files["forget10"], files["retain90"], files["retain_perturbed"]) == (4000, 400, 3600, 400)


def test_rows_of_mini(configs: dict[str, list[Row]]) -> None:
    counts = {name: len(data) for name, data in configs.items()}
    assert counts["full"] == 24 * 16
    assert (counts["forget01"], counts["forget05"], counts["forget10"]) == (16, 32, 64)
    assert (counts["retain99"], counts["retain95"], counts["retain90"]) == (368, 352, 320)
    for forget, retain, people in (
        ("forget01", "retain99", 1),
        ("forget05", "retain95", 2),
        ("forget10", "retain90", 4),
    ):
        assert counts[f"{forget}+tofu"] == counts[forget] + 20 * people
        assert counts[f"{retain}+tofu"] == counts[retain] + 20 * (24 - people)
        assert counts[f"{forget}_perturbed"] == counts[forget]
        gone = {row["name"] for row in configs[forget]}
        assert len(gone) == people and not gone & {row["name"] for row in configs[retain]}


def test_schema_is_clears(loaded: dict[str, datasets.Dataset], data_dir: Find, tmp_path: Path) -> None:
    real = data_dir("clear_shaped")
    for config, data in loaded.items():
        shaped = load(real, config, tmp_path)
        assert data.features == shaped.features, config
        assert data.column_names == shaped.column_names, config
    assert {p.name for p in real.iterdir() if p.is_dir()} == set(loaded)


def test_tofu_files_have_tofus_fields(written: Path, data_dir: Find) -> None:
    real = data_dir("tofu")
    names = {path.name for path in real.glob("*.json")} | {"forget01.json", "retain_perturbed.json"}
    assert {path.name for path in (written / "tofu").iterdir()} == names
    for name in names:
        assert list(lines(written / "tofu" / name)[0]) == list(lines(real / name)[0]), name


def test_tofu_files_agree_with_the_configs(written: Path, configs: dict[str, list[Row]]) -> None:
    for split in ("full", "forget01", "retain99", "forget10", "retain90"):
        mixed = configs[f"{split}+tofu"]
        texts = [{"question": row["question"], "answer": row["answer"]} for row in mixed if row["question"]]
        assert texts == lines(written / "tofu" / f"{split}.json")
        assert all((row["caption"] is None) != (row["question"] is None) for row in mixed)
    for row in lines(written / "tofu" / "forget10_perturbed.json"):
        assert len({row["paraphrased_answer"], *row["perturbed_answer"]}) == 6
    retained = lines(written / "tofu" / "retain_perturbed.json")
    assert len(retained) == 100
    for name in ("real_authors", "world_facts"):
        for row, twin in zip(
            lines(written / "tofu" / f"{name}.json"), lines(written / "tofu" / f"{name}_perturbed.json"), strict=True
        ):
            options = {row[f"option{k}"] for k in (1, 2, 3, 4)}
            assert len(options) == 4 and options == {row["answer"], *twin["perturbed_answer"]}


def test_pictures_decode_and_are_known(
    loaded: dict[str, datasets.Dataset], configs: dict[str, list[Row]], truth: Row
) -> None:
    seen: set[str] = set()
    for config, rows in configs.items():
        for row in rows:
            if row["image"] is None:
                assert config.endswith("+tofu")
                continue
            digest = hashlib.sha256(row["image"]["bytes"]).hexdigest()
            seen.add(digest)
            assert truth["pictures"][digest]["person"] == row.get("name", truth["pictures"][digest]["person"])
    assert seen == set(truth["pictures"])
    picture = loaded["full"][0]["image"]
    assert isinstance(picture, Image.Image) and (picture.size, picture.mode) == ((96, 96), "RGB")


def test_ground_truth(configs: dict[str, list[Row]], truth: Row, written: Path) -> None:
    assert {k: truth[k] for k in ("v", "dataset", "preset", "seed")} == {
        "v": 1,
        "dataset": "clear-mini",
        "preset": "mini",
        "seed": 0,
    }
    flags = [picture["unseen"] for picture in truth["pictures"].values() if picture["person"]]
    assert sum(flags) == 24 * 6 + 60
    for row in configs["full"]:
        facts = truth["pictures"][hashlib.sha256(row["image"]["bytes"]).hexdigest()]
        assert f"a {facts['attributes']['shirt']} shirt" in row["caption"].replace("an orange", "a orange")
        assert row["name"] not in facts["description"]
        assert 7 <= len(facts["questions"]) <= 9
    for path in (written / "tofu").glob("*.json"):
        for row in lines(path):
            for question in (row["question"], row.get("paraphrased_question", row["question"])):
                assert truth["facts"][question]["fact"] in row["answer"]


def test_perturbed_captions_name_others_before_the_same_wall(configs: dict[str, list[Row]]) -> None:
    for config in ("forget10_perturbed", "retain_perturbed"):
        for row in configs[config]:
            assert len({row["name"], *row["perturbed_names"]}) == 6
            expected = [row["paraphrased_caption"].replace(row["name"], name) for name in row["perturbed_names"]]
            assert row["perturbed_captions"] == expected
            assert row["paraphrased_caption"] != row["caption"]


def test_choices_have_the_right_answer_first(configs: dict[str, list[Row]], truth: Row) -> None:
    for row in configs["real_faces"]:
        picture = truth["pictures"][hashlib.sha256(row["image"]["bytes"]).hexdigest()]
        assert row["answer"] == row["options"][0] == picture["person"]
        assert len(set(row["options"])) == 4
    kinds = set()
    for row in configs["real_world"]:
        picture = truth["pictures"][hashlib.sha256(row["image"]["bytes"]).hexdigest()]
        assert picture["person"] is None
        assert [row["question"], row["answer"]] in picture["questions"]
        assert row["answer"] == row["options"][0] and 3 <= len(set(row["options"])) == len(row["options"])
        kinds.add(row["question"])
    assert len(kinds) == 7


def test_existing_dataset_is_returned_unchanged(written: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in written.rglob("*")}
    assert write_clear_mini(written, "mini", 0) == written
    assert {path: path.stat().st_mtime_ns for path in written.rglob("*")} == before


def test_other_contents_are_refused(written: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds CLEAR-mini preset 'mini', seed 0.*wanted preset 'mini', seed 1"):
        write_clear_mini(written, "mini", 1)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds no CLEAR-mini dataset"):
        write_clear_mini(tmp_path)
    with pytest.raises(UserError, match="holds no CLEAR-mini dataset"):
        write_clear_mini(tmp_path / "notes.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_incomplete_dataset_is_refused(written: Path, tmp_path: Path) -> None:
    (tmp_path / "attributes.json").write_bytes((written / "attributes.json").read_bytes())
    with pytest.raises(UserError, match="lacks the config 'full'"):
        write_clear_mini(tmp_path)


def test_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(writer, "write_parquet", fail)
    with pytest.raises(OSError, match="disk full"):
        write_clear_mini(tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


def test_losing_a_race_to_the_same_dataset_is_fine(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process finishes while this one is about to."""
    out = tmp_path / "data"
    card = writer._card

    def overtaken(world) -> str:
        out.symlink_to(written, target_is_directory=True)
        return card(world)

    monkeypatch.setattr(writer, "_card", overtaken)
    assert write_clear_mini(out) == out
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_an_empty_directory_is_filled_with_progress(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    bars = datasets.are_progress_bars_disabled()
    write_clear_mini(tmp_path, on_progress=lambda done, total: calls.append((done, total)))
    assert datasets.are_progress_bars_disabled() == bars
    total = 24 * 16 + 60 + 120 + len(columns())
    assert calls == [(k, total) for k in range(1, total + 1)]
    assert (tmp_path / "README.md").is_file() and (tmp_path / "sheet.png").is_file()
