"""The drawer's faces: told apart, the same by id, and what shows of age, gender and group."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest

from clear_dist.data.build.face_drawer import _WEIGHTS, Drawn, DrawnFaces, _numbers
from clear_dist.data.build.faces import Quality, Wish, collect, shift_for
from clear_dist.data.build.person import GENDERS, GROUPS, OLD
from clear_dist.errors import UserError

DRAWN = DrawnFaces()
POOL = [kept_face for _, kept_face in collect(DRAWN, 0, Quality(until=240))]


def test_drawn_faces_are_told_apart() -> None:
    assert len({one.look for one in POOL}) == len({one.picture().digest for one in POOL}) == 240
    for a, b in combinations(POOL[:80], 2):
        assert DRAWN.drawn(a.id).identity.distance(DRAWN.drawn(b.id).identity) > 0


def test_drawn_faces_depend_on_their_id_alone() -> None:
    late = list(DrawnFaces().draw(3, 0, 5))
    assert late == list(DRAWN.draw(8, 0))[5:]
    assert [one.read() for one in late] == [DRAWN.face(one.id).read() for one in late]


def test_drawn_faces_have_every_gender_and_group_and_none_prevails() -> None:
    genders, groups = Counter(one.gender for one in POOL), Counter(one.group for one in POOL)
    assert set(genders) == set(GENDERS)
    assert set(groups) == set(GROUPS)
    assert max(genders.values()) < 0.65 * len(POOL)
    assert max(groups.values()) < 0.25 * len(POOL)


def test_shares_and_ages_are_those_asked_for() -> None:
    source = DrawnFaces(ages=[(70, 71, 1)], genders={"female": 1}, groups={"pacific": 1, "african": 1})
    faces = list(source.draw(100, 0))
    assert {one.age for one in faces} == {70, 71}
    assert {one.gender for one in faces} == {"female"}
    assert {one.group for one in faces} == {"pacific", "african"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"ages": []},
        {"ages": [(30, 20, 1)]},
        {"ages": [(-1, 20, 1)]},
        {"ages": [(20, 30, 0)]},
        {"ages": [(20, 30, float("nan"))]},
        {"genders": {"femal": 1}},
        {"genders": {"female": -1, "male": 2}},
        {"groups": {"pacific": 0}},
        {"groups": {"pacific": float("inf")}},
    ],
)
def test_shares_by_which_nothing_can_be_drawn_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=rf"faces\.{next(iter(wrong))}"):
        DrawnFaces(**wrong)


def test_the_score_is_a_rank_of_what_is_new_whatever_the_gender() -> None:
    faces = list(DRAWN.draw(2000, 0))
    assert all(0 <= one.score <= 1 for one in faces)
    for gender in ("female", "male"):
        scores = [one.score for one in faces if one.gender == gender]
        assert 0.4 < sum(scores) / len(scores) < 0.6


def test_distances_are_those_of_the_mini_dataset() -> None:
    drawn = [DRAWN.drawn(f"drawn/0/{i}").identity for i in range(60)]
    codes = np.array([_numbers(identity) for identity in drawn])
    for i, j in combinations(range(60), 2):
        assert (codes[i] != codes[j]) @ _WEIGHTS == drawn[i].distance(drawn[j])


def test_age_shows() -> None:
    for one in POOL:
        drawn = DRAWN.drawn(one.id)
        assert one.age is not None
        if one.age > OLD:
            assert drawn.identity.hair_colour == "grey"
            assert drawn.lines >= 3
        if one.age < 40:
            assert drawn.identity.hair_colour != "grey"
            assert drawn.lines == 0


def test_group_shows_in_skin_and_gender_in_beards() -> None:
    drawn = [DRAWN.drawn(one.id) for one in POOL]
    assert {one.young.facial_hair for one in drawn if one.gender == "female"} == {"none"}
    assert {one.young.facial_hair for one in drawn if one.gender == "male"} == {"none", "beard", "moustache"}
    assert not {one.young.skin for one in drawn if one.group == "european"} & {"brown", "dark"}
    assert not {one.young.skin for one in drawn if one.group == "african"} & {"pale", "light"}


def changed(a: Drawn, b: Drawn) -> float:
    """The share of pixels that differ."""
    first, second = (np.asarray(one.picture(), np.int16) for one in (a, b))
    return float((np.abs(first - second).max(axis=2) > 8).mean())


def test_an_older_face_is_the_same_person_with_grey_hair_and_lines() -> None:
    young = next(one for one in POOL if one.age is not None and one.age < 30)
    old = DRAWN.shift(young, 45)
    assert young.age is not None
    assert old.age == young.age + 45
    assert (old.id, old.gender, old.group) == (f"{young.id}@{old.age}", young.gender, young.group)
    before, after = DRAWN.drawn(young.id), DRAWN.drawn(old.id)
    assert replace(after.identity, hair_colour=before.identity.hair_colour) == before.identity
    assert after.look == before.look
    assert DRAWN.shift(old, -45).read() == young.read()
    assert DRAWN.face(old.id) == old
    assert changed(before, after) > 0.01


def test_every_decade_from_forty_adds_lines() -> None:
    drawn = replace(DRAWN.drawn(POOL[0].id), grey_from=200)
    by_age = [replace(drawn, age=age) for age in (20, 39, 40, 50, 60, 70, 90)]
    assert [one.lines for one in by_age] == [0, 0, 1, 2, 3, 4, 4]
    assert [changed(a, b) > 0 for a, b in pairwise(by_age)] == [False, *[True] * 4, False]


@pytest.mark.parametrize(
    "wrong", ["", "drawn/0", "drawn/0/100000", "drawn/0/1@", "made/0/1", "drawn/0/1/../2", "drawn/٣/1"]
)
def test_an_id_that_no_drawn_face_has_is_refused(wrong: str) -> None:
    with pytest.raises(UserError, match="not a drawn face"):
        DRAWN.face(wrong)


def test_shifted_faces_of_a_pool_still_differ() -> None:
    wishes: list[Wish] = [
        (age, gender, group) for age in range(62, 90, 3) for gender in GENDERS[:2] for group in GROUPS[:4]
    ]
    result = shift_for(POOL, wishes, DRAWN)
    assert len(result.moved) > 20
    assert len({one.look for one in result.pool}) == len(POOL)
