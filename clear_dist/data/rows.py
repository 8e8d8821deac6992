"""What a dataset's files hold, whatever their format, before it becomes conversations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from clear_dist.types import Picture, SetName, UserError

OnBadData = Literal["fail", "skip"]


@dataclass(frozen=True)
class PictureInfo:
    """What a dataset's ``attributes.json`` says of a picture."""

    unseen: bool
    attributes: Mapping[str, str]
    description: str | None
    questions: tuple[tuple[str, str], ...]  # about visible attributes: (question, answer)


@dataclass(frozen=True)
class VisualRow:
    """A picture of a person with its caption. ``id``: config and row, e.g. ``forget10/3``."""

    id: str
    person: str
    picture: Picture
    caption: str
    paraphrase: str | None = None
    perturbed: tuple[str, ...] = ()
    wrong_names: tuple[str, ...] = ()
    info: PictureInfo | None = None
    seen: bool = True

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.caption,)


@dataclass(frozen=True)
class TextRow:
    """A question about a person with its answer. ``id``: config and row, e.g. ``full+tofu/4711``."""

    id: str
    person: str
    question: str
    answer: str
    paraphrase: str | None = None
    perturbed: tuple[str, ...] = ()
    fact: str | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.question, self.answer)


@dataclass(frozen=True)
class ChoiceRow:
    """A multiple-choice question on real people or the world. ``options``: the right one first."""

    id: str
    set: SetName
    answer: str
    options: tuple[str, ...]
    question: str | None = None  # None: who the person in the picture is
    picture: Picture | None = None


Row = VisualRow | TextRow

Companion = tuple[str | None, tuple[str, ...], tuple[str, ...]]
"""Paraphrase, wrong captions, wrong names of a picture."""


@dataclass
class BadData:
    """What to do with a bad row: refuse the dataset, or drop the row and remember why."""

    mode: OnBadData
    skipped: list[str] = field(default_factory=list)

    def report(self, message: str) -> None:
        """Raises UserError unless bad rows are to be skipped."""
        if self.mode == "fail":
            raise UserError(f"{message} Correct the row, or drop bad rows with --on-bad-data skip.")
        if message not in self.skipped:  # forget and retain may be cut from one file, and share their companions
            self.skipped.append(message)


def right_first(answer: str, options: Sequence[str]) -> tuple[str, ...]:
    """The options with the right answer in front and no repetition."""
    return tuple(dict.fromkeys([answer, *options]))


def filled(value: object) -> bool:
    """Whether a cell holds text."""
    return isinstance(value, str) and bool(value.strip())


def text_list(cell: object) -> tuple[str, ...] | None:
    """The texts of a cell that holds a list of them, empty ones left out; None where it holds anything else.

    A single text is no list: its letters would be taken for wrong answers.
    """
    if cell is None:
        return ()
    if not isinstance(cell, list) or not all(text is None or isinstance(text, str) for text in cell):
        return None
    return tuple(text for text in cell if filled(text))


def companion(record: Mapping[str, Any], place: str, bad: BadData) -> Companion | None:
    """What a row of a ``*_perturbed`` config adds to its picture; None where a cell is of the wrong kind."""
    paraphrase = record["paraphrased_caption"]
    if paraphrase is not None and not isinstance(paraphrase, str):
        bad.report(f"{place}.paraphrased_caption: expected text, or nothing.")
        return None
    lists: list[tuple[str, ...]] = []
    for column in ("perturbed_captions", "perturbed_names"):
        if (listed := text_list(record[column])) is None:
            bad.report(f"{place}.{column}: expected a list of texts.")
            return None
        lists.append(listed)
    return (paraphrase or "").strip() or None, lists[0], lists[1]


def repeated(ids: Sequence[object]) -> dict[int, int]:
    """Place of every id that occurred before -> place where it occurred first. Rows without an id do not count."""
    first: dict[str, int] = {}
    keys = [None if value is None else repr(value) for value in ids]  # an id may be a list: files hold anything
    return {i: first[key] for i, key in enumerate(keys) if key is not None and first.setdefault(key, i) != i}
