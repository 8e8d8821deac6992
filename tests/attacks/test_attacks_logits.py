"""Folds and draws: nobody is judged by itself, everybody is judged once, evenly."""

from __future__ import annotations

import numpy as np
import pytest
from logit_worlds import halves, world

from clear_dist.attacks.logits import cut, draws, least_models
from clear_dist.errors import UserError


def test_folds_of_a_fixed_design_are_even_on_both_sides() -> None:
    logits = world(0.0, models=32)
    assert sorted(np.bincount(logits.fold_f, minlength=5)) == [6, 6, 6, 7, 7]
    assert sorted(np.bincount(logits.fold_n, minlength=5)) == [6, 6, 6, 7, 7]


def test_two_folds_are_half_and_half() -> None:
    logits = world(0.0, models=32, folds=2)
    assert np.bincount(logits.fold_f).tolist() == np.bincount(logits.fold_n).tolist() == [16, 16]


def test_a_block_lies_in_one_fold_on_both_sides() -> None:
    logits = halves()
    where = {}
    of_f, of_n = zip(logits.blocks_f, logits.fold_f, strict=True), zip(logits.blocks_n, logits.fold_n, strict=True)
    for block, fold in [*of_f, *of_n]:
        assert where.setdefault(int(block), int(fold)) == fold
    assert set(where.values()) == {0, 1, 2, 3}


def test_examples_are_spread_over_folds_more_evenly_than_by_chance() -> None:
    """Single models of a random design: every example has about as many forgotten models in each fold."""
    rng = np.random.default_rng(3)
    block = np.arange(40)
    dealt, by_chance = [], []
    for _ in range(10):
        learned = rng.random((40, 8)) < 0.5
        values = rng.normal(size=learned.shape)
        logits = cut(np.where(learned, values, np.nan), np.where(learned, np.nan, values), block, block)
        for fold, found in ((logits.fold_f, dealt), (rng.permutation(block % 5), by_chance)):
            found.append(np.var([learned[fold == k].sum(axis=0) for k in range(5)], axis=0).mean())
    assert np.mean(dealt) < 0.8 * np.mean(by_chance)


def test_the_seed_decides_the_folds() -> None:
    one, same, other = world(0.0, seed=1), world(0.0, seed=1), world(0.0, seed=2)
    np.testing.assert_array_equal(one.fold_f, same.fold_f)
    assert (one.fold_f != other.fold_f).any()


def test_draws_keep_folds_and_draw_sides_apart() -> None:
    logits = world(0.0, models=10)
    fold = dict(zip([*logits.blocks_f, *logits.blocks_n], [*logits.fold_f, *logits.fold_n], strict=True))
    seen = set()
    for draw in draws(logits, 20, 0):
        taken = logits.take(draw)
        assert len(taken.forgotten) == len(taken.never) == 10
        assert all(fold[b] == k for b, k in zip(taken.blocks_f, taken.fold_f, strict=True))
        assert all(fold[b] == k for b, k in zip(taken.blocks_n, taken.fold_n, strict=True))
        np.testing.assert_array_equal(taken.forgotten, logits.forgotten[draw.rows_f])
        seen.add(tuple(sorted(draw.rows_f.tolist())))
    assert len(seen) == 20
    assert any(len(set(rows)) < 10 for rows in seen), "drawn with replacement"


def test_a_drawn_block_brings_all_its_models() -> None:
    logits = halves()
    for draw in draws(logits, 5, 0):
        taken = logits.take(draw)
        assert np.bincount(taken.blocks_f, minlength=12).tolist() == np.bincount(taken.blocks_n, minlength=12).tolist()
        # Pairs of complementary models: every example keeps as many models of either side.
        assert (~np.isnan(taken.forgotten)).sum(axis=0).tolist() == [12] * 6


@pytest.mark.parametrize(("folds", "least"), [(2, 4), (3, 3), (5, 3)])
def test_too_few_models_are_refused_and_the_number_needed_is_enough(folds: int, least: int) -> None:
    assert least_models(folds) == least
    world(0.0, models=least, folds=folds)
    with pytest.raises(UserError, match=f"at least {least} models of each side"):
        world(0.0, models=least - 1, folds=folds)


def test_an_example_that_few_models_saw_is_refused() -> None:
    values = np.zeros((6, 2))
    forgotten = values.copy()
    forgotten[2:, 1] = np.nan
    with pytest.raises(UserError, match=r"example 1 has 2 forgotten models"):
        cut(forgotten, values, np.arange(6), 6 + np.arange(6))


def test_bad_logits_and_folds_are_refused() -> None:
    values = np.zeros((6, 2))
    infinite = values.copy()
    infinite[4, 1] = np.inf
    with pytest.raises(UserError, match="never seen model 4, example 1, is infinite"):
        cut(values, infinite, np.arange(6), 6 + np.arange(6))
    with pytest.raises(UserError, match="--folds 1"):
        cut(values, values, np.arange(6), 6 + np.arange(6), folds=1)
    with pytest.raises(UserError, match="no example to attack"):
        cut(values[:, :0], values[:, :0], np.arange(6), 6 + np.arange(6))
