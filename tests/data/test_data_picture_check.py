"""Pictures are decoded once: what is known to be good is not looked at again, and a damaged list is none."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clear_dist.data import picture_check
from clear_dist.data.picture_check import check_pictures
from clear_dist.types import Picture


def jpeg(seed: int) -> bytes:
    out = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(out, "JPEG")
    return out.getvalue()


def picture(data: bytes, source: str = "full[0].image") -> Picture:
    return Picture(hashlib.sha256(data).hexdigest(), source, lambda: data)


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    seen: list[str] = []
    real = picture_check.decode

    def decode(asked: Picture) -> Image.Image:
        seen.append(asked.source)
        return real(asked)

    monkeypatch.setattr(picture_check, "decode", decode)
    return seen


def test_half_a_picture_with_a_whole_header_is_found(tmp_path: Path) -> None:
    good, half = jpeg(0), jpeg(1)[:-900]
    errors = check_pictures([picture(good, "a"), picture(half, "b"), picture(half, "c")], cache=tmp_path)
    assert list(errors) == [hashlib.sha256(half).hexdigest()]
    assert str(errors[hashlib.sha256(half).hexdigest()]).startswith("b: not a picture"), "named by its first place"


def test_only_new_ones_are_looked_at(tmp_path: Path, looked: list[str]) -> None:
    done: list[tuple[int, int]] = []
    bad = picture(b"rubbish", "bad")
    check_pictures([picture(jpeg(0), "a"), bad], cache=tmp_path / "new")
    assert looked == ["a"], "what fails by its header is not decoded"
    looked.clear()
    check_pictures(
        [picture(jpeg(1), "b"), picture(jpeg(0), "a"), bad],
        cache=tmp_path / "new",
        on_progress=lambda *now: done.append(now),
    )
    assert looked == ["b"] and done == [(1, 2), (2, 2)], "what is bad is looked at every time"
    looked.clear()
    assert len(check_pictures([picture(jpeg(1), "b"), picture(jpeg(0), "a"), bad], cache=tmp_path / "new")) == 1
    assert looked == []
    assert [p.name for p in (tmp_path / "new").iterdir()] == [f"decoded-{picture_check.PIL.__version__}.list"]


@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "text", "digest"])
def test_a_damaged_list_is_none(tmp_path: Path, looked: list[str], harm: str) -> None:
    check_pictures([picture(jpeg(0), "a")], cache=tmp_path)
    (file,) = tmp_path.iterdir()
    data = bytearray(file.read_bytes())
    if harm == "flip":
        data[-1] ^= 1
    file.write_bytes({"cut": data[:-7], "empty": b"", "text": b"rubbish", "digest": data[3:]}.get(harm, bytes(data)))
    looked.clear()
    check_pictures([picture(jpeg(0), "a")], cache=tmp_path)
    assert looked == ["a"]
    looked.clear()
    check_pictures([picture(jpeg(0), "a")], cache=tmp_path)
    assert looked == [], "it was written again"


def test_a_cache_that_cannot_be_written_only_costs_time(tmp_path: Path, looked: list[str]) -> None:
    (tmp_path / "file").write_text("")
    for _ in range(2):
        assert check_pictures([picture(jpeg(0), "a")], cache=tmp_path / "file" / "pictures") == {}
    assert looked == ["a", "a"]
