"""What a dataset's files hold, whatever their format, before it becomes conversations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

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


@dataclass
class BadData:
    """What to do with a bad row: refuse the dataset, or drop the row and remember why."""

    mode: OnBadData
    skipped: list[str] = field(default_factory=list)

    def report(self, message: str) -> None:
        """Raises UserError unless bad rows are to be skipped."""
        if self.mode == "fail":
            raise UserError(f"{message} Correct the row, or drop bad rows with --on-bad-data skip.")
        self.skipped.append(message)


def right_first(answer: str, options: object) -> tuple[str, ...]:
    """The options with the right answer in front and no repetition."""
    listed = [str(option) for option in options] if isinstance(options, list) else []
    return tuple(dict.fromkeys([answer, *listed]))


def filled(value: object) -> bool:
    """Whether a cell holds text."""
    return isinstance(value, str) and bool(value.strip())


def repeated(ids: Sequence[object]) -> dict[int, int]:
    """Place of every id that occurred before -> place where it occurred first. Rows without an id do not count."""
    first: dict[str, int] = {}
    keys = [None if value is None else repr(value) for value in ids]  # an id may be a list: files hold anything
    return {i: first[key] for i, key in enumerate(keys) if key is not None and first.setdefault(key, i) != i}
