"""One picture under two names: a whole identity that is there twice goes, a stray picture goes from both."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from clear_dist.data.identities import load_identities
from clear_dist.data.identity_twins import same_pictures
from clear_dist.types import UserError


def found(*people: tuple[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """people: (name, its pictures, a letter each; a dot is no picture)."""
    names = [name for name, pictures in people for _ in pictures]
    ids = [f"{name}/{i}" for name, pictures in people for i in range(len(pictures))]
    contents = [None if p == "." else p.encode() for _, pictures in people for p in pictures]
    pictures, identities = same_pictures(names, ids, contents)
    return dict(pictures), dict(identities)


def test_different_people_stay() -> None:
    assert found(("a", "xyz"), ("b", "uvw")) == ({}, {})


def test_a_person_may_have_a_picture_twice_and_broken_ones() -> None:
    assert found(("a", "xx."), ("b", "yy..")) == ({}, {})


def test_the_later_of_two_names_goes() -> None:
    pictures, identities = found(("p10", "xyz"), ("p9", "xyz"))
    assert identities == {"p10": "3 of its 3 pictures are those of p9: one identity under two names"}
    assert pictures == {}, "what is left stands under one name"


def test_half_of_the_pictures_make_a_twin_and_fewer_do_not() -> None:
    assert list(found(("a", "wxyz"), ("b", "wx12"))[1]) == ["b"]
    pictures, identities = found(("a", "wxyz"), ("b", "w123"))
    assert identities == {}
    assert pictures == {
        "a/0": "the same picture as b/0, which is another identity's",
        "b/0": "the same picture as a/0, which is another identity's",
    }


def test_a_small_identity_within_a_large_one_goes_even_if_it_comes_first() -> None:
    # Half of a's pictures are b's, but b comes later and keeps most that are its own: the shared ones go from both.
    pictures, identities = found(("a", "xy"), ("b", "xyuvwz"))
    assert identities == {} and set(pictures) == {"a/0", "a/1", "b/0", "b/1"}


def test_three_names_of_one_person_leave_one() -> None:
    pictures, identities = found(("a", "xy"), ("b", "xy"), ("c", "xy"))
    assert set(identities) == {"b", "c"} and pictures == {}


def test_a_chain_ends_at_who_is_left() -> None:
    # b is a under another name; c shares with b alone what a does not have, so nothing is left to clash with.
    pictures, identities = found(("a", "wx12"), ("b", "wx34"), ("c", "3uvq"))
    assert set(identities) == {"b"} and pictures == {}


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (20, 20), value).save(buffer, "PNG")
    return buffer.getvalue()


def test_loading_leaves_them_out_and_says_so(tmp_path: Path) -> None:
    people = {"ada": (1, 2, 3), "bo": (4, 5, 6), "cy": (1, 2, 3), "di": (7, 8, 4)}
    for name, values in people.items():
        (tmp_path / "in" / name).mkdir(parents=True)
        for i, value in enumerate(values):
            (tmp_path / "in" / name / f"{i}.png").write_bytes(png(value))
    loaded = load_identities(tmp_path / "in", 16, tmp_path / "cache")
    assert loaded.names == ("ada", "bo", "di")
    assert dict(loaded.left_out) == {"cy": "3 of its 3 pictures are those of ada: one identity under two names"}
    assert {name for name, _ in loaded.skipped} == {"bo/0.png", "di/2.png"}
    assert len(loaded.ids) == 3 + 2 + 2
    again = load_identities(tmp_path / "in", 16, tmp_path / "cache")
    assert again.digest == loaded.digest and again.left_out == loaded.left_out
    with pytest.raises(UserError, match="another identity's"):
        load_identities(tmp_path / "in", 16, tmp_path / "other", on_bad="fail")
