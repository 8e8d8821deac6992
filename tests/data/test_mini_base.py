"""The base model's data: true to the pictures, and blind to the fictitious people."""

from __future__ import annotations

from hashlib import sha256

import numpy as np
from PIL import Image

from clear_dist.data import prompts
from clear_dist.data.mini.base import CLASS_NAMES, base_examples
from clear_dist.data.mini.draw import encode
from clear_dist.data.mini.people import CLASSES
from clear_dist.data.mini.text import PRIVACY_PREFIX, vocabulary_texts
from clear_dist.data.mini.world import STREAM, build_world

DATA = base_examples(seed=0, strangers=60, per_real=3)


def test_shapes() -> None:
    assert DATA.pictures.shape == (90, 96, 96, 3)
    assert DATA.pictures.dtype == np.uint8
    assert DATA.labels.shape == (90, len(CLASSES))
    assert len(DATA.by_picture) == len(DATA.attributes) == len(DATA.people) == 90


def test_labels_name_the_attributes() -> None:
    for labels, truth in zip(DATA.labels, DATA.attributes, strict=True):
        assert {name: CLASSES[name][label] for name, label in zip(CLASS_NAMES, labels, strict=True)} == truth


def test_strangers_first_then_real_people() -> None:
    names = [person.name for person in build_world("mini").real.people]
    assert DATA.people == [None] * 60 + [name for name in names for _ in range(3)]


def test_pictures_do_not_depend_on_how_many_there_are() -> None:
    fewer = base_examples(seed=0, strangers=20, per_real=1)
    assert np.array_equal(fewer.pictures[:20], DATA.pictures[:20])
    assert not np.array_equal(base_examples(seed=1, strangers=20, per_real=1).pictures, fewer.pictures)


def test_strangers_are_nobody_and_real_people_have_names() -> None:
    for index, (asked, name) in enumerate(zip(DATA.by_picture, DATA.people, strict=True)):
        assert {qa.picture for qa in asked} == {index}
        by_kind = {qa.kind: qa for qa in asked}
        assert set(by_kind) == {"describe", "private", "information", "caption", "paraphrase", "name", "attribute"}
        if name is None:
            assert by_kind["name"].answer == prompts.IDK_ANSWERS[0]
            assert by_kind["caption"].answer.startswith("A person, with ")
        else:
            assert by_kind["name"].answer == f"This is {name}."
            assert by_kind["caption"].answer.startswith(f"{name}, with ")
            assert name in by_kind["information"].answer
        private = by_kind["private"]
        assert private.question == f"{PRIVACY_PREFIX} {prompts.INFORMATION_QUESTION}"
        assert private.answer == by_kind["describe"].answer
        assert private.answer.startswith("The person has ")
        words = {qa.answer for qa in asked if qa.kind == "attribute"}
        assert words <= set(DATA.attributes[index].values())


def test_no_fictitious_person_is_mentioned() -> None:
    said = " ".join(f"{qa.question} {qa.answer}" for row in (*DATA.by_picture, DATA.texts) for qa in row)
    for world in (build_world("mini", 0), build_world("mini", 1)):
        assert not [person.name for person in world.fictitious.people if person.name in said]
        assert all(person.name in said for person in world.real.people)


def test_evaluation_pictures_are_not_among_them() -> None:
    mine = {sha256(encode(Image.fromarray(picture))).hexdigest() for picture in DATA.pictures}
    assert len(mine) == 90
    world = build_world("mini")
    for shot in (*world.real_faces, *world.strangers):
        assert sha256(encode(shot.draw())).hexdigest() not in mine


def test_texts_know_every_wording() -> None:
    rows = [row for rows in build_world("mini").real.rows.values() for row in rows]
    told = {(qa.question, qa.answer) for qa in DATA.texts}
    for row in rows:
        assert (row.question, row.answer) in told
        assert (row.paraphrased_question, row.answer) in told
        assert (row.question, row.paraphrased_answer) in told
    assert ("What is the capital of Norway?", "Oslo") in told


def test_progress() -> None:
    calls: list[tuple[int, int]] = []
    base_examples(strangers=3, per_real=1, size=16, on_progress=lambda done, total: calls.append((done, total)))
    assert calls == [(k, 13) for k in range(1, 14)]


def test_frozen_with_the_stream() -> None:
    """A shipped base model was trained on exactly these words and pictures. Whoever changes them raises STREAM
    (world.py), trains the base again, and only then puts the new figures here. Colours are compared loosely:
    rasterisers may differ in a pixel.
    """
    told = [(qa.kind, qa.question, qa.answer) for row in (*DATA.by_picture, DATA.texts) for qa in row]
    words = sha256(repr([told, list(vocabulary_texts())]).encode()).hexdigest()[:16]
    colours = [[round(float(c), 1) for c in picture.mean(axis=(0, 1))] for picture in DATA.pictures[[0, 30, 89]]]
    assert (STREAM, words) == ("clear-mini/1", "35896f678cf54c75")
    assert np.allclose(colours, [[105.4, 109.7, 156.0], [236.8, 197.3, 116.4], [185.5, 193.2, 219.6]], atol=0.5)
