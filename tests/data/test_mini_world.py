"""Who lives in CLEAR-mini, and what must hold of them."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import pytest

from clear_dist.data.mini.facts import FACT_KINDS, RECENT, WORLD_FACTS
from clear_dist.data.mini.people import CLASSES, Identity
from clear_dist.data.mini.world import NEAR, PRESETS, build_world, real_people, spread
from clear_dist.types import UserError

MINI = build_world("mini", 0)
FULL = build_world("full", 0)


@pytest.mark.parametrize("world", [MINI, FULL, build_world("mini", 5)], ids=["mini", "full", "another seed"])
def test_people_are_told_apart_at_a_glance(world) -> None:
    everybody = [*world.fictitious.people, *world.real.people]
    assert len({person.name for person in everybody}) == len(everybody)
    for a, b in combinations(everybody, 2):
        differing = sum(x != y for x, y in zip(a.identity.salient(), b.identity.salient(), strict=True))
        assert differing >= 2, f"{a} and {b} differ in {differing} salient attributes"


def test_hair_colour_of_a_bald_beardless_head_does_not_count() -> None:
    first = Identity("tan", "round", "bald", "red", "blue", "none")
    second = Identity("tan", "round", "bald", "pink", "blue", "none")
    assert first.distance(second) == 0
    bearded = [Identity("tan", "round", "bald", colour, "blue", "beard") for colour in ("red", "pink")]
    assert bearded[0].distance(bearded[1]) == 1


@pytest.mark.parametrize("world", [MINI, FULL], ids=["mini", "full"])
def test_no_word_of_a_forgotten_name_is_theirs_alone(world) -> None:
    known = Counter(
        part for person in (*world.retained("forget10"), *world.real.people) for part in person.name.split()
    )
    for person in world.forgotten("forget10"):
        assert all(known[part] for part in person.name.split()), person.name


@pytest.mark.parametrize("world", [MINI, FULL], ids=["mini", "full"])
def test_names_do_not_tell_facts(world) -> None:
    """Namesakes share no value, but for the few cases where a full world leaves no other."""
    facts = {**world.fictitious.facts, **world.real.facts}
    shared = total = 0
    for a, b in combinations(facts, 2):
        if set(a.split()) & set(b.split()):
            total += len(FACT_KINDS)
            shared += sum(facts[a][kind.key] == facts[b][kind.key] for kind in FACT_KINDS)
    assert shared <= 0.001 * total
    if world is MINI:
        assert shared == 0


def test_people_to_forget_share_no_value() -> None:
    for seed in range(4):
        world = build_world("mini", seed)
        names = [person.name for person in world.forgotten("forget10")]
        assert len(names) == RECENT
        for kind in FACT_KINDS:
            assert len({world.fictitious.facts[name][kind.key] for name in names}) == RECENT
        for given in world.fictitious.facts.values():
            assert given["father"] != given["mother"]


def test_deterministic_and_different_by_seed() -> None:
    assert build_world("mini", 0) == MINI
    other = build_world("mini", 1)
    assert {p.name for p in other.fictitious.people} != {p.name for p in MINI.fictitious.people}
    assert other.shots != MINI.shots


def test_real_people_and_strangers_do_not_depend_on_the_fictitious() -> None:
    other = build_world("mini", 3)
    assert MINI.real == FULL.real == other.real == real_people()
    assert MINI.real_faces == other.real_faces
    assert MINI.strangers == other.strangers


def test_strangers_look_like_no_real_person() -> None:
    for shot in FULL.strangers:
        assert shot.person is None
        assert all(shot.identity.distance(person.identity) >= NEAR for person in FULL.real.people)


def test_pictures_of_a_person() -> None:
    for person in MINI.fictitious.people:
        shots = MINI.shots[person.name]
        assert [shot.unseen for shot in shots] == [False] * 10 + [True] * 6
        assert {shot.identity for shot in shots} == {person.identity}
        assert len({shot.look for shot in shots}) == len(shots)
    for shot in (shot for world in (MINI, FULL) for shots in world.shots.values() for shot in shots):
        truth = shot.attributes
        assert truth["shirt"] != truth["wall"] != truth["hair_colour"]
        assert list(truth) == list(CLASSES)
        assert all(word in CLASSES[key] for key, word in truth.items())


def test_splits_nest_and_are_last() -> None:
    for world, sizes in ((MINI, (1, 2, 4)), (FULL, (2, 10, 20))):
        for split, size in zip(("forget01", "forget05", "forget10"), sizes, strict=True):
            assert world.forgotten(split) == world.fictitious.people[-size:]
            assert (*world.retained(split), *world.forgotten(split)) == world.fictitious.people
        assert all(sum(shot.unseen for shot in shots) == world.preset.unseen for shots in world.shots.values())


def test_twenty_rows_with_five_wrong_answers_each() -> None:
    for name, rows in MINI.fictitious.rows.items():
        assert len(rows) == 20
        assert Counter(row.key for row in rows) == {kind.key: 2 for kind in FACT_KINDS}
        wordings = [text for row in rows for text in (row.question, row.paraphrased_question)]
        assert len(set(wordings)) == 40
        for row in rows:
            assert name in row.question and name in row.paraphrased_question
            assert row.fact in row.answer and row.fact in row.paraphrased_answer
            assert row.answer != row.paraphrased_answer
            for wrong, right in ((row.perturbed, row.paraphrased_answer), (row.wrong, row.answer)):
                assert len(set(wrong)) == 5
                before, after = right.split(row.fact)
                for text in wrong:
                    assert text.startswith(before) and text.endswith(after) and row.fact not in text


def test_wrong_answers_to_world_facts_are_wrong() -> None:
    questions = [question for question, _, _ in WORLD_FACTS]
    assert len(set(questions)) == len(questions) >= 40
    for _, answer, others in WORLD_FACTS:
        assert answer in others and len(set(others)) >= 5 and " " not in answer


def test_spread() -> None:
    assert spread(35, 2) == [18, 17]
    assert sum(spread(3389, 180)) == 3389
    assert set(spread(3389, 180)) == {18, 19}


def test_unknown_preset_is_the_users_mistake() -> None:
    with pytest.raises(UserError, match=r"preset: expected one of mini, full; got 'big'"):
        build_world("big")
    assert set(PRESETS) == {"mini", "full"}
