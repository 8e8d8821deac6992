"""People to faces: against all assignments there are, whatever order things come in, and what is said of shortages."""

from __future__ import annotations

import math
import random
from itertools import permutations

import pytest

from clear_dist.data.build.faces import Face
from clear_dist.data.build.matching import Matching, Wanted, Weights, match, wanted
from clear_dist.data.build.person import GENDERS, GROUPS, Found, Gender, Group, Row, Subject
from clear_dist.errors import UserError


def face(face_id: str, age: int | None = 30, gender: Gender | None = None, group: Group | None = None) -> Face:
    return Face(face_id, age, gender, group, 0.0, "", face_id, face_id.encode)


def cost_of(person: Wanted, one: Face, weights: Weights) -> float:
    """The cost as the page has it, written again."""
    age = 0.5 if person.age is None or one.age is None else abs(person.age - one.age) / 10
    gender = 0.5 if person.gender is None or one.gender is None else float(person.gender != one.gender)
    group = 0.5 if person.group is None or one.group is None else float(person.group != one.group)
    return weights.age * age + weights.gender * gender + weights.group * group


def by_force(people: list[Wanted], faces: list[Face], weights: Weights) -> tuple[float, list[dict[str, str]]]:
    """The least total, and every assignment that has it."""
    totals = [
        (sum(cost_of(person, one, weights) for person, one in zip(people, chosen, strict=True)), chosen)
        for chosen in permutations(faces, len(people))
    ]
    least = min(total for total, _ in totals)
    best = [chosen for total, chosen in totals if total < least + 1e-9]
    return least, [{person.name: one.id for person, one in zip(people, chosen, strict=True)} for chosen in best]


def instance(rng: random.Random, people: int, faces: int, kinds: int) -> tuple[list[Wanted], list[Face], Weights]:
    """Few values, so that many assignments are equally good."""

    def traits() -> tuple[int | None, Gender | None, Group | None]:
        return (
            rng.choice([None, *range(20, 20 + 5 * kinds, 5)]),
            rng.choice([None, *GENDERS[:kinds]]),
            rng.choice([None, *GROUPS[:kinds]]),
        )

    names = rng.sample("abcdefghij", people)
    ids = rng.sample("klmnopqrst", faces)
    weights = Weights(*(rng.choice([0.0, 0.5, 1.0, 2.25]) for _ in range(3)))
    return [Wanted(name, *traits()) for name in names], [face(i, *traits()) for i in ids], weights


def pairs_of(result: Matching) -> dict[str, str]:
    return {pair.name: pair.face for pair in result.pairs}


SIZES = [(people, faces) for people in range(1, 7) for faces in range(people, 8)]
EACH = 15  # instances of a size


@pytest.mark.parametrize(("people", "faces"), SIZES)
def test_total_choice_and_ties_are_those_of_all_assignments(people: int, faces: int) -> None:
    tied = 0
    for number in range(EACH):
        rng = random.Random(f"{people}x{faces}/{number}")
        persons, there, weights = instance(rng, people, faces, 1 + number % 3)
        result = match(persons, there, weights)
        least, best = by_force(persons, there, weights)
        assert result.total == pytest.approx(least, abs=1e-9)
        assert sum(pair.cost for pair in result.pairs) == pytest.approx(least, abs=1e-9)
        names = sorted(person.name for person in persons)
        assert pairs_of(result) == min(best, key=lambda chosen: [chosen[name] for name in names])
        for pair in result.pairs:
            assert pair.others == len({chosen[pair.name] for chosen in best}) - 1
        tied += bool(result.ties)
    assert tied or faces == 1, "the instances have no ties: the test would not see a wrong rule"


def test_more_than_three_hundred_instances_are_compared() -> None:
    assert EACH * len(SIZES) >= 300


def test_order_of_people_and_faces_does_not_matter() -> None:
    for number in range(40):
        rng = random.Random(f"order/{number}")
        people, faces, weights = instance(rng, 6, 10, 2)
        before = match(people, faces, weights)
        rng.shuffle(people)
        rng.shuffle(faces)
        after = match(people, faces, weights)
        assert [pair.name for pair in after.pairs] == [person.name for person in people]
        assert set(after.pairs) == set(before.pairs)
        assert (after.total, after.shortages) == (before.total, before.shortages)


def test_costs_are_given_by_part() -> None:
    people = [Wanted("Ada", 70, "female", "european"), Wanted("Bo", None, None, "african")]
    faces = [face("x", 45, "male", "pacific"), face("y", 30, "male", "african")]
    by_name = {pair.name: pair for pair in match(people, faces, Weights(age=2, gender=3, group=5)).pairs}
    ada, bo = by_name["Ada"], by_name["Bo"]
    assert (ada.face, ada.age, ada.gender, ada.group, ada.cost) == ("x", 5.0, 3.0, 5.0, 13.0)
    assert (bo.face, bo.age, bo.gender, bo.group, bo.cost) == ("y", 1.0, 1.5, 0.0, 2.5)
    assert (ada.relaxed, bo.relaxed) == (("gender", "group"), ("gender",))


def test_gender_counts_more_than_group_and_both_more_than_a_few_years() -> None:
    ada = Wanted("Ada", 60, "female", "european")
    near = face("a", 25, "female", "european")
    group, gender = face("b", 60, "female", "african"), face("c", 60, "male", "european")
    assert pairs_of(match([ada], [near, group, gender])) == {"Ada": "a"}
    assert pairs_of(match([ada], [group, gender])) == {"Ada": "b"}


def test_nobody_gets_nothing_and_one_person_the_first_of_equal_faces() -> None:
    assert match([], [face("a")]).pairs == ()
    result = match([Wanted("Ada", 30)], [face("b"), face("a"), face("c", 31)])
    assert pairs_of(result) == {"Ada": "a"}
    assert (result.ties, result.pairs[0].others) == (("Ada",), 1)


def test_an_only_best_assignment_has_no_ties() -> None:
    people = [Wanted("Ada", 20), Wanted("Bo", 40)]
    assert match(people, [face("a", 41), face("b", 22), face("c", 90)]).ties == ()


def test_shortages_name_the_group_and_what_was_given_up() -> None:
    people = [Wanted(name, 30, "female", "african") for name in "abc"] + [Wanted("d", 30, "male", "pacific")]
    faces = [face("1", 30, "female", "african"), face("2", 30, "female", "european"), face("3", 30, "male", "african")]
    result = match(people, [*faces, face("4", 30, "male", "pacific")])
    (shortage,) = result.shortages
    assert (shortage.gender, shortage.group, shortage.people, shortage.faces) == ("female", "african", 3, 1)
    assert (shortage.short, shortage.relaxed) == (2, {"gender": 1, "group": 1})


def test_fewer_faces_than_people_are_refused_with_the_groups_that_are_short() -> None:
    people = [Wanted(str(number), 30, "female", "pacific") for number in range(3)]
    with pytest.raises(UserError, match=r"2 for 3 people.*female pacific by 2"):
        match(people, [face("a", 30, "female", "pacific"), face("b", 30, "male", "pacific")])
    with pytest.raises(UserError, match="0 for 1 people"):
        match([Wanted("Ada")], [])


def test_names_and_ids_that_occur_twice_are_refused() -> None:
    with pytest.raises(UserError, match="person 'Ada'"):
        match([Wanted("Ada"), Wanted("Ada")], [face("a"), face("b")])
    with pytest.raises(UserError, match="face 'a'"):
        match([Wanted("Ada")], [face("a"), face("a")])


@pytest.mark.parametrize("name", ["age", "gender", "group"])
@pytest.mark.parametrize("value", [math.nan, -0.1, math.inf, -math.inf, 1e9])
def test_weights_are_finite_and_not_negative(name: str, value: float) -> None:
    with pytest.raises(UserError, match=f"matching.{name}"):
        Weights(**{name: value})


def test_wanted_takes_what_was_found() -> None:
    subject = Subject(Found("Ada Example"), Found("1950-02-01"), gender=Found("female"), group=Found("pacific"))
    assert wanted(subject, 2024) == Wanted("Ada Example", 74, "female", "pacific")
    assert wanted(Subject(Found("Bo")), 2024) == Wanted("Bo")


def test_wanted_refuses_no_name_and_values_there_are_none_of() -> None:
    with pytest.raises(UserError, match="line 41"):
        wanted(Subject(Found(None), rows=(Row(41, "Who?", "Nobody."),)), 2024)
    with pytest.raises(UserError, match=r"Ada: gender.*femael"):
        wanted(Subject(Found("Ada"), gender=Found("femael")), 2024)
    with pytest.raises(UserError, match=r"Ada: group.*martian"):
        wanted(Subject(Found("Ada"), group=Found("martian")), 2024)


def test_at_the_papers_size_no_swap_and_no_free_face_is_cheaper() -> None:
    rng = random.Random("size")
    people = [
        Wanted(f"person {i}", rng.randrange(20, 95), rng.choice(GENDERS[:2]), rng.choice(GROUPS)) for i in range(200)
    ]
    faces = [face(f"f{i}", rng.randrange(18, 60), rng.choice(GENDERS[:2]), rng.choice(GROUPS)) for i in range(2000)]
    result = match(people, faces)
    by_id = {one.id: one for one in faces}
    weights = Weights()
    chosen = [by_id[pair.face] for pair in result.pairs]
    assert len({one.id for one in chosen}) == 200
    costs = [[cost_of(person, one, weights) for one in chosen] for person in people]
    for i in range(200):
        for j in range(i):
            assert costs[i][i] + costs[j][j] <= costs[i][j] + costs[j][i] + 1e-9
    free = [one for one in faces if one not in chosen]
    for i, person in enumerate(people):
        assert costs[i][i] <= min(cost_of(person, one, weights) for one in free) + 1e-9
    assert set(match(people[::-1], faces[::-1]).pairs) == set(result.pairs)
