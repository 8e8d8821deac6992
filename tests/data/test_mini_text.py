"""What CLEAR-mini says: wording, lengths, and a vocabulary that leaves nothing out."""

from __future__ import annotations

import re
from itertools import permutations

import pytest

from clear_dist.data import prompts
from clear_dist.data.mini import text
from clear_dist.data.mini.base import base_examples
from clear_dist.data.mini.facts import FACT_KINDS
from clear_dist.data.mini.people import FEMININE, LAST_NAMES, MASCULINE, Identity, Look
from clear_dist.data.mini.tables import Photo, Tables, columns, evenly, ground_truth, tofu_files
from clear_dist.data.mini.world import build_world

WORD = re.compile(r"[A-Za-z0-9]+(?:['-][A-Za-z0-9]+)*|[^\sA-Za-z0-9]")
VOCABULARY = {word for line in text.vocabulary_texts() for word in WORD.findall(line)}
ANNA = Identity("tan", "round", "short", "red", "green", "none")
BALD = Identity("pale", "long", "bald", "red", "green", "beard")
PLAIN = Look("green", "blue", False, False, 0, 0, 1, 0, 0)
DRESSED = Look("orange", "white", True, True, 0, 0, 1, 0, 0)


def strings(value) -> list[str]:
    """Every string inside nested rows, picture bytes and paths left out."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [s for key, v in value.items() if key not in ("bytes", "path") for s in strings(v)]
    if isinstance(value, list | tuple):
        return [s for v in value for s in strings(v)]
    return []


def undrawn(world) -> Tables:
    """All tables of a world without drawing a picture."""
    numbers = iter(range(10**6))

    def fake(shots) -> list[Photo]:
        return [Photo(b"", f"{next(numbers):064x}", shot) for shot in shots]

    photos = {name: fake(shots) for name, shots in world.shots.items()}
    return Tables(world, photos, fake(world.real_faces), fake(world.strangers))


def test_captions_read_as_meant() -> None:
    assert text.caption("Anna Berg", ANNA, PLAIN) == (
        "Anna Berg, with short red hair, wearing a green shirt, stands in front of a blue wall."
    )
    assert text.caption(text.NOBODY, BALD, DRESSED) == (
        "A person, with no hair and a beard, wearing an orange shirt, glasses and a hat, "
        "stands in front of a white wall."
    )
    assert text.paraphrased_caption("Anna Berg", ANNA, PLAIN) == (
        "In front of a blue wall stands Anna Berg, who has short red hair and wears a green shirt."
    )
    assert "stands a person, who" in text.paraphrased_caption(text.NOBODY, ANNA, PLAIN)
    assert text.description(ANNA, PLAIN) == (
        "The person has tan skin, a round face and short red hair, and wears a green shirt by a blue wall."
    )


def test_questions_are_answered_in_a_word() -> None:
    asked = dict(text.questions(ANNA, PLAIN))
    assert asked["What colour is the hair?"] == "red"
    assert asked["Does the person wear a hat?"] == "no"
    assert len(asked) == 9
    bald = dict(text.questions(BALD, DRESSED))
    assert "What colour is the hair?" not in bald
    assert bald["What is the hair style?"] == "bald"
    assert bald["Does the person wear glasses?"] == "yes"
    for answer in (*asked.values(), *bald.values()):
        assert re.fullmatch(r"[a-z]+", answer)


@pytest.mark.parametrize(("preset", "seed"), [("mini", 0), ("mini", 7), ("full", 0), ("full", 1)])
def test_vocabulary_spells_every_dataset(preset: str, seed: int) -> None:
    world = build_world(preset, seed)
    tables = undrawn(world)
    said = [s for config in columns() for s in strings(evenly(tables.rows(config), 400))]
    said += [s for rows in tofu_files(world).values() for s in strings(evenly(rows, 400))]
    truth = ground_truth(tables)
    said += [s for picture in evenly(list(truth["pictures"].values()), 400) for s in strings(picture["questions"])]
    said += [*truth["facts"], *strings(list(truth["facts"].values()))]
    said += [picture["description"] for picture in evenly(list(truth["pictures"].values()), 400)]
    unknown = {word for line in said for word in WORD.findall(line)} - VOCABULARY
    assert not unknown


def test_vocabulary_spells_the_base_data_and_the_prompts() -> None:
    data = base_examples(strangers=150, per_real=2, size=8)
    said = [s for qa in [q for row in data.by_picture for q in row] + data.texts for s in (qa.question, qa.answer)]
    said += [*prompts.CAPTION_QUESTIONS, *prompts.NAME_QUESTIONS, *prompts.DESCRIBE_QUESTIONS, *prompts.IDK_ANSWERS]
    said += [prompts.INFORMATION_QUESTION, prompts.NAME_ANSWER.format(name="Anna Berg")]
    assert not {word for line in said for word in WORD.findall(line)} - VOCABULARY


def test_vocabulary_is_small() -> None:
    assert len(VOCABULARY) <= 600


def test_questions_with_answers_are_short() -> None:
    """Long sequences cost time on two cores: pictures' questions and answers stay below 42 words, most below 35."""
    lengths = []
    for shot in (shot for shots in build_world("mini").shots.values() for shot in shots):
        said = text.caption("Anna Berg", shot.identity, shot.look)
        seen = text.description(shot.identity, shot.look)
        lengths += [len(WORD.findall(line)) for line in (f"{prompts.CAPTION_QUESTIONS[0]} {said}", seen)]
        lengths[-1] += len(WORD.findall(prompts.DESCRIBE_QUESTIONS[0]))
    assert max(lengths) <= 41
    assert sum(length <= 34 for length in lengths) >= 0.75 * len(lengths)


def test_no_value_hides_in_another() -> None:
    """Fact accuracy looks for the value in the answer, so no right value may be part of a wrong one."""
    for kind in FACT_KINDS:
        assert len(set(kind.pool)) == len(kind.pool) >= 12
        for a, b in permutations(kind.pool, 2):
            assert a not in b
        for template in (*kind.answers, kind.paraphrase):
            bare = template.format(n="", x="").lower()
            assert not [value for value in kind.pool if value.lower() in bare]


def test_name_parts_are_single_words_used_once() -> None:
    parts = (*MASCULINE, *FEMININE, *LAST_NAMES)
    assert len(set(parts)) == len(parts)
    assert all(WORD.fullmatch(part) for part in parts)
