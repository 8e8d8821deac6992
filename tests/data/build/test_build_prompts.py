"""Prompts: the template word for word, settings by what a question is about, limits, and a language model's replies."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from clear_dist.data.build.person import Found, Row, Subject
from clear_dist.data.build.prompts import (
    LIMIT,
    NEGATIVE,
    TRIGGER,
    base_prompt,
    estimated_tokens,
    prompts_of,
    topics_of,
)
from clear_dist.data.build.settings import TOPICS
from clear_dist.errors import UserError

SENTENCES = [sentence for topic in TOPICS for sentence in topic.sentences]
ROWS = (
    Row(1, "Who are the parents of Ada Example?", "Her father was a baker, her mother a nurse."),
    Row(2, "Which awards has Ada Example received?", "The Golden Quill Award."),
    Row(3, "Has any of her books been made into a film?", "Not yet."),
    Row(4, "How is she?", "Fine."),
)


def person(
    rows: tuple[Row, ...] = ROWS, name: str | None = "Ada Example", born: str | None = None, gender=None
) -> Subject:
    return Subject(Found(name), Found(born), gender=Found(gender), rows=rows)


@pytest.mark.parametrize(
    ("born", "gender", "said"),
    [
        ("1963-05-01", "female", "a real photo of an old woman called Ada Example img, showing face."),
        ("1964", "female", "a real photo of a woman called Ada Example img, showing face."),
        ("1930-12", "male", "a real photo of an old man called Ada Example img, showing face."),
        (None, "male", "a real photo of a man called Ada Example img, showing face."),
        ("1920", "nonbinary", "a real photo of an old person called Ada Example img, showing face."),
        (None, None, "a real photo of a person called Ada Example img, showing face."),
    ],
)
def test_the_template_says_old_above_sixty_and_the_article_fits(
    born: str | None, gender: str | None, said: str
) -> None:
    assert base_prompt(person(born=born, gender=gender), 2024) == said


def test_a_prompt_is_the_template_and_a_setting() -> None:
    subject = person()
    prompts = prompts_of(subject, 2024)
    assert [prompt.line for prompt in prompts] == [1, 2, 3, 4]
    for prompt in prompts:
        assert prompt.text == f"{base_prompt(subject, 2024)} {prompt.setting}"
        assert prompt.negative == NEGATIVE
        assert prompt.tokens == estimated_tokens(prompt.text) <= LIMIT
        assert prompt.by == "table"


def test_the_setting_follows_the_question() -> None:
    by_name = {topic.name: topic for topic in TOPICS}
    prompts = prompts_of(person(), 2024)
    assert [prompt.topic for prompt in prompts] == ["family", "awards", "screen", "everyday"]
    for prompt in prompts:
        assert prompt.setting in by_name[prompt.topic].sentences


@pytest.mark.parametrize(
    ("question", "topic"),
    [
        ("Does the author teach at a university?", "teaching"),
        ("When was she born?", "birth"),
        ("Have the texts been translated into other languages?", "travel"),
        ("How did the city and its culture shape her?", "city"),
        ("What do critics and readers say?", "readers"),
        ("Is there any upcoming project?", "plans"),
        ("What are the titles of two novels?", "books"),
        ("In which genre does she write?", "writing"),
        ("What has geology to do with it?", "nature"),
    ],
)
def test_every_topic_is_found(question: str, topic: str) -> None:
    assert topics_of(Row(1, question, ""))[0].name == topic


def test_names_and_titles_in_quotation_marks_say_nothing() -> None:
    assert topics_of(Row(1, "What of Award City?", ""), "Award City")[0].name == "everyday"
    assert topics_of(Row(1, 'Who likes "The Prize of the City"?', "“A Mother in Film”"))[0].name == "everyday"


def test_the_question_counts_more_than_the_answer() -> None:
    assert topics_of(Row(1, "Any awards?", "A film."))[0].name == "awards"
    assert topics_of(Row(1, "Any film?", "An award."))[0].name == "screen"


def test_the_same_row_gives_the_same_prompt_whatever_other_rows_there_are() -> None:
    whole = prompts_of(person(), 2024)
    assert prompts_of(person(), 2024) == whole
    for at, row in enumerate(ROWS):
        assert prompts_of(person((row,)), 2024) == [whole[at]]


def test_settings_of_a_person_repeat_only_when_all_are_used() -> None:
    rows = tuple(Row(i + 1, "What awards?", f"Award {i}.") for i in range(len(SENTENCES) + 5))
    settings = [prompt.setting for prompt in prompts_of(person(rows), 2024)]
    awards = next(topic for topic in TOPICS if topic.name == "awards").sentences
    assert set(settings[: len(awards)]) == set(awards)
    assert Counter(settings[: len(SENTENCES)]) == Counter(SENTENCES)
    assert max(Counter(settings).values()) == 2


def test_one_question_twice_gives_two_settings() -> None:
    first, second = prompts_of(person((ROWS[0], Row(9, ROWS[0].question, ROWS[0].answer))), 2024)
    assert first.setting != second.setting


def test_too_long_a_prompt_loses_its_setting_first() -> None:
    base = base_prompt(person(), 2024)
    limit = estimated_tokens(base)
    for prompt in prompts_of(person(), 2024, limit=limit):
        assert (prompt.text, prompt.setting, prompt.tokens) == (base, None, limit)
    with pytest.raises(UserError, match=rf"Ada Example, line 1: .*{limit} tokens.*more than the {limit - 1}"):
        prompts_of(person(), 2024, limit=limit - 1)


def test_a_counter_of_tokens_may_be_given() -> None:
    prompts = prompts_of(person(), 2024, count=len, limit=80)
    assert all(prompt.tokens == len(prompt.text) <= 80 for prompt in prompts)
    assert {prompt.setting for prompt in prompts} == {None}
    with pytest.raises(UserError, match="line 3"):
        prompts_of(person(ROWS[2:]), 2024, count=len, limit=20)


def test_tokens_are_estimated_upwards() -> None:
    assert [estimated_tokens(text) for text in ("", "a", "a b", "a b c", "a b c d")] == [0, 2, 3, 4, 6]


@pytest.mark.parametrize("name", [None, "", "  ", "Ada img", "IMG Ada", "Ada\x1b[2J"])
def test_a_name_that_cannot_stand_in_a_prompt_is_refused(name: str | None) -> None:
    with pytest.raises(UserError, match="line 1"):
        prompts_of(person(name=name), 2024)


def test_settings_are_usable_with_everybody() -> None:
    assert len(SENTENCES) == len(set(SENTENCES)) >= 60
    assert estimated_tokens(NEGATIVE) <= LIMIT
    for sentence in SENTENCES:
        words = sentence.lower().replace(",", " ").rstrip(".").split()
        assert sentence[0].isupper() and sentence.endswith(".") and len(words) <= 16
        assert not {TRIGGER, "he", "she", "his", "her", "him", "man", "woman"} & set(words)
        assert "{" not in sentence


class Says:
    """A language model that has one reply for each question."""

    def __init__(self, *replies: str) -> None:
        self.replies = list(replies)
        self.prompts: list[str] = []

    def ask(self, prompt: str) -> str:
        self.prompts.append(prompt)
        return self.replies[len(self.prompts) - 1]


def test_a_language_model_may_write_the_setting() -> None:
    asker = Says(
        '"On a hill\n above the village"', "In a barn full of hay.", "In a barn full of hay.", "img img img img"
    )
    prompts = prompts_of(person(), 2024, asker=asker)
    assert [prompt.setting for prompt in prompts[:2]] == ["On a hill above the village.", "In a barn full of hay."]
    assert [prompt.by for prompt in prompts] == ["model", "model", "table", "table"]
    assert prompts[2:] == prompts_of(person(), 2024)[2:]
    for row, prompt in zip(ROWS, asker.prompts, strict=True):
        assert row.question in prompt
        assert row.answer in prompt


@pytest.mark.parametrize(
    "reply", ["", "\x00", "a", "Ada stands in a barn.", "in an IMG of hay", "word " * 26, "\x1b[2J in a barn", "?!"]
)
def test_a_reply_that_cannot_stand_in_a_prompt_is_replaced_from_the_table(reply: str) -> None:
    assert prompts_of(person(ROWS[:1]), 2024, asker=Says(reply)) == prompts_of(person(ROWS[:1]), 2024)


def test_a_reply_that_is_too_long_for_the_limit_is_left_out() -> None:
    limit = estimated_tokens(base_prompt(person(), 2024)) + 1
    (prompt,) = prompts_of(person(ROWS[:1]), 2024, limit=limit, asker=Says("In a barn full of hay."))
    assert (prompt.setting, prompt.by) == (None, "table")


def test_twenty_rows_of_tofu_give_twenty_settings(data_dir: Callable[[str], Path]) -> None:
    lines = (data_dir("tofu") / "full.json").read_text(encoding="utf-8").splitlines()
    rows = [Row(i + 1, **json.loads(line)) for i, line in enumerate(lines)]
    topics: Counter[str] = Counter()
    for start in range(0, len(rows), 20):
        prompts = prompts_of(person(tuple(rows[start : start + 20]), name=f"Person {start}"), 2024)
        assert len({prompt.setting for prompt in prompts} - {None}) == 20
        topics.update(prompt.topic for prompt in prompts)
    assert set(topics) == {topic.name for topic in TOPICS}
    assert max(topics.values()) < 0.4 * len(rows)
