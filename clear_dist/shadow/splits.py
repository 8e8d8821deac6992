"""Who is forgotten, held out, or trained on by which shadow model.

Three designs. ``matched``, ours: the first half of the models learns all forget identities and a random part of the
others, the second half a random part of the others as large, and nobody the holdout. What never saw the forget people
is then drawn as gold models are, so that perfect forgetting is .5 and nothing else. ``fixed_block`` is that of CLEAR's
public code: the second half learns all holdout identities too, hence more people than a gold model. ``random_half`` is
LiRA's (arXiv 2112.03570) and that of CLEAR's appendix E: every model learns a random half of all identities, in pairs
of which one is the complement of the other, so that each identity is in exactly half of the models.

Everything is drawn from NumPy's PCG64 under a seed; names never decide, so renaming a person moves nobody.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clear_dist.errors import UserError
from clear_dist.shadow.settings import Design


@dataclass(frozen=True)
class Split:
    """Indices of identities, each in ascending order. ``attacked`` is the union of the last three."""

    pretrain: tuple[int, ...]
    forget: tuple[int, ...]
    holdout: tuple[int, ...]
    other: tuple[int, ...]

    @property
    def attacked(self) -> tuple[int, ...]:
        return tuple(sorted((*self.forget, *self.holdout, *self.other)))

    def group(self, identity: int) -> str:
        """forget, holdout or other."""
        return "forget" if identity in self.forget else "holdout" if identity in self.holdout else "other"


def draw_split(identities: int, forget: int, holdout: int, pretrain: int, seed: int) -> Split:
    """Deal ``identities`` people into the four groups.

    Raises:
        UserError: fewer identities than are asked for, or a group that must not be empty is.
    """
    for name, value in (("forget", forget), ("holdout", holdout)):
        if value < 1:
            raise UserError(f"--{name} {value}: expected at least 1 identity")
    others = identities - forget - holdout - pretrain
    if others < 1:
        raise UserError(
            f"--images: {identities} identities with enough pictures, and {forget} to forget, {holdout} held out, "
            f"{pretrain} for pretraining and at least 1 to retain are asked for: {forget + holdout + pretrain + 1}. "
            "Lower --forget, --holdout or --pretrain-identities, or give more identities."
        )
    order = np.random.default_rng([seed, 1]).permutation(identities).tolist()
    ends = np.cumsum([pretrain, forget, holdout]).tolist()
    parts = [order[: ends[0]], order[ends[0] : ends[1]], order[ends[1] : ends[2]], order[ends[2] :]]
    return Split(*(tuple(sorted(part)) for part in parts))


def training_sets(split: Split, models: int, design: Design, per_model: int | None, seed: int) -> list[tuple[int, ...]]:
    """Which identities each shadow model learns, ascending; see the module.

    Args:
        per_model: identities of a model; None for half of those attacked. ``random_half`` takes no other number.

    Raises:
        UserError: an odd or too small number of models, a size that the identities do not allow.
    """
    if models < 4 or models % 2:
        raise UserError(
            f"--models {models}: expected an even number of at least 4: half of the models see the forget identities"
        )
    rng = np.random.default_rng([seed, 2])
    attacked = split.attacked
    size = len(attacked) // 2 if per_model is None else per_model
    if design == "random_half":
        if per_model is not None and per_model != len(attacked) // 2:
            raise UserError(f"--identities {per_model}: random_half takes half of the {len(attacked)} identities")
        sets = []
        for _ in range(models // 2):
            order = rng.permutation(attacked).tolist()
            sets += [tuple(sorted(order[:size])), tuple(sorted(order[size:]))]
        return sets
    sets = []
    for model in range(models):
        second = split.holdout if design == "fixed_block" else ()
        fixed = split.forget if model < models // 2 else second
        rest = size - len(split.forget if design == "matched" else fixed)
        if not 1 <= rest <= len(split.other):
            raise UserError(
                f"--identities {size}: a model learns {size - rest} fixed identities and some of {len(split.other)} "
                f"others; expected {size - rest + 1} to {size - rest + len(split.other)}"
            )
        sets.append(tuple(sorted((*fixed, *rng.choice(split.other, rest, replace=False).tolist()))))
    return sets


def enrolment_pictures(labels: list[int], count: int, seed: int) -> list[bool]:
    """Which pictures enrol their identity: ``count`` of each, drawn by the seed, alike for every model.

    Raises:
        UserError: an identity has no picture beyond those, so that nothing of it could be attacked.
    """
    if count < 1:
        raise UserError(f"--enrol {count}: expected at least 1 picture")
    chosen = [False] * len(labels)
    mine: dict[int, list[int]] = {}
    for at, label in enumerate(labels):
        mine.setdefault(label, []).append(at)
    for label, rows in sorted(mine.items()):
        if len(rows) <= count:
            raise UserError(
                f"identity {label}: {len(rows)} pictures, and --enrol {count} of them make its enrolment vector; "
                "at least one more is needed to be attacked"
            )
        for at in np.random.default_rng([seed, 3, label]).permutation(rows)[:count]:
            chosen[int(at)] = True
    return chosen
