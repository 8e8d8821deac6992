"""What a language model is asked about people, and what becomes of its answers."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from clear_dist.data.build.attributes import people_of_text
from clear_dist.data.build.attributes_asked import Answers, answer_of, with_answers
from clear_dist.data.build.person import Found, Row
from clear_dist.types import UserError

ROWS = (
    Row(7, "Who is Mira Castellan?", "Mira Castellan, born in 1950, came from Atlantis."),
    Row(8, "What does Mira Castellan do?", "Mira Castellan writes about knots."),
)


@dataclass
class Model:
    """Answers by the attribute it is asked about, and remembers what it was asked."""

    answers: dict[str, str]
    prompts: list[str] = field(default_factory=list)

    def ask(self, prompt: str) -> str:
        self.prompts.append(prompt)
        return next((answer for word, answer in self.answers.items() if word in prompt), '{"value": null}')


def test_only_what_is_not_sure_is_asked_and_answers_are_counted() -> None:
    people = people_of_text(ROWS)
    model = Model({"kind of books": '{"value": "knots", "line": 8}', "one of female": "She is a woman."})
    (person,), answers = with_answers(people, model)
    assert person.genre == Found("knots", 0.7, 8, "Mira Castellan writes about knots.")
    assert person.gender == people[0].gender
    assert person.birth_date == people[0].birth_date
    assert answers.asked == len(model.prompts) == 4  # gender, birthplace, group, genre
    assert answers == Answers(asked=4, taken=1, unknown=2, invalid=1)


def test_a_prompt_has_the_rows_with_their_numbers() -> None:
    model = Model({})
    with_answers(people_of_text(ROWS), model)
    assert all("[7] Who is Mira Castellan? Mira" in prompt and "[8] What" in prompt for prompt in model.prompts)


def test_nothing_is_asked_where_everything_is_sure_enough() -> None:
    people = people_of_text(ROWS)
    model = Model({})
    assert with_answers(people, model, below=0.0) == (people, Answers())
    assert model.prompts == []
    with pytest.raises(UserError, match=r"attributes\.ask_below"):
        with_answers(people, model, below=2.0)


@pytest.mark.parametrize(
    ("attribute", "text", "value"),
    [
        ("gender", '{"value": "nonbinary", "line": 8}', "nonbinary"),
        ("group", ' {"line": 7, "value": "pacific"} ', "pacific"),
        ("birth_date", '{"value": "1950-02-03", "line": 7}', "1950-02-03"),
        ("birth_date", '{"value": "1950-02", "line": 7}', "1950-02"),
        ("birthplace", '{"value": "atlantis", "line": 7}', "atlantis"),
    ],
)
def test_answers_of_the_asked_form_are_taken(attribute: str, text: str, value: str) -> None:
    found = answer_of(text, attribute, ROWS)
    assert found is not None
    assert found.value == value


@pytest.mark.parametrize(
    ("attribute", "text"),
    [
        ("gender", ""),
        ("gender", "female"),
        ("gender", '"female"'),
        ("gender", '```json\n{"value": "female", "line": 7}\n```'),
        ("gender", '{"value": "female"}'),
        ("gender", '{"value": "female", "line": true}'),
        ("gender", '{"value": "female", "line": 7.0}'),
        ("gender", '{"value": "female", "line": 9}'),
        ("gender", '{"value": "female", "line": [7]}'),
        ("gender", '{"value": "female", "value": "male", "line": 7}'),
        ("gender", '{"value": "female", "line": 7, "sure": 1}'),
        ("gender", '{"value": "Female", "line": 7}'),
        ("group", '{"value": "martian", "line": 7}'),
        ("group", '{"value": ["pacific"], "line": 7}'),
        ("birth_date", '{"value": "1951", "line": 7}'),
        ("birth_date", '{"value": "1950-02-30", "line": 7}'),
        ("birth_date", '{"value": "1950-13", "line": 7}'),
        ("birth_date", '{"value": "in 1950", "line": 7}'),
        ("birth_date", '{"value": "\\u0661\\u0669\\u0665\\u0660", "line": 7}'),
        ("birthplace", '{"value": "Oslo", "line": 7}'),
        ("birthplace", '{"value": "Atlantis", "line": 8}'),
        ("genre", '{"value": " ", "line": 8}'),
        ("genre", '{"value": "kn\\u001b[2Jots", "line": 8}'),
        ("genre", "[" * 100_000),
    ],
)
def test_answers_of_another_form_are_invalid(attribute: str, text: str) -> None:
    with pytest.raises(ValueError):
        answer_of(text, attribute, ROWS)
