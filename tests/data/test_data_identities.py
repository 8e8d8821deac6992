"""Pictures of identities out of a folder, a zip, CLEAR's tables or drawn: right pixels, stable ids, nothing bad in."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from clear_dist.data import identity_files
from clear_dist.data.identities import load_identities, square
from clear_dist.data.identity_listing import natural
from clear_dist.types import UserError

RED, GREEN, BLUE = (200, 10, 10), (10, 200, 10), (10, 10, 200)


def png(colour: tuple[int, int, int] = RED, size: tuple[int, int] = (20, 20)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def folder(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def zipped(file: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return file


def tables(root: Path, *parts: Sequence[tuple[bytes | None, str | None]]) -> Path:
    (root / "full").mkdir(parents=True)
    kind = pa.schema({"image": pa.struct({"bytes": pa.binary(), "path": pa.string()}), "name": pa.string()})
    for i, rows in enumerate(parts):
        images = [None if data is None else {"bytes": data, "path": "x.png"} for data, _ in rows]
        table = pa.table({"image": images, "name": [name for _, name in rows]}, schema=kind)
        pq.write_table(table, root / "full" / f"train-{i}.parquet", row_group_size=2)
    return root


GOOD = {
    "p10/1.png": png(RED),
    "p10/2.png": png(RED),
    "p9/a10.png": png(BLUE),
    "p9/a9.png": png(GREEN),
}


def test_names_and_files_come_in_natural_order_with_their_pixels(tmp_path: Path) -> None:
    found = load_identities(folder(tmp_path / "in", GOOD), 16, tmp_path / "cache")
    assert found.names == ("p9", "p10")
    assert found.ids == ("p9/a9.png", "p9/a10.png", "p10/1.png", "p10/2.png")
    assert found.labels.tolist() == [0, 0, 1, 1] and found.labels.dtype == torch.int64
    assert found.pixels.dtype == torch.uint8 and found.pixels.shape == (4, 3, 16, 16)
    assert [tuple(p[:, 8, 8].tolist()) for p in found.pixels] == [GREEN, BLUE, RED, RED]
    assert (found.skipped, found.left_out, found.size) == ((), (), 16)


def test_a_zip_and_a_folder_of_the_same_pictures_have_one_digest_whatever_wraps_them(tmp_path: Path) -> None:
    plain = load_identities(folder(tmp_path / "in", GOOD), 16, tmp_path / "cache")
    wrapped = {f"set/faces/{name}": data for name, data in reversed(GOOD.items())}
    for source in (
        zipped(tmp_path / "a.zip", GOOD),
        zipped(tmp_path / "b.zip", wrapped),
        zipped(tmp_path / "c.zip", {name.replace("/", "\\"): data for name, data in GOOD.items()}),
        zipped(tmp_path / "d.zip", {f"./{name}": data for name, data in GOOD.items()}),
        folder(tmp_path / "in2", wrapped),
    ):
        assert load_identities(source, 16, tmp_path / "cache").digest == plain.digest
    other = {**GOOD, "p10/2.png": png((200, 10, 11))}
    assert load_identities(zipped(tmp_path / "e.zip", other), 16, tmp_path / "cache").digest != plain.digest
    renamed = {name.replace("p10/2", "p10/3"): data for name, data in GOOD.items()}
    assert load_identities(zipped(tmp_path / "f.zip", renamed), 16, tmp_path / "cache").digest != plain.digest
    assert load_identities(tmp_path / "in", 24, tmp_path / "cache").digest != plain.digest


def test_a_single_identity_is_not_taken_for_a_wrapper(tmp_path: Path) -> None:
    found = load_identities(folder(tmp_path / "in", {"p/1.png": png(), "p/2.png": png()}), 16, tmp_path / "cache")
    assert (found.names, found.ids) == (("p",), ("p/1.png", "p/2.png"))


def test_the_result_does_not_depend_on_the_number_of_threads(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    files = {}
    for i in range(90):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (20 + i % 7, 25, 3), dtype=np.uint8)).save(buffer, "PNG")
        files[f"p{i % 9}/{i}.png"] = b"" if i == 40 else buffer.getvalue()
    source = folder(tmp_path / "in", files)
    done: list[tuple[int, int]] = []
    one = load_identities(source, 16, tmp_path / "one", 1, on_progress=lambda *at: done.append(at))
    many = load_identities(source, 16, tmp_path / "many", 5)
    assert (one.digest, one.ids, one.skipped) == (many.digest, many.ids, many.skipped)
    assert torch.equal(one.pixels, many.pixels) and len(one.ids) == 89
    assert done == [(i, 90) for i in range(1, 91)]


def test_what_is_no_picture_is_skipped_and_listed_and_few_pictures_leave_an_identity_out(tmp_path: Path) -> None:
    files = {
        **GOOD,
        "p9/zero.png": b"",
        "p9/notes.txt": b"hello",
        "p9/cut.png": png(size=(200, 200))[:-40],
        "lone/1.png": png((7, 8, 9)),
        "lone/2.png": b"\x89PNG broken",
        "top.png": png(),
        "p9/.DS_Store": b"x",
        "p9/Thumbs.db": b"x",
        "__MACOSX/p9/._a9.png": png(),
    }
    from_folder = load_identities(folder(tmp_path / "in", files), 16, tmp_path / "cache")
    from_zip = load_identities(zipped(tmp_path / "in.zip", files), 16, tmp_path / "cache")
    for found in (from_folder, from_zip):
        assert found.names == ("p9", "p10") and len(found.ids) == 4
        assert [name for name, _ in found.skipped] == [
            "lone/2.png",
            "p9/cut.png",
            "p9/notes.txt",
            "p9/zero.png",
            "top.png",
        ]
        reasons = dict(found.skipped)
        assert "empty (0 bytes)" in reasons["p9/zero.png"] and "not a picture" in reasons["p9/notes.txt"]
        assert "no identity's folder" in reasons["top.png"]
        assert found.left_out == (("lone", "1 of the 2 pictures that are needed"),)
    assert from_folder.digest == from_zip.digest
    alone = load_identities(tmp_path / "in", 16, tmp_path / "cache", min_images=1)
    assert alone.names == ("lone", "p9", "p10") and alone.left_out == ()


@pytest.mark.parametrize("cached", [False, True])
def test_bad_pictures_are_refused_by_name_where_asked_cached_or_not(tmp_path: Path, cached: bool) -> None:
    source = folder(tmp_path / "in", {**GOOD, "p9/zero.png": b""})
    if cached:
        load_identities(source, 16, tmp_path / "cache")
    with pytest.raises(UserError, match=r"p9/zero\.png is bad: .*0 bytes"):
        load_identities(source, 16, tmp_path / "cache", on_bad="fail")
    assert cached or not (tmp_path / "cache").exists()
    good = load_identities(folder(tmp_path / "good", GOOD), 16, tmp_path / "cache", on_bad="fail")
    assert len(good.ids) == 4


def test_nothing_left_is_refused(tmp_path: Path) -> None:
    for name, files in (("a", {"p/1.png": b"", "p/2.png": b"x"}), ("b", {"1.png": png()}), ("c", {"p/1.png": png()})):
        with pytest.raises(UserError, match="no identity with at least 2 pictures"):
            load_identities(folder(tmp_path / name, files), 16, tmp_path / "cache")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="found 0 identities"):
        load_identities(tmp_path / "empty", 16, tmp_path / "cache")


def test_links_in_circles_pipes_and_odd_names_do_not_stop_a_folder(tmp_path: Path) -> None:
    source = folder(tmp_path / "in", GOOD)
    (source / "p9" / "round").symlink_to(source)
    (source / "loop.png").symlink_to(source / "loop.png")
    elsewhere = folder(tmp_path / "elsewhere", {"1.png": png((1, 2, 3)), "2.png": png((4, 5, 6))})
    (source / "p11").symlink_to(elsewhere)
    os.mkfifo(source / "p9" / "pipe.png")
    odd = os.fsdecode(b"p9/\xff.png")
    (source / odd).write_bytes(png((90, 90, 90)))
    found = load_identities(source, 16, tmp_path / "cache")
    assert found.names == ("p9", "p10", "p11")
    assert r"p9/\xff.png" in found.ids
    reasons = dict(found.skipped)
    assert set(reasons) == {"loop.png", "p9/pipe.png", "p9/round"}


def test_a_zip_with_tricks_gives_only_what_is_plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity_files, "MAX_BYTES", 1000)
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, data in GOOD.items():
            archive.writestr(name, data)
        archive.writestr("p9/a9.png", png(RED))
        archive.writestr("../p9/out.png", png())
        archive.writestr("p9/bomb.png", b"\0" * 2000)
    found = load_identities(tmp_path / "a.zip", 16, tmp_path / "cache")
    assert found.ids == ("p9/a9.png", "p9/a10.png", "p10/1.png", "p10/2.png")
    assert tuple(found.pixels[0, :, 8, 8].tolist()) == GREEN, "the first of two entries of a name"
    assert {name for name, _ in found.skipped} == {"p9/a9.png", "p9/bomb.png"}
    assert "2000 bytes, more than" in dict(found.skipped)["p9/bomb.png"]
    assert not (tmp_path.parent / "p9").exists()


def test_a_damaged_entry_of_a_zip_is_skipped_by_its_checksum(tmp_path: Path) -> None:
    data = bytearray(zipped(tmp_path / "a.zip", GOOD).read_bytes())
    data[data.index(b"IDAT") + 6] ^= 1  # of the first picture, stored as it is
    (tmp_path / "a.zip").write_bytes(data)
    found = load_identities(tmp_path / "a.zip", 16, tmp_path / "cache")
    assert [name for name, _ in found.skipped] == ["p10/1.png"] and "CRC" in found.skipped[0][1]
    assert found.left_out[0][0] == "p10"


def test_pictures_too_large_in_pixels_are_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clear_dist.data.images.MAX_PIXELS", 500)
    found = load_identities(folder(tmp_path / "in", {**GOOD, "p9/big.png": png(size=(30, 30))}), 16, tmp_path / "cache")
    assert [name for name, _ in found.skipped] == ["p9/big.png"]


def test_tables_of_clear(tmp_path: Path) -> None:
    first = [(png(RED), "Zoe 10"), (png(GREEN), " Zoe 9 "), (None, "Zoe 9"), (png(BLUE), None), (b"bad", "Zoe 9")]
    source = tables(tmp_path / "in", first, [(png(BLUE), "Zoe 9"), (png((10, 200, 200)), "Zoe 10")])
    found = load_identities(source, 16, tmp_path / "cache")
    assert found.names == ("Zoe 9", "Zoe 10")
    assert found.ids == ("Zoe 9/1", "Zoe 9/5", "Zoe 10/0", "Zoe 10/6")
    assert [tuple(p[:, 8, 8].tolist()) for p in found.pixels] == [GREEN, BLUE, RED, (10, 200, 200)]
    assert [name for name, _ in found.skipped] == ["Zoe 9/2", "Zoe 9/4", "full/3"]


def test_tables_that_make_no_sense_are_refused_by_file(tmp_path: Path) -> None:
    source = tables(tmp_path / "in", [(png(), "A"), (png(), "A")])
    file = source / "full" / "train-0.parquet"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"train-0\.parquet: not a parquet file"):
        load_identities(source, 16, tmp_path / "cache")
    pq.write_table(pa.table({"image": ["x"], "name": ["A"]}), file)
    with pytest.raises(UserError, match="expected columns image"):
        load_identities(source, 16, tmp_path / "cache")
    (source / "full").rename(source / "forget10")
    with pytest.raises(UserError, match="no config full"):
        load_identities(source, 16, tmp_path / "cache")


@pytest.mark.parametrize("kind", ["folder", "tables"])
def test_a_source_that_changes_while_it_is_read_is_refused(tmp_path: Path, kind: str) -> None:
    many = [(png((i, 0, 0)), "A") for i in range(200)]
    if kind == "tables":
        source = tables(tmp_path / "in", many)
        last = source / "full" / "train-0.parquet"
    else:
        source = folder(tmp_path / "in", {f"A/{i}.png": data or b"" for i, (data, _) in enumerate(many)})
        last = source / "A" / "199.png"
    changed = last.read_bytes() + b" "

    def change(done: int, total: int) -> None:
        if done == 1:
            # A new file of the name, as editors and downloads make it.
            (tmp_path / "new").write_bytes(changed)
            (tmp_path / "new").replace(last)

    with pytest.raises(UserError, match="changed while"):
        load_identities(source, 16, tmp_path / "cache", workers=1, on_progress=change)
    assert not (tmp_path / "cache").exists()


def test_sources_that_are_nothing_known_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"PK nothing")
    for source, words in (
        (tmp_path / "none", "no such file"),
        (tmp_path / "a.zip", "not a zip file"),
        ("clear-mini:5", "no such file"),
        ("clear-mini:0x5", "expected 1 to 7245 people"),
        ("clear-mini:5x0", "at least 1 picture"),
    ):
        with pytest.raises(UserError, match=words):
            load_identities(source, 16, tmp_path / "cache")
    for size, workers, least in ((4, 1, 2), (16, 0, 2), (16, 1, 0)):
        with pytest.raises(UserError, match="expected"):
            load_identities("clear-mini:2x2", size, tmp_path / "cache", workers, min_images=least)


def test_a_picture_is_cut_about_its_middle_and_averaged_not_sampled() -> None:
    wide = np.zeros((40, 120, 3), dtype=np.uint8)
    wide[:, 40:80] = 255  # the middle square
    for array in (wide, wide.transpose(1, 0, 2).copy()):
        middle = square(Image.fromarray(array), 10)
        assert middle.min() > 225 and middle[:, 1:-1, 1:-1].min() == 255  # the rim sees a little beyond
    stripes = np.zeros((320, 320, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    fine = square(Image.fromarray(stripes), 32).astype(int)
    assert np.abs(fine - 127).max() < 6
    assert square(Image.new("RGB", (1, 700), RED), 16).shape == (3, 16, 16)


def test_scaling_by_way_of_averages_is_nearly_the_plain_one() -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).resize((400, 400))
    plain = np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC)).transpose(2, 0, 1).astype(int)
    assert np.abs(square(image, 32) - plain).max() <= 4
    same = np.asarray(image).transpose(2, 0, 1)
    assert np.array_equal(square(image, 400), same), "the right size already: untouched"


def test_natural_order_compares_numbers_of_any_length() -> None:
    names = ["a10", "a9", "a09", "b", "a" + "9" * 5000, "a1x2", "a1x10", ""]
    assert sorted(names, key=natural) == ["", "a1x2", "a1x10", "a09", "a9", "a10", "a" + "9" * 5000, "b"]


def test_omniglot(data_dir: Callable[[str], Path], tmp_path: Path) -> None:
    found = load_identities(data_dir("omniglot") / "omniglot200.zip", 32, tmp_path)
    # 21 of the 200 characters are there twice, picture by picture, under two names.
    assert found.pixels.shape == (3580, 3, 32, 32) and len(found.names) == 179
    assert found.ids[0] == "identity_000/00.png" and found.skipped == ()
    assert torch.bincount(found.labels).tolist() == [20] * 179
    assert len(found.left_out) == 21
    assert dict(found.left_out)["identity_059"].startswith("20 of its 20 pictures are those of identity_001")
    ink = (found.pixels < 128).float().mean()
    assert 0.02 < ink < 0.3  # dark strokes on white, not the reverse
    assert torch.equal(found.pixels[:, 0], found.pixels[:, 2])


@pytest.mark.slow
def test_clear_shaped(data_dir: Callable[[str], Path], tmp_path: Path) -> None:
    found = load_identities(data_dir("clear_shaped"), 48, tmp_path)
    # Its pictures are those of the same 200 characters, so 21 people have another one's.
    assert found.pixels.shape == (3374, 3, 48, 48) and len(found.names) == 179
    assert found.skipped == () and len(found.left_out) == 21
