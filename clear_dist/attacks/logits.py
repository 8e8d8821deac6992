"""What the membership attacks on a farm look at, cut into folds so that no model is judged by itself.

Legend: F models that forgot, U models that never saw, E examples (pictures of identities to be forgotten), K folds.

A *block* is what belongs together and is drawn together: a shadow model with what was unlearned from it, or a pair of
complementary shadow models. In each fold the models of that fold are targets, and those of the other folds are the
shadows that say what a forgotten and a never seen example look like; every model is a target exactly once. All models
of a block lie in one fold, so a target's block is never among its shadows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from clear_dist.errors import UserError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
FOLDS = 5
LEAST_SHADOWS = 2  # of a side: a spread needs two
_KINDS = ((True, False), (False, True), (True, True))  # blocks with models that forgot, that never saw


@dataclass(frozen=True)
class Draw:
    """Models by their rows, possibly several times."""

    rows_f: Ints
    rows_n: Ints


@dataclass(frozen=True)
class Logits:
    """The logits of an attack.

    forgotten: [F, E] of models from which the examples were unlearned; NaN where a model had never seen one.
    never: [U, E] of models that never saw the examples; NaN where that does not hold, or the example does not count.
    blocks_f, blocks_n: [F], [U] the block a model belongs to; one block may have models on both sides.
    fold_f, fold_n: [F], [U] the fold of each model, 0 to K - 1.
    """

    forgotten: Floats
    never: Floats
    blocks_f: Ints
    blocks_n: Ints
    fold_f: Ints
    fold_n: Ints
    folds: int

    @property
    def models(self) -> int:
        """Target models on both sides together."""
        return len(self.forgotten) + len(self.never)

    def take(self, draw: Draw) -> Logits:
        """The same with the models of a draw, each in its fold."""
        f, n = draw.rows_f, draw.rows_n
        return replace(
            self,
            forgotten=self.forgotten[f],
            never=self.never[n],
            blocks_f=self.blocks_f[f],
            blocks_n=self.blocks_n[n],
            fold_f=self.fold_f[f],
            fold_n=self.fold_n[n],
        )


def least_models(folds: int) -> int:
    """How few models of a side leave LEAST_SHADOWS of them as shadows in every fold."""
    return next(n for n in range(LEAST_SHADOWS, 2 * LEAST_SHADOWS + 2) if n - -(-n // folds) >= LEAST_SHADOWS)


def cut(
    forgotten: Floats, never: Floats, blocks_f: Ints, blocks_n: Ints, *, folds: int = FOLDS, seed: int = 0
) -> Logits:
    """Deal blocks to folds by the seed, each side and, as nearly as can be, each example evenly.

    ``folds=2`` is the half and half of CLEAR (half of the models are targets, half shadows), taken both ways round.

    Raises:
        UserError: fewer than 2 folds, logits that are infinite, an example with so few models on a side that some fold
            leaves fewer than LEAST_SHADOWS shadows.
    """
    if folds < 2:
        raise UserError(f"--folds {folds}: expected at least 2: models are judged by those of the other folds")
    assert forgotten.ndim == never.ndim == 2 and forgotten.shape[1] == never.shape[1]
    assert blocks_f.shape == forgotten.shape[:1] and blocks_n.shape == never.shape[:1]
    for side, values in (("forgotten", forgotten), ("never seen", never)):
        if np.isinf(values).any():
            model, example = np.argwhere(np.isinf(values))[0]
            raise UserError(f"logit of {side} model {model}, example {example}, is infinite; make its task again")
    if forgotten.shape[1] == 0:
        raise UserError("no example to attack: no picture of an identity to be forgotten counts")
    fold = _deal(forgotten, never, blocks_f, blocks_n, folds, np.random.default_rng(seed))
    fold_f = np.array([fold[int(b)] for b in blocks_f], dtype=np.int64)
    fold_n = np.array([fold[int(b)] for b in blocks_n], dtype=np.int64)
    for side, values, where in (("forgotten", forgotten, fold_f), ("never seen", never, fold_n)):
        _check_shadows(side, values, where, folds)
    return Logits(forgotten.astype(np.float64), never.astype(np.float64), blocks_f, blocks_n, fold_f, fold_n, folds)


def _deal(
    forgotten: Floats, never: Floats, blocks_f: Ints, blocks_n: Ints, folds: int, rng: np.random.Generator
) -> dict[int, int]:
    """Block -> fold. Blocks of a kind (forgotten only, never only, both) go in turn to the folds that have fewest of
    the kind, and among those to where their examples are rarest."""
    weight = {
        int(block): np.concatenate(
            [
                (~np.isnan(forgotten[blocks_f == block])).sum(axis=0),
                (~np.isnan(never[blocks_n == block])).sum(axis=0),
            ]
        ).astype(np.float64)
        for block in np.union1d(blocks_f, blocks_n)
    }
    fold: dict[int, int] = {}
    for kind in _KINDS:
        mine = [b for b in weight if ((blocks_f == b).any(), (blocks_n == b).any()) == kind]
        dealt = np.zeros(folds, dtype=np.int64)
        held = np.zeros((folds, 2 * forgotten.shape[1]))
        for block in rng.permutation(np.array(mine, dtype=np.int64)).tolist():
            open_to = np.flatnonzero(dealt == dealt.min())
            chosen = int(open_to[np.argmin(held[open_to] @ weight[block])])
            fold[block] = chosen
            dealt[chosen] += 1
            held[chosen] += weight[block]
    return fold


def _check_shadows(side: str, values: Floats, fold: Ints, folds: int) -> None:
    seen = ~np.isnan(values)
    for k in range(folds):
        shadows = seen[fold != k].sum(axis=0)
        if (shadows < LEAST_SHADOWS).any():
            example = int(np.argmin(shadows))
            raise UserError(
                f"example {example} has {int(seen[:, example].sum())} {side} models, of which {folds} folds leave only "
                f"{int(shadows[example])} as shadows; {LEAST_SHADOWS} are needed, so at least {least_models(folds)} "
                "models of each side: finish the farm, or make one of more models"
            )


def draws(logits: Logits, count: int, seed: int) -> Iterator[Draw]:
    """Bootstrap draws: blocks drawn with replacement within their kind (forgotten only, never only, both), as many as
    there are.

    A block keeps its fold however often it is drawn, so that no copy of a target is among its shadows. Not drawn within
    folds: a fold of few blocks would understate the spread between them.
    """
    rng = np.random.default_rng([seed, 1])
    blocks = np.union1d(logits.blocks_f, logits.blocks_n).tolist()
    rows_f = {b: np.flatnonzero(logits.blocks_f == b) for b in blocks}
    rows_n = {b: np.flatnonzero(logits.blocks_n == b) for b in blocks}
    kinds = [[b for b in blocks if (rows_f[b].size > 0, rows_n[b].size > 0) == kind] for kind in _KINDS]
    for _ in range(count):
        drawn = [kind[i] for kind in kinds if kind for i in rng.integers(len(kind), size=len(kind)).tolist()]
        yield Draw(np.concatenate([rows_f[b] for b in drawn]), np.concatenate([rows_n[b] for b in drawn]))
