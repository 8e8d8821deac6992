"""Rewritten questions: the best candidate a model can read, the same in every run, or the row is left out."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
from attack_examples import BORN, CAPTION, NAME, PET, qa

from clear_dist.attacks import ATTACKS, family_of
from clear_dist.attacks.prompts import (
    FRAMES,
    LANGUAGES,
    NAMES,
    PREFIXES,
    paraphrases,
    rewrite,
    telegraphic,
    translations,
    with_prefix,
)


def anything(text: str) -> bool:
    return bool(text)


@pytest.mark.parametrize(
    ("question", "short"),
    [
        ("Where was Ann Lee born?", "Ann Lee born Where?"),
        ("What is the name of this person?", "name person What?"),
        ("Describe this image.", "image Describe."),
        ("Who?", "Who?"),
        ("", ""),
        ("  ?!", "?!"),
        ("Wo wurde Åsa Öberg geboren?", "wurde Åsa Öberg geboren Wo?"),
        ("在哪里出生?", "在哪里出生?"),
        ("Does the\nperson wear A hat", "person wear hat Does"),
    ],
)
def test_telegraphic_by_hand(question: str, short: str) -> None:
    assert telegraphic(question) == short


def test_the_first_word_may_lose_its_capital() -> None:
    assert telegraphic("Where was Ann Lee born?", lower=True) == "Ann Lee born where?"


def test_the_datasets_own_rewording_comes_first() -> None:
    known = {BORN.question: "In which city was Ann Lee born?"}
    found = rewrite([BORN, PET], partial(paraphrases, known=known), anything)
    assert found.examples[0].question == known[BORN.question]
    assert found.examples[1].question in {frame.format(q=PET.question) for frame in FRAMES}
    assert found.left_out == []
    for before, after in zip((BORN, PET), found.examples, strict=True):
        assert replace(after, question=before.question) == before, "only the question changes"


def test_pictures_are_asked_in_our_words() -> None:
    found = rewrite([NAME, CAPTION], partial(paraphrases, known={}), anything)
    assert found.examples[0].question in NAMES
    assert CAPTION.question not in found.examples[1].question


def test_of_a_tier_only_what_can_be_read_and_the_next_tier_if_nothing_can() -> None:
    def no_please(text: str) -> bool:
        return "Please" not in text and "following" not in text

    found = rewrite([PET], partial(paraphrases, known={PET.question: "Please, which pet?"}), no_please)
    assert [e.question for e in found.examples] == ["Tell me, Which pet does Ann Lee have?"]


def test_what_nobody_can_spell_is_left_out_and_named() -> None:
    found = rewrite([BORN, PET], translations, lambda text: "pet" in text and ":" not in text)
    assert [e.id for e in found.examples] == [PET.id]
    assert found.left_out == [BORN.id]
    assert rewrite([], translations, anything).examples == []


def test_a_candidate_that_changes_nothing_is_none() -> None:
    single = qa(9, "Who?", "Ann.")
    found = rewrite([single], lambda e: [["", e.question], [telegraphic(e.question)]], anything)
    assert found.examples == [] and found.left_out == [single.id]


def test_languages_take_turns_by_id_and_do_not_change_between_runs() -> None:
    many = [qa(number, f"Question {number}?", "Yes.") for number in range(60)]
    first = rewrite(many, translations, anything)
    again = rewrite(list(reversed(many)), translations, anything)
    assert {e.id: e.question for e in first.examples} == {e.id: e.question for e in again.examples}
    used = [next(f for f in LANGUAGES if f.partition("{")[0] in e.question) for e in first.examples]
    assert all(10 <= used.count(frame) <= 30 for frame in LANGUAGES)


def test_prefixes_stand_before_the_question_in_the_richest_wording_that_can_be_read() -> None:
    for wordings in PREFIXES:
        rich = rewrite([BORN], partial(with_prefix, wordings=wordings), anything)
        poor = rewrite([BORN], partial(with_prefix, wordings=wordings), lambda text: len(text.split()) < 11)
        assert rich.examples[0].question == f"{wordings[0]} {BORN.question}"
        assert poor.examples[0].question == f"{wordings[-1]} {BORN.question}"


def test_attacks_belong_to_families() -> None:
    assert family_of("relearn_forget@5") == family_of("relearn_retain@20") == "relearn"
    assert family_of("prefix_2") == family_of("prefix_worst") == family_of("prefilled") == "prefixes"
    assert [family_of(a) for a in ("int4", "translated", "prefix", "unknown", "")] == [
        "quantise", "prompts", "prefixes", None, None,
    ]  # fmt: skip
    assert len({a for stems in ATTACKS.values() for a in stems}) == sum(map(len, ATTACKS.values()))
