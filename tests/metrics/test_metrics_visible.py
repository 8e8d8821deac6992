"""Visible attributes: exactly right on CLEAR-mini's own wording, and on how others put it."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest

from clear_dist.data.mini import text
from clear_dist.data.mini.world import Shot, real_people, stranger
from clear_dist.metrics.visible import VisibleScore, claims, mentioned

TRUTH = {
    "skin": "pale",
    "face": "round",
    "hair_style": "short",
    "hair_colour": "grey",
    "eyes": "blue",
    "facial_hair": "beard",
    "shirt": "red",
    "wall": "white",
    "glasses": "yes",
    "hat": "no",
}


def stated(answer: str) -> list[tuple[str, str]]:
    """(attribute, value), a denial written as "not value"."""
    return [(c.attribute, f"not {c.value}" if c.denied else c.value) for c in claims(answer)]


@pytest.fixture(scope="module")
def shots() -> list[Shot]:
    rng, real = Random(1), real_people().people
    return [stranger(rng, real) for _ in range(300)]


def shown(shot: Shot) -> set[str]:
    """Attributes there are to be seen, but for the eyes, which no text mentions."""
    return {name for name, value in shot.attributes.items() if value not in ("no", "none")} - {"eyes"}


def test_clear_mini_texts_are_exactly_right(shots: list[Shot]) -> None:
    for shot in shots:
        identity, look, truth = shot.identity, shot.look, shot.attributes
        possible = len(shown(shot)) + 1
        described = mentioned(text.description(identity, look), truth)
        assert described == VisibleScore(possible - 1, 0, possible)
        for caption in (text.caption, text.paraphrased_caption):
            said = mentioned(caption("Rosa Silva", identity, look), truth)
            assert said == VisibleScore(len(shown(shot) - {"skin", "face"}), 0, possible)


def test_the_text_of_another_picture_is_wrong_where_they_differ(shots: list[Shot]) -> None:
    """Counted from the two pictures' attributes alone. Of what is absent nothing is said in these texts."""
    for mine, other in pairwise(shots):
        said, truth = {name: other.attributes[name] for name in shown(other)}, mine.attributes
        score = mentioned(text.description(other.identity, other.look), truth)
        right = {name for name, value in said.items() if truth[name] == value}
        assert score == VisibleScore(len(right), len(said) - len(right), len(shown(mine)) + 1)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("short, grey hair and blue eyes", [("hair_style", "short"), ("hair_colour", "grey"), ("eyes", "blue")]),
        ("short and grey hair", [("hair_style", "short"), ("hair_colour", "grey")]),
        ("a round face, long hair", [("face", "round"), ("hair_style", "long")]),
        ("glasses and curly hair", [("glasses", "yes"), ("hair_style", "curly")]),
        ("A blonde woman in a red t-shirt", [("hair_colour", "blond"), ("shirt", "red")]),
        ("blonde hair", [("hair_colour", "blond")]),
        ("a bearded redhead", [("facial_hair", "beard"), ("hair_colour", "red")]),
        ("a light blue top by a dark green backdrop", [("shirt", "blue"), ("wall", "green")]),
        ("dark-skinned, round-faced, blue-eyed", [("skin", "dark"), ("face", "round"), ("eyes", "blue")]),
        ("The hair is dark brown, the eyes are blue.", [("hair_colour", "brown"), ("eyes", "blue")]),
        ("The hair is long and very dark brown.", [("hair_style", "long"), ("hair_colour", "brown")]),
        ("Skin tone is pale and the face is square.", [("skin", "pale"), ("face", "square")]),
        ("hair in braids", [("hair_style", "braided")]),
        ("The person has a blue hat and a red shirt", [("hat", "yes"), ("shirt", "red")]),
        ("gray mustache", [("facial_hair", "moustache")]),
        ("no hair", [("hair_style", "bald")]),
        ("Hair: long & black; shirt: blue.", [("hair_style", "long"), ("hair_colour", "black"), ("shirt", "blue")]),
        (
            "- **Shirt:** red\n- Hair colour: grey\n- Hat: yes",
            [("shirt", "red"), ("hair_colour", "grey"), ("hat", "yes")],
        ),
        ("Visible: a red shirt", [("shirt", "red")]),
        ("She is smiling.", []),
        ("", []),
    ],
)
def test_what_is_stated(answer: str, expected: list[tuple[str, str]]) -> None:
    assert stated(answer) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("no hat, but glasses", [("hat", "not yes"), ("glasses", "yes")]),
        ("without glasses or a hat", [("glasses", "not yes"), ("hat", "not yes")]),
        ("without glasses and hat", [("glasses", "not yes"), ("hat", "not yes")]),
        ("no hat and a red shirt", [("hat", "not yes"), ("shirt", "red")]),
        ("no hat, glasses", [("hat", "not yes"), ("glasses", "yes")]),
        ("She doesn't wear a hat.", [("hat", "not yes")]),
        ("He is not wearing any glasses. He wears a hat.", [("glasses", "not yes"), ("hat", "yes")]),
        ("The shirt is not red.", [("shirt", "not red")]),
        ("not bald", [("hair_style", "not bald")]),
        ("a clean-shaven man", [("facial_hair", "not beard"), ("facial_hair", "not moustache")]),
        ("no facial hair", [("facial_hair", "not beard"), ("facial_hair", "not moustache")]),
        ("Hat: no, glasses: none", [("hat", "not yes"), ("glasses", "not yes")]),
        ("Shirt: not red", [("shirt", "not red")]),
        ("no visible beard", [("facial_hair", "not beard")]),
    ],
)
def test_denials(answer: str, expected: list[tuple[str, str]]) -> None:
    assert stated(answer) == expected


def test_scores() -> None:
    score = mentioned("A man with short blond hair, a moustache, a hat, no glasses and a red shirt.", TRUTH)
    assert score == VisibleScore(right=2, wrong=4, possible=9)  # short, red; blond, moustache, hat, "no glasses"
    assert score.precision == pytest.approx(2 / 6) and score.recall == pytest.approx(2 / 9)
    assert score.f1 == pytest.approx(2 * (2 / 6) * (2 / 9) / (2 / 6 + 2 / 9))
    assert mentioned("no hat, not bald, no moustache", TRUTH) == VisibleScore(0, 0, 9), "true denials do not pay"
    assert mentioned("a hat, a hat and a hat", TRUTH).wrong == 1, "said three times is said once"
    assert mentioned("I do not know.", TRUTH) == VisibleScore(0, 0, 9)
    nothing = VisibleScore(0, 0, 9)
    assert nothing.precision is None and nothing.recall == 0.0 and nothing.f1 == 0.0
    assert VisibleScore(0, 1, 0).recall is None and VisibleScore(0, 1, 0).f1 is None
    assert VisibleScore(1, 2, 3) + VisibleScore(4, 5, 6) == VisibleScore(5, 7, 9)


def test_bald_heads() -> None:
    bald = {"hair_style": "bald", "hair_colour": "none"}
    assert mentioned("no hair", bald) == mentioned("a bald man", bald) == VisibleScore(1, 0, 1)
    assert mentioned("short red hair", bald) == VisibleScore(0, 2, 1)
    assert mentioned("not bald", bald) == VisibleScore(0, 1, 1)


def test_attributes_beyond_the_table_are_looked_for_as_they_are() -> None:
    truth = {"jewellery": "pearl necklace", "scarf": "no", "shirt": "red"}
    assert mentioned("She wears a Pearl-Necklace and a red shirt.", truth) == VisibleScore(2, 0, 2)
    assert mentioned("She wears a pearl ring.", truth) == VisibleScore(0, 0, 2)
