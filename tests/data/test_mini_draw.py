"""Pictures: the same every time, true to their attributes, tellable apart at the model's size."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from clear_dist.data.mini.draw import CLOTH, HAIR, SKIN, contact_sheet, draw, encode
from clear_dist.data.mini.people import CLASSES, FACES, Identity, Look
from clear_dist.data.mini.world import build_world

WHO = Identity("tan", "round", "short", "red", "green", "none")
LOOK = Look("purple", "teal", False, False, 0.0, 0.0, 1.0, 0.0, 0.5)


def pixels(identity: Identity = WHO, look: Look = LOOK, size: int = 96) -> NDArray[np.float32]:
    """[size, size, 3] float32 in 0..255."""
    return np.asarray(draw(identity, look, size), dtype=np.float32)


def test_size_and_mode() -> None:
    for size in (48, 96):
        picture = draw(WHO, LOOK, size)
        assert (picture.size, picture.mode) == ((size, size), "RGB")


def test_same_bytes_every_time_and_lossless() -> None:
    png = encode(draw(WHO, LOOK))
    assert png == encode(draw(WHO, LOOK))
    with Image.open(BytesIO(png)) as read:
        assert np.array_equal(np.asarray(read), np.asarray(draw(WHO, LOOK)))


@pytest.mark.parametrize("face", FACES)
def test_colours_are_where_they_belong(face: str) -> None:
    picture = pixels(replace(WHO, face=face))
    assert np.abs(picture[1, 1] - CLOTH["teal"]).max() <= 1  # the wall, at a corner
    assert np.abs(picture[94, 40] - CLOTH["purple"]).max() <= 1  # the shirt, at the bottom
    assert np.abs(picture[43 - 6, 48] - SKIN["tan"]).max() <= 12  # between the eyes
    rows = [np.abs(picture[y, 52] - HAIR["red"]).max() for y in range(14, 30)]
    assert min(rows) <= 1  # above the forehead


@pytest.mark.parametrize("attribute", list(CLASSES))
def test_every_attribute_shows_at_the_models_size(attribute: str) -> None:
    """Any two values of any attribute give pictures that differ clearly at 48 pixels."""
    views = []
    for value in CLASSES[attribute]:
        if value == "none" and attribute == "hair_colour":
            continue
        if attribute in ("glasses", "hat"):
            views.append(pixels(look=replace(LOOK, **{attribute: value == "yes"}), size=48))
        elif attribute in ("shirt", "wall"):
            views.append(pixels(look=replace(LOOK, **{attribute: value}), size=48))
        else:
            views.append(pixels(replace(WHO, **{attribute: value}), size=48))
    for a, b in combinations(views, 2):
        changed = np.abs(a - b).max(axis=-1) > 24
        assert changed.sum() >= 8, f"{attribute}: only {changed.sum()} pixels tell two values apart"


@pytest.mark.parametrize("hair", [style for style in CLASSES["hair_style"] if style != "bald"])
def test_hair_shows_below_a_hat(hair: str) -> None:
    hatted = replace(LOOK, hat=True)
    with_hair = pixels(replace(WHO, hair_style=hair), hatted, 48)
    without = pixels(replace(WHO, hair_style="bald"), hatted, 48)
    assert (np.abs(with_hair - without).max(axis=-1) > 24).sum() >= 8


def test_pose_moves_the_head() -> None:
    for moved in (replace(LOOK, dx=4.0), replace(LOOK, scale=0.93), replace(LOOK, tilt=0.08), replace(LOOK, smile=1.0)):
        assert not np.array_equal(pixels(look=moved), pixels())


def test_nobody_leaves_the_frame() -> None:
    """Hats and heads stay below the top edge in the tallest pose."""
    tall = replace(LOOK, dy=-3.0, scale=1.08)
    for face in FACES:
        top = pixels(replace(WHO, face=face), tall)[0]
        assert np.abs(top - CLOTH["teal"]).max() <= 60  # wall or the light disc behind the head, never hair


def test_contact_sheet(tmp_path) -> None:
    world = build_world("mini")
    rows = [[shot.draw() for shot in shots[:3]] for shots in list(world.shots.values())[:2]]
    contact_sheet(rows, tmp_path / "sheet.png", margin=4)
    with Image.open(tmp_path / "sheet.png") as page:
        assert page.size == (3 * 100 + 4, 2 * 100 + 4)
        assert np.array_equal(np.asarray(page)[4:100, 104:200], np.asarray(rows[0][1]))
