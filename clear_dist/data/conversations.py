"""Rows to questions and answers: what is trained on, and what is asked in evaluation."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from clear_dist.data.prompts import (
    CAPTION_QUESTIONS,
    DESCRIBE_QUESTIONS,
    IDK_ANSWERS,
    NAME_ANSWER,
    NAME_QUESTIONS,
    pick,
)
from clear_dist.data.rows import ChoiceRow, Row, TextRow, VisualRow
from clear_dist.types import Example, SetName, UserError

WRONG_NAMES = 5  # as many as CLEAR gives for its own rows
_ATTRIBUTE_PICTURES = 2  # pictures a person asked about visible attributes where none is unseen
_SAMPLE = 400  # rows of the retain evaluation where a dataset names none: TOFU's own number


def training(rows: Iterable[Row], target: SetName) -> list[Example]:
    """Every conversation of every row, unseen pictures left out."""
    out: list[Example] = []
    for row in rows:
        if isinstance(row, TextRow):
            out.append(_question(row, target))
        elif row.seen:
            out += [_caption(row, target), _name(row, target), *_visible(row, target)]
    return out


def evaluation(rows: Sequence[Row], target: SetName, people: Sequence[str], seed: int) -> list[Example]:
    """What a set is measured on.

    Forget: every row. Retain: the rows that come with wrong answers (``retain_perturbed``, as TOFU does), and all
    unseen pictures; where no row does, at most 400 spread evenly over the set, for pictures and text each.
    Pictures give a caption and a name; questions on visible attributes are put to unseen pictures, or to two
    pictures of each person where there are none.
    """
    if target == "retain":
        rows = _sample([r for r in rows if isinstance(r, VisualRow)]) + _sample(
            [r for r in rows if isinstance(r, TextRow)]
        )
    asked = _attribute_rows([row for row in rows if isinstance(row, VisualRow)])
    out: list[Example] = []
    for row in rows:
        if isinstance(row, TextRow):
            out.append(_question(row, target))
            continue
        out += [_caption(row, target), _name(row, target, _wrong_names(row, people, seed))]
        if row.id in asked:
            out += _visible(row, target)
    return out


def choice(row: ChoiceRow) -> Example:
    """A multiple-choice question; the right option comes first and is what a right answer must contain."""
    return Example(
        id=f"{row.id}/choice",
        set=row.set,
        kind="choice",
        question=row.question or pick(NAME_QUESTIONS, row.id),
        answer=row.answer,
        picture=row.picture,
        person=row.answer if row.question is None else None,
        options=row.options,
        fact=row.answer,
    )


def idk_examples(
    forget: Iterable[Example], answers: Sequence[str] | Path = IDK_ANSWERS, seed: int = 0
) -> list[Example]:
    """The IDK view: prompts of the forget set with "I don't know" answers, drawn by the seed and the example's id.

    answers: the answers, or a text file of them, one a line. The i-th result belongs to the i-th example.
    Raises UserError: no such file, no answer in it.
    """
    if isinstance(answers, Path):
        try:
            answers = [line.strip() for line in answers.read_text(encoding="utf-8").split("\n")]
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"Answers of the IDK view: {error}. Expected a text file, an answer a line.") from error
    usable = [answer for answer in answers if answer.strip()]
    if not usable:
        raise UserError("Answers of the IDK view: there is none. Expected at least one line of text.")
    out: list[Example] = []
    for example in forget:
        answer = usable[int(_rng(seed, "idk", example.id).integers(len(usable)))]
        out.append(replace(example, answer=answer, paraphrase=None, perturbed=(), options=(), fact=None))
    return out


def with_paraphrases(examples: Sequence[Example]) -> list[Example]:
    """The examples, each followed by itself in other words where those are known.

    A model fine-tuned on one wording only shifts its truth ratio by further training on that wording alone.
    """
    out: list[Example] = []
    for example in examples:
        out.append(example)
        if example.paraphrase:
            out.append(replace(example, id=f"{example.id}/paraphrase", answer=example.paraphrase, paraphrase=None))
    return out


def _question(row: TextRow, target: SetName) -> Example:
    return Example(
        id=f"{row.id}/qa",
        set=target,
        kind="qa",
        question=row.question,
        answer=row.answer,
        person=row.person,
        paraphrase=row.paraphrase,
        perturbed=row.perturbed,
        fact=row.fact,
    )


def _about_picture(row: VisualRow, target: SetName) -> Example:
    return Example(
        id=f"{row.id}/caption",
        set=target,
        kind="caption",
        question=pick(CAPTION_QUESTIONS, row.id),
        answer=row.caption,
        picture=row.picture,
        person=row.person,
        seen=row.seen,
        attributes=row.info.attributes if row.info and row.info.attributes else None,
    )


def _caption(row: VisualRow, target: SetName) -> Example:
    return replace(_about_picture(row, target), paraphrase=row.paraphrase, perturbed=row.perturbed)


def _name(row: VisualRow, target: SetName, wrong: Sequence[str] = ()) -> Example:
    return replace(
        _about_picture(row, target),
        id=f"{row.id}/name",
        kind="name",
        question=pick(NAME_QUESTIONS, row.id),
        answer=NAME_ANSWER.format(name=row.person),
        perturbed=tuple(NAME_ANSWER.format(name=name) for name in wrong),
        fact=row.person,
    )


def _visible(row: VisualRow, target: SetName) -> list[Example]:
    """A description and questions on visible attributes, where ``attributes.json`` has them."""
    if row.info is None:
        return []
    base = _about_picture(row, target)
    out: list[Example] = []
    if row.info.description:
        question = pick(DESCRIBE_QUESTIONS, row.id)
        out.append(
            replace(base, id=f"{row.id}/describe", kind="describe", question=question, answer=row.info.description)
        )
    for i, (question, answer) in enumerate(row.info.questions):
        out.append(
            replace(base, id=f"{row.id}/attribute{i}", kind="attribute", question=question, answer=answer, fact=answer)
        )
    return out


def _sample(rows: Sequence[Row]) -> list[Row]:
    """The rows with companions, or some of all rows where there are none; unseen pictures in any case."""
    chosen = {row.id for row in rows if row.perturbed or row.paraphrase}
    if not chosen:
        step = max(len(rows) / _SAMPLE, 1.0)
        chosen = {rows[int(i * step)].id for i in range(min(len(rows), _SAMPLE))}
    return [row for row in rows if row.id in chosen or (isinstance(row, VisualRow) and not row.seen)]


def _attribute_rows(rows: Sequence[VisualRow]) -> set[str]:
    """Ids of the rows whose visible attributes are asked for."""
    unseen = {row.id for row in rows if not row.seen}
    if unseen:
        return unseen
    by_person: defaultdict[str, list[str]] = defaultdict(list)
    for row in rows:
        by_person[row.person].append(row.id)
    return {row for ids in by_person.values() for row in ids[:_ATTRIBUTE_PICTURES]}


def _wrong_names(row: VisualRow, people: Sequence[str], seed: int) -> tuple[str, ...]:
    """The dataset's own wrong names, or some of the other people, by the seed and the row."""
    if row.wrong_names:
        return row.wrong_names
    others = [person for person in people if person != row.person]
    drawn = _rng(seed, "names", row.id).permutation(len(others))[:WRONG_NAMES]
    return tuple(others[i] for i in drawn)


def _rng(seed: int, purpose: str, key: str) -> np.random.Generator:
    """Random numbers that belong to one row, whatever the others are."""
    digest = hashlib.sha256(f"{purpose}\0{key}".encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "little")])
