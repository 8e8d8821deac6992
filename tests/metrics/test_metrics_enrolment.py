"""Enrolment vectors, logits and identification, against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from clear_dist.errors import UserError
from clear_dist.metrics.enrolment import COSINE_FLOOR, accuracy, enrol, enrolment_logits, identify

IDENTITY = np.array([0, 0, 0, 1, 1])
ENROLLED = np.array([True, True, False, True, False])
EMBEDDINGS = np.array([[4.0, 0.0], [0.0, 2.0], [3.0, 4.0], [0.0, 1.0], [1.0, 1.0]])


def test_vectors_are_means_of_raw_embeddings_of_enrolment_pictures() -> None:
    vectors = enrol(EMBEDDINGS, IDENTITY, ENROLLED)
    np.testing.assert_array_equal(vectors, [[2.0, 1.0], [0.0, 1.0]])  # of unit vectors it would be [.5, .5]


def test_logit_is_log_odds_of_the_cosine_to_the_own_identity() -> None:
    logits = enrolment_logits(EMBEDDINGS, IDENTITY, enrol(EMBEDDINGS, IDENTITY, ENROLLED))
    c = (3 * 2 + 4 * 1) / (5 * math.sqrt(5))
    assert logits[2] == pytest.approx(math.log(c / (1 - c)), abs=1e-12)
    c = 1 / math.sqrt(2)
    assert logits[4] == pytest.approx(math.log(c / (1 - c)), abs=1e-12)


def test_logits_are_bounded_on_both_ends() -> None:
    vectors = np.array([[1.0, 0.0]])
    top = math.log((1 - COSINE_FLOOR) / COSINE_FLOOR)
    logits = enrolment_logits(np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 2.0]]), np.zeros(3, dtype=np.int64), vectors)
    np.testing.assert_allclose(logits, [top, -top, -top], atol=1e-9)


def test_length_of_an_embedding_does_not_matter_to_its_own_logit() -> None:
    vectors = enrol(EMBEDDINGS, IDENTITY, ENROLLED)
    scaled = EMBEDDINGS * np.array([1e-8, 1.0, 1e8, 3.0, 7.0])[:, None]
    np.testing.assert_allclose(
        enrolment_logits(scaled, IDENTITY, vectors), enrolment_logits(EMBEDDINGS, IDENTITY, vectors), atol=1e-9
    )


def test_nearest_by_cosine_not_by_distance_and_ties_go_to_the_lower_index() -> None:
    vectors = np.array([[0.0, 1.0], [100.0, 0.0], [2.0, 0.0]])
    # [1, .1] is nearer to [0, 1] than to [100, 0] by distance; identities 1 and 2 point the same way.
    assert identify(np.array([[1.0, 0.1], [0.1, 1.0]]), vectors).tolist() == [1, 0]


def test_accuracy_counts_only_what_is_counted() -> None:
    predicted, identity = np.array([0, 1, 1, 0]), np.array([0, 1, 0, 0])
    assert accuracy(predicted, identity, np.array([True, False, True, False])) == 0.5
    assert accuracy(predicted, identity, np.zeros(4, dtype=bool)) is None


def test_float32_embeddings_are_summed_in_float64() -> None:
    rng = np.random.default_rng(0)
    single = rng.normal(size=(12, 64)).astype(np.float32)
    identity, enrolled = np.repeat([0, 1], 6), np.tile([True, True, True, True, True, False], 2)
    wide = enrol(single.astype(np.float64), identity, enrolled)
    np.testing.assert_array_equal(enrol(single, identity, enrolled), wide)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda e, k: e.__setitem__((2, 0), math.nan), "picture 2 is not finite"),
        (lambda e, k: e.__setitem__((4, 1), math.inf), "picture 4 is not finite"),
        (lambda e, k: k.__setitem__(3, False), "identity 1: has no enrolment picture"),
        (lambda e, k: e.__setitem__(3, 0.0), "enrolment vector of identity 1 is zero"),
        (lambda e, k: e.__setitem__(4, 0.0), "embedding of picture 4 is zero"),
    ],
)
def test_what_has_no_direction_is_refused(change, words: str) -> None:
    embeddings, enrolled = EMBEDDINGS.copy(), ENROLLED.copy()
    change(embeddings, enrolled)
    with pytest.raises(UserError, match=words):
        enrolment_logits(embeddings, IDENTITY, enrol(embeddings, IDENTITY, enrolled))
