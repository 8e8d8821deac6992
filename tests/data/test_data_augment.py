"""The image transform: a pure function of picture, seed and digest, mild, and told apart by digests."""

from __future__ import annotations

import io

import numpy as np
import pytest
from data_fakes import encoded_image, picture_of
from PIL import Image

from clear_dist.data import augment
from clear_dist.data.augment import MAX_SIDE, augmented, transform
from clear_dist.data.images import decode
from clear_dist.types import Picture, UserError


def gradient(width: int = 48, height: int = 64) -> Image.Image:
    """Red grows to the right, green downwards: any geometric change shows."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, np.full_like(x, 128)], -1).astype(np.uint8))


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def picture() -> Picture:
    return picture_of(png(gradient()))


def test_the_same_arguments_give_the_same_picture() -> None:
    first = transform(gradient(), 3, "a" * 64)
    np.random.default_rng(0).random()
    again = transform(gradient(), 3, "a" * 64)
    assert png(first) == png(again)
    assert first.size == (48, 64) and first.mode == "RGB"
    others = [transform(gradient(), 4, "a" * 64), transform(gradient(), 3, "b" * 64), gradient()]
    assert len({png(first), *map(png, others)}) == 4


def test_it_changes_every_part_of_what_it_should() -> None:
    """Over many seeds: both orientations, crops that differ, brightness up and down; never black corners."""
    flips, left_edges, brightness = set(), set(), set()
    for seed in range(40):
        values = np.asarray(transform(gradient(), seed, "c" * 64), dtype=float)
        red = values[..., 0].mean(0)
        flips.add(bool(red[-1] < red[0]))
        left_edges.add(round(min(red[0], red[-1])))
        brightness.add(bool(values[..., 2].mean() > 128))
        assert values[..., 2].min() > 60, "blue is 128 everywhere: a corner from outside would be black"
        assert abs(red[-1] - red[0]) > 100, "at least 0.7 of the area stays"
    assert flips == {True, False} and brightness == {True, False} and len(left_edges) > 10


def test_large_pictures_are_reduced_and_any_mode_is_taken() -> None:
    assert transform(Image.new("L", (MAX_SIDE * 2, 100), 90), 0, "d" * 64).size == (MAX_SIDE, 50)
    assert transform(Image.new("RGB", (1, 1), (9, 9, 9)), 0, "d" * 64).size == (1, 1)


def test_an_augmented_picture_is_read_as_png(picture: Picture) -> None:
    turned = augmented(picture, 5)
    assert png(decode(turned)) == png(transform(decode(picture), 5, picture.digest))
    assert turned.read() == turned.read()
    assert turned.source == "full[0].image, transformed"


def test_digests_tell_seed_picture_and_version_apart(picture: Picture, monkeypatch: pytest.MonkeyPatch) -> None:
    other = picture_of(encoded_image((1, 2, 3)))
    digests = {augmented(picture, 0).digest, augmented(picture, 1).digest, augmented(other, 0).digest, picture.digest}
    assert len(digests) == 4 and augmented(picture, 0) == augmented(picture, 0)
    assert all(len(digest) == 64 for digest in digests)
    monkeypatch.setattr(augment, "VERSION", augment.VERSION + 1)
    assert augmented(picture, 0).digest not in digests


def test_nothing_is_read_before_it_is_needed() -> None:
    def read() -> bytes:
        raise OSError("gone")

    turned = augmented(Picture("e" * 64, "full[7].image", read), 0)
    with pytest.raises(UserError, match=r"full\[7\]\.image"):
        turned.read()
