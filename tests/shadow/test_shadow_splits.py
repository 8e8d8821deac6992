"""Who is forgotten, held out and learned: both designs, balanced, seeded, and refused where it cannot be."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from clear_dist.errors import UserError
from clear_dist.shadow.splits import Split, draw_split, enrolment_pictures, training_sets


@pytest.fixture
def split() -> Split:
    return draw_split(60, 6, 5, 10, seed=3)


def test_every_identity_is_in_one_group(split: Split) -> None:
    groups = (split.pretrain, split.forget, split.holdout, split.other)
    assert [len(g) for g in groups] == [10, 6, 5, 39]
    assert sorted(i for g in groups for i in g) == list(range(60))
    assert all(list(g) == sorted(g) for g in groups)
    assert split.attacked == tuple(sorted((*split.forget, *split.holdout, *split.other)))
    assert {split.group(i) for i in split.forget} == {"forget"}
    assert {split.group(i) for i in split.holdout} == {"holdout"}
    assert {split.group(i) for i in split.other} == {"other"}


def test_a_seed_decides_and_another_differs(split: Split) -> None:
    assert draw_split(60, 6, 5, 10, seed=3) == split
    assert draw_split(60, 6, 5, 10, seed=4).forget != split.forget


def test_fixed_block_is_the_published_design(split: Split) -> None:
    sets = training_sets(split, 8, "fixed_block", None, seed=0)
    assert [len(s) for s in sets] == [25] * 8
    for mine in sets[:4]:
        assert set(split.forget) <= set(mine) and not set(split.holdout) & set(mine)
    for mine in sets[4:]:
        assert set(split.holdout) <= set(mine) and not set(split.forget) & set(mine)
    assert len(set(sets)) == 8, "each draws its own others"
    assert not any(set(split.pretrain) & set(mine) for mine in sets)
    assert all(len(s) == 12 for s in training_sets(split, 4, "fixed_block", 12, seed=0))


def test_matched_never_saw_is_what_gold_is(split: Split) -> None:
    sets = training_sets(split, 8, "matched", None, seed=0)
    published = training_sets(split, 8, "fixed_block", None, seed=0)
    assert sets[:4] == published[:4] and [len(s) for s in sets] == [25] * 4 + [19] * 4
    for mine, gold in zip(sets[4:], sets[:4], strict=True):
        assert not set(mine) & {*split.forget, *split.holdout, *split.pretrain}
        assert len(mine) == len(set(gold) - set(split.forget))
    assert not any(set(split.holdout) & set(mine) for mine in sets)
    assert len(set(sets)) == 8


def test_random_half_puts_every_identity_into_half_of_the_models(split: Split) -> None:
    sets = training_sets(split, 10, "random_half", None, seed=0)
    seen = Counter(i for mine in sets for i in mine)
    assert seen == dict.fromkeys(split.attacked, 5)
    for first, second in zip(sets[::2], sets[1::2], strict=True):
        assert sorted((*first, *second)) == list(split.attacked)
    assert len(set(sets)) == 10


@pytest.mark.parametrize(
    ("identities", "forget", "holdout", "pretrain", "said"),
    [
        (39, 20, 20, 0, r"39 identities .* 41\. Lower"),
        (60, 20, 20, 20, "Lower --forget"),
        (60, 0, 20, 0, "--forget 0: expected at least 1"),
        (60, 3, 0, 0, "--holdout 0: expected at least 1"),
    ],
)
def test_too_few_identities_are_refused(identities: int, forget: int, holdout: int, pretrain: int, said: str) -> None:
    with pytest.raises(UserError, match=said):
        draw_split(identities, forget, holdout, pretrain, 0)


@pytest.mark.parametrize("models", [0, 2, 5, 7])
def test_models_come_in_two_halves(split: Split, models: int) -> None:
    with pytest.raises(UserError, match=f"--models {models}: expected an even number of at least 4"):
        training_sets(split, models, "fixed_block", None, 0)


@pytest.mark.parametrize(
    ("size", "design"), [(5, "fixed_block"), (46, "fixed_block"), (6, "matched"), (12, "random_half")]
)
def test_a_size_that_cannot_be_is_refused(split: Split, size: int, design: str) -> None:
    with pytest.raises(UserError, match=f"--identities {size}: "):
        training_sets(split, 4, design, size, 0)  # pyright: ignore[reportArgumentType]


def test_enrolment_pictures_are_drawn_for_each_identity() -> None:
    labels = [0] * 7 + [1] * 9 + [2] * 6
    chosen = enrolment_pictures(labels, 5, seed=1)
    assert Counter(label for label, mine in zip(labels, chosen, strict=True) if mine) == {0: 5, 1: 5, 2: 5}
    assert enrolment_pictures(labels, 5, seed=1) == chosen
    assert any(enrolment_pictures(labels, 5, seed=s) != chosen for s in range(2, 6))
    # Another identity's pictures do not move anybody's choice.
    assert enrolment_pictures(labels[:7] + [1] * 6, 5, seed=1)[:7] == chosen[:7]


@pytest.mark.parametrize(
    ("labels", "count", "said"), [([0, 0, 1, 1, 1], 2, "identity 0: 2 pictures"), ([0, 0], 0, "--enrol 0")]
)
def test_an_identity_without_a_picture_to_attack_is_refused(labels: list[int], count: int, said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        enrolment_pictures(labels, count, 0)
