"""The pool of faces: what is kept, going on after an interruption, and the age shift."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

from clear_dist.data.build.face_drawer import DrawnFaces
from clear_dist.data.build.faces import Face, Kept, Quality, collect, restored, shift_ages, shift_for
from clear_dist.data.build.person import Gender, Group
from clear_dist.errors import UserError

SMALL = Quality(of=8, best=2, until=20)


def face(
    face_id: str,
    age: int | None = 30,
    score: float = 0.0,
    look: str = "",
    gender: Gender | None = None,
    group: Group | None = None,
) -> Face:
    return Face(face_id, age, gender, group, score, look, f"test {face_id}", face_id.encode)


class Listed:
    """A source of the faces it is given."""

    def __init__(self, faces: list[Face]) -> None:
        self.faces = faces
        self.drawn: list[int] = []

    def draw(self, count: int, seed: int, first: int = 0) -> Iterator[Face]:
        self.drawn.append(first)
        yield from self.faces[first : first + count]

    def face(self, face_id: str) -> Face:
        return next(face for face in self.faces if face.id == face_id)


class Older:
    """An age shift that says what it was asked."""

    def __init__(self, look: str = "") -> None:
        self.look = look

    def shift(self, face: Face, years: int) -> Face:
        assert face.age is not None
        return replace(face, id=f"{face.id}+{years}", age=face.age + years, look=self.look and f"{self.look}{face.id}")


def ids(source: Listed | DrawnFaces, quality: Quality, done: list[Kept] | None = None) -> list[str]:
    return [kept.id for kept, _ in collect(source, 0, quality, done or [])]


def test_the_best_of_every_group_are_kept_until_there_are_enough() -> None:
    scores = [3, 1, 9, 3, 0, 5, 5, 5, 1, 2, 3, 4]
    source = Listed([face(str(i), score=score) for i, score in enumerate(scores)])
    assert ids(source, Quality(of=4, best=2, until=5)) == ["2", "0", "5", "6", "11"]
    assert source.drawn == [0, 4, 8]


def test_the_last_group_of_a_short_source_gives_the_same_share() -> None:
    source = Listed([face(str(i), score=i) for i in range(11)])
    assert ids(source, Quality(of=8, best=4, until=100)) == ["7", "6", "5", "4", "10", "9"]
    assert len(ids(source, Quality(of=8, best=8, until=100))) == 11


def test_a_face_that_is_no_number_is_worth_least() -> None:
    source = Listed([face("a", score=float("nan")), face("b", score=-5.0), face("c", score=1.0)])
    assert ids(source, Quality(of=3, best=3)) == ["c", "b", "a"]


def test_faces_that_look_like_one_of_the_pool_are_passed_over() -> None:
    looks = ["red", "red", "blue", "blue", "red", "blue", "", ""]
    source = Listed([face(str(i), score=-i, look=look) for i, look in enumerate(looks)])
    assert ids(source, Quality(of=4, best=2)) == ["0", "2", "6", "7"]


def test_a_source_that_gives_nothing_new_is_given_up_with_what_there_was() -> None:
    class Same(Listed):
        def draw(self, count: int, seed: int, first: int = 0) -> Iterator[Face]:
            yield from (face(str(i), look=f"look {i % 3}") for i in range(first, first + count))

    found: list[str] = []
    with pytest.raises(UserError, match=r"10 faces were asked for.*no more than 3.*7 groups of 4"):
        for kept, _ in collect(Same([]), 0, Quality(of=4, best=2, until=10, dry=7)):
            found.append(kept.id)
    assert len(found) == 3


def test_going_on_from_any_place_gives_the_same_pool() -> None:
    whole = [kept for kept, _ in collect(DrawnFaces(), 3, SMALL)]
    assert len(whole) == 20
    for cut in range(21):
        done = whole[:cut]
        assert done + [kept for kept, _ in collect(DrawnFaces(), 3, SMALL, done)] == whole


def test_going_on_counts_dry_groups_as_if_it_had_not_stopped() -> None:
    faces = [face(str(i), look="one look") for i in range(12)] + [face("last")]
    quality = Quality(of=2, best=1, until=5, dry=6)
    whole = [kept for kept, _ in collect(Listed(faces), 0, quality)]
    assert [kept.id for kept in whole] == ["0", "last"]
    assert [kept for kept, _ in collect(Listed(faces), 0, quality, whole[:1])] == whole[1:]


def test_what_was_kept_is_given_again_and_other_bytes_are_refused() -> None:
    pool = list(collect(DrawnFaces(), 1, SMALL))
    assert restored(DrawnFaces(), [kept for kept, _ in pool]) == [face for _, face in pool]
    changed = [pool[0][0], replace(pool[1][0], digest="0" * 64)]
    with pytest.raises(UserError, match=f"{pool[1][0].id}.*changed"):
        list(collect(DrawnFaces(), 1, SMALL, changed))


@pytest.mark.parametrize("wrong", [{"of": 0}, {"best": 0}, {"until": -1}, {"dry": 0}, {"of": 4, "best": 5}])
def test_numbers_that_keep_nothing_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UserError, match=r"faces\."):
        Quality(**wrong)


def test_ages_are_shifted_only_where_the_pool_has_none() -> None:
    pool = [face("a", 25), face("b", 31), face("c", 64), face("d", None)]
    result = shift_ages(pool, [27, 33, 60], Older())
    assert (result.pool, result.moved, result.unmet) == (tuple(pool), (), ())


def test_the_nearest_free_face_is_moved_to_the_age_that_is_missing() -> None:
    pool = [face("a", 25), face("b", 40), face("c", 44)]
    result = shift_ages(pool, [24, 70, 90], Older())
    assert result.moved == (("c", "c+26", 26), ("b", "b+50", 50))
    assert [one.age for one in result.pool] == [25, 90, 70]


def test_ages_beyond_the_last_face_are_told() -> None:
    assert shift_ages([face("a", 30)], [70, 80], Older()).unmet == (80,)
    assert shift_ages([face("a", None)], [70], Older()).unmet == (70,)
    with pytest.raises(UserError, match="slack"):
        shift_ages([], [], Older(), slack=-1)


def test_a_shifted_face_that_would_look_like_another_is_not_used() -> None:
    pool = [face("a", 40, look="old b"), face("b", 50, look="x"), face("c", 30, look="y")]
    result = shift_ages(pool, [40, 70], Older("old "))
    assert result.moved == (("c", "c+40", 40),)
    assert shift_ages(pool, [40, 70], Older("old "), taken={"old c"}).unmet == (70,)


def most_served(ages: list[int], wanted: list[int], slack: int) -> int:
    """How many wanted ages can have a face of their own, tried out."""
    if not wanted:
        return 0
    best = most_served(ages, wanted[1:], slack)
    for at, age in enumerate(ages):
        if abs(age - wanted[0]) <= slack:
            best = max(best, 1 + most_served(ages[:at] + ages[at + 1 :], wanted[1:], slack))
    return best


def test_no_more_faces_are_moved_than_must_be() -> None:
    for number in range(200):
        rng = random.Random(f"ages/{number}")
        ages = [rng.randrange(20, 50) for _ in range(rng.randrange(1, 7))]
        wanted = [rng.randrange(20, 60) for _ in range(rng.randrange(1, len(ages) + 1))]
        slack = rng.randrange(6)
        result = shift_ages([face(str(i), age) for i, age in enumerate(ages)], wanted, Older(), slack)
        assert len(result.moved) == len(wanted) - most_served(ages, wanted, slack)
        after = [one.age for one in result.pool if one.age is not None]
        assert most_served(after, wanted, slack) == len(wanted)


def test_ages_are_shifted_within_gender_and_group() -> None:
    pool = [
        face("a", 70, gender="male", group="african"),
        face("b", 30, gender="female", group="african"),
        face("c", 30, gender="female", group="pacific"),
    ]
    result = shift_for(pool, [(70, "female", "african"), (70, None, "pacific"), (None, "male", "african")], Older())
    assert result.moved == (("b", "b+40", 40),)
    assert shift_for(pool, [(70, "male", "pacific")], Older()).unmet == (70,)
