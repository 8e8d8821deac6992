"""Answers begun for the model: cut before what they give away, and the same tokens as the whole answer has."""

from __future__ import annotations

from dataclasses import replace

import pytest
from attack_examples import BIRTHPLACE, BORN, CAPTION, NAME, PET, qa
from data.data_fakes import EOS, CharProcessor

from clear_dist.attacks.prime import Primed, begin, beginning
from clear_dist.types import Processor


@pytest.mark.parametrize(
    ("answer", "fact", "start"),
    [
        ("Ann Lee was born in Oslo.", "Oslo", "Ann Lee was born in"),
        ("Oslo is where she was born.", "Oslo", None),  # nothing before it
        ("It is Oslostrand, not Oslo.", "Oslo", "It is Oslostrand, not"),  # whole words only
        ("She came from pre-Oslo.", "Oslo", None),  # no beginning ends within a word
        ("She was born there.", "Oslo", None),  # the fact is not in the answer
        ("Född i Göteborg.", "Göteborg", "Född i"),
        ("He earned (a+b)* points.", "(a+b)*", "He earned"),  # a fact is no regular expression
    ],
)
def test_the_beginning_by_hand(answer: str, fact: str, start: str | None) -> None:
    assert beginning(qa(0, "Where?", answer, fact=fact)) == start


def test_without_a_fact_a_third_of_the_words() -> None:
    assert beginning(qa(0, "Why?", "Because she wanted to see the sea.")) == "Because she"
    assert beginning(qa(0, "Why?", "Just because.")) is None


def test_names_under_pictures_and_choices() -> None:
    assert beginning(NAME) == "This is"
    assert beginning(CAPTION) is None, "the name comes first"
    assert beginning(replace(NAME, kind="choice", options=("Ann Lee", "Bo Tan"))) is None


def test_only_the_rest_is_to_be_said() -> None:
    wrong = ("This is Bo Tan.", "This is Cy Roe.")
    begun = begin([replace(NAME, perturbed=wrong, paraphrase="The person is Ann Lee."), CAPTION])
    (rest,) = begun.examples
    assert rest.answer == "Ann Lee." and rest.perturbed == ("Bo Tan.", "Cy Roe.") and rest.paraphrase is None
    assert rest.question == "Who is this person? [This is ...]"
    assert begun.starts == {rest.question: ("Who is this person?", "This is")}
    assert begun.left_out == [CAPTION.id]
    assert rest.fact == "Ann Lee" and rest.picture == NAME.picture and rest.id == NAME.id


def test_wrong_answers_of_another_form_leave_no_truth_ratio() -> None:
    other = replace(BORN, perturbed=("Ann Lee was born in Rome.", "She comes from Rome."))
    assert begin([other]).examples[0].perturbed == ()


def test_the_same_question_may_have_two_beginnings() -> None:
    begun = begin([BORN, replace(BORN, id="again", answer="She was born in Oslo.")])
    assert len(begun.starts) == 2 and len({e.question for e in begun.examples}) == 2


def test_tokens_are_those_of_the_whole_answer() -> None:
    inner: Processor = CharProcessor()
    examples = [BORN, BIRTHPLACE, PET, NAME]
    begun = begin(examples)
    primed = Primed(inner, begun.starts, begun.rests)
    for before, after in zip(examples, begun.examples, strict=True):
        picture = before.picture is not None
        prefix, rest = inner.encode_prompt(before.question, picture)
        whole = [*prefix, *rest, *inner.encode_answer(before.answer)]
        primed_prefix, primed_rest = primed.encode_prompt(after.question, picture)
        assert [*primed_prefix, *primed_rest, *primed.encode_answer(after.answer)] == whole
        assert primed_prefix == prefix, "pictures' prefixes stay shared"


def test_other_questions_and_answers_pass_unchanged() -> None:
    inner: Processor = CharProcessor()
    primed = Primed(inner, {}, {})
    assert primed.encode_prompt("Who?", True) == inner.encode_prompt("Who?", True)
    assert primed.encode_answer("Ann.") == inner.encode_answer("Ann.")
    assert primed.decode([75, EOS]) == "A"
    assert (primed.eos_id, primed.pad_id, primed.image_id) == (inner.eos_id, inner.pad_id, inner.image_id)
    assert primed.image_tokens == inner.image_tokens and primed.image_shape == inner.image_shape


def test_a_tokenizer_that_joins_across_the_cut_falls_back_to_the_rest_alone() -> None:
    class Joining(CharProcessor):
        def encode_answer(self, answer: str) -> list[int]:
            return [len(answer), *super().encode_answer(answer)]  # the first token depends on what follows

    primed = Primed(Joining(), {"Q": ("Q", "It is")}, {"Oslo.": "It is"})
    assert primed.encode_answer("Oslo.") == Joining().encode_answer("Oslo.")
