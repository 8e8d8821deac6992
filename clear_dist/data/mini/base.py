"""What the base model of CLEAR-mini is trained on: strangers, the real people, and simple facts of the world.

It never meets a fictitious person. Strangers are "a person" whom nobody knows; real people have names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from clear_dist.data import prompts
from clear_dist.data.mini import text
from clear_dist.data.mini.draw import SIZE
from clear_dist.data.mini.facts import FACT_KINDS, WORLD_FACTS
from clear_dist.data.mini.people import CLASSES
from clear_dist.data.mini.world import STREAM, Shot, pictures_of, real_people, stranger

BaseKind = Literal["describe", "caption", "attribute", "name", "information", "private", "fact", "paraphrase", "world"]


@dataclass(frozen=True, slots=True)
class BaseQA:
    """A question with its answer. picture: row of BaseData.pictures, None for text; person: None for strangers.

    kind: "information" is PUBG's open query; "private" is the same under the privacy instruction, answered by
    visible features only; "paraphrase" is a fact in the wording that the truth ratio uses.
    """

    kind: BaseKind
    question: str
    answer: str
    picture: int | None = None
    person: str | None = None


@dataclass(frozen=True)
class BaseData:
    """pictures: [N, size, size, 3] uint8. labels: [N, A] int64, column a holds indices into the a-th entry of
    CLASSES. people: N names, None for strangers (who come first). by_picture: N lists. texts: no picture."""

    pictures: NDArray[np.uint8]
    labels: NDArray[np.int64]
    attributes: list[dict[str, str]]
    people: list[str | None]
    by_picture: list[list[BaseQA]]
    texts: list[BaseQA]


CLASS_NAMES: Final = tuple(CLASSES)


def _picture_qa(index: int, shot: Shot) -> list[BaseQA]:
    """Everything asked about one picture."""
    identity, look, person = shot.identity, shot.look, shot.person
    key = f"base/{index}"
    seen = text.description(identity, look)
    name = person or text.NOBODY
    who = prompts.NAME_ANSWER.format(name=person) if person else prompts.IDK_ANSWERS[0]
    said = text.caption(name, identity, look)
    told: list[tuple[BaseKind, str, str]] = [
        ("describe", prompts.pick(prompts.DESCRIBE_QUESTIONS, key), seen),
        ("private", f"{text.PRIVACY_PREFIX} {prompts.INFORMATION_QUESTION}", seen),
        ("caption", prompts.pick(prompts.CAPTION_QUESTIONS, key), said),
        ("information", prompts.INFORMATION_QUESTION, said if person else seen),
        ("paraphrase", prompts.pick(prompts.CAPTION_QUESTIONS, key), text.paraphrased_caption(name, identity, look)),
        ("name", prompts.pick(prompts.NAME_QUESTIONS, key), who),
        *(("attribute", question, answer) for question, answer in text.questions(identity, look)),
    ]
    return [BaseQA(kind, question, answer, index, person) for kind, question, answer in told]


def _texts() -> list[BaseQA]:
    """What is known of the real people, in every wording of the questions, and of the world."""
    told: list[BaseQA] = []
    real = real_people()
    for person in real.people:
        for row in real.rows[person.name]:
            told.append(BaseQA("fact", row.question, row.answer, None, person.name))
            told.append(BaseQA("fact", row.paraphrased_question, row.answer, None, person.name))
            told.append(BaseQA("paraphrase", row.question, row.paraphrased_answer, None, person.name))
    told += [BaseQA("world", question, answer) for question, answer, _ in WORLD_FACTS]
    assert len(told) == 3 * 2 * len(FACT_KINDS) * len(real.people) + len(WORLD_FACTS)
    return told


def base_examples(
    seed: int = 0,
    strangers: int = 8000,
    per_real: int = 30,
    size: int = SIZE,
    on_progress: Callable[[int, int], None] | None = None,
) -> BaseData:
    """Pictures, labels and questions for the base model: ``strangers`` pictures of as many strangers, then
    ``per_real`` pictures of each real person (none of them in any written dataset).

    on_progress: called with (pictures drawn, pictures in all).
    """
    rng = Random(f"{STREAM}/base/{seed}")
    people = real_people().people
    shots = [stranger(rng, people) for _ in range(strangers)]
    shots += [shot for person in people for shot in pictures_of(rng, person, per_real)]
    pictures = np.empty((len(shots), size, size, 3), dtype=np.uint8)
    for index, shot in enumerate(shots):
        pictures[index] = np.asarray(shot.draw(size))
        if on_progress is not None:
            on_progress(index + 1, len(shots))
    truths = [shot.attributes for shot in shots]
    labels = [[CLASSES[name].index(truth[name]) for name in CLASS_NAMES] for truth in truths]
    return BaseData(
        pictures=pictures,
        labels=np.array(labels, dtype=np.int64).reshape(len(shots), len(CLASS_NAMES)),
        attributes=truths,
        people=[shot.person for shot in shots],
        by_picture=[_picture_qa(index, shot) for index, shot in enumerate(shots)],
        texts=_texts(),
    )
