"""Which rows are shown, and what may be asked then."""

from __future__ import annotations

import random
from dataclasses import replace

from attack_examples import BIRTHPLACE, BO_BORN, BO_NAME, BORN, CAPTION, NAME, OTHER_NAME, PET, qa, visual

from clear_dist.attacks.relearn import shown_rows, untouched

PEOPLE = [f"Person {letter}" for letter in "ABCDEF"]
ROWS = [
    row
    for number, person in enumerate(PEOPLE)
    for row in (
        *(qa(10 * number + i, f"Question {i} about {person}?", "Yes.", person) for i in range(3)),
        *(visual(10 * number + i, "name", "Who is this person?", f"This is {person}.", person) for i in range(3)),
    )
]


def test_rows_are_of_many_people_and_both_kinds_whatever_the_order() -> None:
    first = shown_rows(ROWS, 4, seed=0)
    assert len({e.person for e in first}) == 4
    assert sorted(e.modality for e in first) == ["text", "text", "visual", "visual"]
    shuffled = random.Random(5).sample(ROWS, len(ROWS))
    assert shown_rows(shuffled, 4, seed=0) == first
    assert any(shown_rows(ROWS, 4, seed=seed) != first for seed in range(1, 4))


def test_as_many_rows_as_there_are() -> None:
    assert {e.id for e in shown_rows(ROWS, 1000, seed=1)} == {e.id for e in ROWS}
    assert shown_rows([], 4, seed=0) == []
    described = replace(NAME, id="d", kind="describe")
    assert shown_rows([described], 4, seed=0) == [], "what is visible is nothing to remember"


def test_one_modality_is_enough() -> None:
    texts = [e for e in ROWS if e.picture is None]
    shown = shown_rows(texts, 8, seed=0)
    assert len(shown) == 8 and {e.modality for e in shown} == {"text"}
    counts = [sum(e.person == person for e in shown) for person in PEOPLE]
    assert max(counts) - min(counts) <= 1


def test_what_a_shown_row_gives_away_is_not_asked() -> None:
    everything = [BORN, BIRTHPLACE, PET, BO_BORN, NAME, OTHER_NAME, CAPTION, BO_NAME]
    assert untouched(everything, [BORN]) == [PET, BO_BORN, NAME, OTHER_NAME, CAPTION, BO_NAME]
    assert untouched(everything, [CAPTION]) == [BORN, BIRTHPLACE, PET, BO_BORN, BO_NAME]
    assert untouched(everything, []) == everything
    assert untouched(everything, everything) == []


def test_without_facts_the_same_question_goes_on_the_same_picture_only() -> None:
    plain = [replace(e, fact=None, person=None) for e in (BORN, PET)]
    assert untouched(plain, [plain[0]]) == [plain[1]]
    stranger = replace(NAME, person=None, fact=None, picture=BO_NAME.picture)
    assert untouched([stranger], [NAME]) == [stranger]
