"""Drawn people as identities: all different, each seen differently, and cached like pictures from files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from clear_dist.data.identities import load_identities
from clear_dist.data.mini.people import distances
from clear_dist.data.mini.portraits import portrait_shots, portraits
from clear_dist.types import UserError


def test_no_two_people_are_the_same_and_few_are_well_apart() -> None:
    shots = portrait_shots(300, 1)
    faces = [some[0].identity for some in shots.values()]
    assert len({face.code() for face in faces}) == len(shots) == 300
    apart = distances(faces[:40], faces[:40]) + 9 * np.eye(40)
    assert apart.min() >= 2.0
    assert len({face.skin for face in faces}) == 5 and any(face.bald for face in faces)


def test_a_person_looks_different_every_time_but_stays_the_same_person() -> None:
    for name, shots in portrait_shots(20, 8).items():
        assert len({shot.identity for shot in shots}) == 1
        assert len({shot.look for shot in shots}) == 8
        assert {shot.person for shot in shots} == {name}


def test_more_people_and_pictures_leave_the_first_ones_as_they_were() -> None:
    few, many = portrait_shots(5, 3), portrait_shots(9, 4)
    assert {name: many[name][:3] for name in few} == few
    other = portrait_shots(5, 3, seed=1)
    assert list(other) == list(few) and other != few


def test_everybody_there_can_be_and_no_more() -> None:
    faces = [shots[0].identity.code() for shots in portrait_shots(7245, 1).values()]
    assert len(set(faces)) == 7245
    with pytest.raises(UserError, match="1 to 7245 people"):
        portrait_shots(7246, 1)


def test_the_source_holds_what_is_drawn(tmp_path: Path) -> None:
    found = load_identities("clear-mini:11x3", 24, tmp_path)
    drawn = list(portraits(11, 3, size=24))
    assert found.names[-1] == "person_0010" and found.ids[4] == "person_0001/1"
    assert [(found.names[label], int(i.split("/")[1])) for label, i in zip(found.labels, found.ids, strict=True)] == [
        (name, index) for name, index, _ in drawn
    ]
    expected = np.stack([np.asarray(image).transpose(2, 0, 1) for _, _, image in drawn])
    assert torch.equal(found.pixels, torch.from_numpy(expected))
    assert load_identities("clear-mini:11x3", 24, tmp_path, workers=1).digest == found.digest
    assert len(list(tmp_path.iterdir())) == 1


def test_pictures_of_a_person_are_nearer_to_each_other_than_to_others(tmp_path: Path) -> None:
    # The middle of the head, where shirt and wall do not show: what a model may recognise people by.
    found = load_identities("clear-mini:12x6", 32, tmp_path)
    heads = found.pixels[:, :, 12:20, 12:20].float().flatten(1)
    apart = torch.cdist(heads, heads)
    mine = found.labels[:, None] == found.labels[None]
    others = apart[~mine].mean()
    assert apart[mine & ~torch.eye(len(heads), dtype=torch.bool)].mean() < 0.8 * others


def test_the_default_is_120_people_with_12_pictures_each(monkeypatch: pytest.MonkeyPatch) -> None:
    from clear_dist.data.identity_source import list_source

    listing = list_source("clear-mini", 1)
    assert len(listing.ids) == 1440 and len(set(listing.names)) == 120
    assert listing.content != list_source("clear-mini:119x12", 1).content
    assert listing.content == list_source("clear-mini:120x12", 1).content
