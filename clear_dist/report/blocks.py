"""Sections of a report that one run and several runs share: what is evidence, and what there is no evidence of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from clear_dist.report.aftermath import aftermath_table, judge_table, labels_image, labels_table
from clear_dist.report.attacks import (
    KNOWN,
    control_table,
    membership_table,
    recovery_table,
    relearning_image,
    robustness_matrix,
    robustness_table,
)
from clear_dist.report.cells import Table
from clear_dist.report.distributions import truth_ratio_image
from clear_dist.report.draw import Image
from clear_dist.report.subject import Subject


@dataclass(frozen=True)
class Block:
    """A section: figures, then tables (or the other way round), then lines of text. key: its id on the page."""

    key: str
    title: str
    intro: str
    images: tuple[Image, ...] = ()
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()
    tables_first: bool = False

    def __bool__(self) -> bool:
        return bool(self.images or self.tables or self.notes)


T = TypeVar("T")


def _present(*found: T | None) -> tuple[T, ...]:
    return tuple(item for item in found if item is not None)


def evidence(subjects: Sequence[Subject], *, several: bool) -> list[Block]:
    """Aftermath, attacks, membership, control, judge: the sections there is something to say in.

    several: whether the subjects are many runs, for which a table is turned so that each run is a row.
    """
    subjects = [s for s in subjects if s.role != "other"]
    attacked = (
        _present(
            *(robustness_matrix(subjects, metric, f"robustness-{words.lower()}") for metric, words in KNOWN.items())
        )
        if several
        else _present(robustness_table(subjects))
    )
    found = [
        Block(
            "aftermath",
            "What is said instead",
            "An answer that gives nothing away can still be worthless: a loop, a refusal, somebody else's name. Each "
            "answer about the people to forget has the first label that applies.",
            _present(labels_image(subjects)),
            _present(labels_table(subjects), aftermath_table(subjects)),
        ),
        Block(
            "robustness",
            "Does it come back?",
            "The same questions after an attack on the model or on the question. Gold under the same attack is the "
            "measure: what gold reaches was learned, not remembered.",
            _present(relearning_image(subjects)),
            (*attacked, *_present(recovery_table(subjects))),
        ),
        Block(
            "membership",
            "Does it show that they were there?",
            "Membership attacks guess from the model's confidence who was trained on. AUC .5 is chance. Gold's AUC "
            "says what a model gives that never saw these people; PrivLeak is the distance from it in percent.",
            tables=_present(membership_table(subjects)),
        ),
        Block(
            "control",
            "Is the picture looked at?",
            "The same questions with other people's pictures. Names must fail there; if they do not, they are read off "
            "the question and the figures above say nothing about pictures.",
            tables=_present(control_table(subjects)),
        ),
        Block(
            "judge",
            "A judge's grades",
            "Graded by another language model, 1 to 5. Privacy: 1 gives nothing private away, 5 the name or a private "
            "fact. Informativeness: 5 is specific and useful. Hallucination: 1 invents nothing, 5 nearly everything.",
            tables=_present(judge_table(subjects)),
        ),
    ]
    return [block for block in found if block]


def truth_ratio_block(subjects: Sequence[Subject], notes: Sequence[str]) -> Block:
    return Block(
        "quality",
        "Forget quality",
        "A test whether truth ratios on the forget set could be gold's. A small p-value shows a difference; a large "
        "one does not prove that there is none. Never read it alone.",
        _present(truth_ratio_image(subjects)),
        notes=tuple(notes),
    )


def limits(subjects: Sequence[Subject], found: Sequence[Block]) -> list[str]:
    """What a page does not show, in words for whoever relies on it."""
    there = {block.key for block in found}
    out = []
    if "robustness" not in there:
        out.append(
            "Whether what was forgotten comes back after a little training, after quantisation or when asked "
            "otherwise: no attack was tried (clear-dist robustness)."
        )
    if "membership" not in there:
        out.append(
            "Whether an attacker can tell that these people were once trained on: not measured. It needs people who "
            "were held out (--holdout N)."
        )
    if not any(s.role == "gold" for s in subjects):
        out.append("What a model says that never saw these people: there is no gold model to compare with.")
    if not any(s.controls for s in subjects):
        out.append("Whether pictures are looked at at all: the control with other people's pictures was not run.")
    out.append(
        "Anything that was not asked. The figures are of the questions asked here, with greedy answers; a model may "
        "still know what no question brought up, and a test that finds nothing is no proof that nothing is there."
    )
    return out
