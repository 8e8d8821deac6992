"""How old a face looks, and so on: up to three classifiers whose labels stand for what people of a dataset have.

Labels of common sets are known: FairFace, UTKFace, Adience, single years. A label that is not is refused, for a guess
would put faces on people they do not fit.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

import torch

from clear_dist.models.picture_classifier import PictureClassifier, check_labels, plain
from clear_dist.types import UserError

Gender = Literal["female", "male", "nonbinary"]
Group = Literal[
    "african", "east_asian", "european", "latin_american", "middle_eastern", "pacific", "south_asian", "southeast_asian"
]
OLDEST: Final = 120  # years
BEYOND: Final = 5  # years above the bound of an open range ("more than 70"), the middle of ten
GENDERS: Final[dict[str, Gender | None]] = {
    "female": "female",
    "woman": "female",
    "male": "male",
    "man": "male",
    "nonbinary": "nonbinary",
    "non binary": "nonbinary",
    "unknown": None,
}
GROUPS: Final[dict[str, Group | None]] = {
    "african": "african",
    "black": "african",
    "east asian": "east_asian",
    "european": "european",
    "caucasian": "european",
    "white": "european",
    "latin american": "latin_american",
    "latino": "latin_american",
    "latino hispanic": "latin_american",
    "hispanic": "latin_american",
    "middle eastern": "middle_eastern",
    "pacific": "pacific",
    "pacific islander": "pacific",
    "south asian": "south_asian",
    "indian": "south_asian",
    "southeast asian": "southeast_asian",
    "other": None,
    "others": None,
    "unknown": None,
}


class FaceEstimator:
    """Satisfies ``data.build.face_sources.Estimator``: the likeliest label of each classifier, as a number or a word.

    age: a classifier of years or ranges of years; gender, group: of labels in ``GENDERS`` and ``GROUPS``. What has no
    classifier is None. Raises UserError naming a label that is not known.
    """

    def __init__(
        self,
        age: PictureClassifier | None = None,
        gender: PictureClassifier | None = None,
        group: PictureClassifier | None = None,
    ) -> None:
        self.age, self.gender, self.group = age, gender, group
        self.years = {} if age is None else {label: years_of(label, age.name) for label in age.labels}
        if gender is not None:
            check_labels(gender, GENDERS, "gender")
        if group is not None:
            check_labels(group, GROUPS, "group")

    @classmethod
    def open(
        cls,
        age: str | Path | None = None,
        gender: str | Path | None = None,
        group: str | Path | None = None,
        device: torch.device | str = "auto",
    ) -> FaceEstimator:
        """From directories or Hub names. Raises UserError: see ``PictureClassifier.open``; an unknown label."""
        found = [None if one is None else PictureClassifier.open(one, device) for one in (age, gender, group)]
        return cls(*found)

    @property
    def digest(self) -> str:
        """Of the weights, in the order age, gender, group."""
        return "+".join("" if one is None else one.digest for one in (self.age, self.gender, self.group))

    def estimate(self, picture: bytes) -> tuple[int | None, Gender | None, Group | None]:
        """(years, gender, group) that a face looks like. Raises UserError on what is no picture."""
        return (
            None if self.age is None else self.years[self.age.likeliest(picture)],
            None if self.gender is None else GENDERS[plain(self.gender.likeliest(picture))],
            None if self.group is None else GROUPS[plain(self.group.likeliest(picture))],
        )


def years_of(label: str, name: str = "age") -> int:
    """The middle of a range of years ("20-29": 24), ``BEYOND`` years above an open one ("more than 70": 75), half of
    "under 10", or the years themselves. Raises UserError, naming ``name``, on another label."""
    text = " ".join(re.sub(r"\b(years?|yrs?|old|age|aged)\b", " ", label.lower().replace("_", " ")).split()).strip("()")
    for form, years in _FORMS:
        if match := re.fullmatch(form, text):
            low, high = int(match[1]), int(match[match.re.groups])
            if low <= high and years(low, high) <= OLDEST:
                return years(low, high)
    raise UserError(
        f"{name}: {label!r} is no age that is known here; expected ranges or years up to {OLDEST}, such as 20-29, "
        "'more than 70', 60+, 'under 10' or 34. Rename the label in config.json (id2label)."
    )


# How labels say an age, with the years it stands for by the first and last number in it.
_FORMS: Final[tuple[tuple[str, Callable[[int, int], int]], ...]] = (
    (r"([0-9]{1,3})", lambda years, _: years),
    (r"([0-9]{1,3}) ?(?:-|–|to|,) ?([0-9]{1,3})", lambda low, high: (low + high) // 2),
    (r"(?:more than|over|above|>=?) ?([0-9]{1,3})", lambda low, _: low + BEYOND),
    (r"([0-9]{1,3}) ?(?:\+|and over|or older|and above)", lambda low, _: low + BEYOND),
    (r"(?:less than|under|below|<=?) ?([0-9]{1,3})", lambda _, high: high // 2),
)
