"""Whom a picture is taken for, and how surely: enrolment vectors and the logit that membership attacks look at.

    v_i = mean over the n enrolment pictures of identity i of their embeddings
    c   = cos(embedding of a picture, v_i), i its own identity
    l   = log(c / (1 - c)),  c clamped to [COSINE_FLOOR, 1 - COSINE_FLOOR], so |l| <= 13.8155

CLEAR, section 5.2 (arXiv 2410.18057), with n = 5. A vector is the mean of the embeddings as they are, as the paper
says, not of embeddings brought to length 1: a picture with a long embedding weighs more. Deviation: the paper's code
bounds cosines by the floating-point type alone, so that its logits saturate at +-103, where a handful of saturated
values decides every mean and variance of the attack; here none goes beyond +-13.8.

Legend: E pictures, I identities, D size of an embedding. Embeddings may be of any precision; results
are float64.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clear_dist.errors import UserError

ENROLMENT_IMAGES = 5
COSINE_FLOOR = 1e-6

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def enrol(embeddings: NDArray[np.floating], identity: Ints, enrolled: NDArray[np.bool_]) -> Floats:
    """Enrolment vectors [I, D]: the mean embedding of each identity's enrolment pictures; I: the highest identity + 1.

    Args:
        embeddings: [E, D].
        identity: [E] whose picture, 0 to I - 1.
        enrolled: [E] whether the picture counts for the mean.

    Raises:
        UserError: an embedding that is not finite, an identity without enrolment pictures, or one whose mean is zero.
    """
    _check_embeddings(embeddings)
    assert identity.shape == enrolled.shape == embeddings.shape[:1]
    count = int(identity.max()) + 1
    pictures = np.bincount(identity[enrolled], minlength=count)
    if not pictures.all():
        raise UserError(
            f"identity {int(np.argmin(pictures))}: has no enrolment picture, so there is nothing to compare its "
            f"pictures with; expected {ENROLMENT_IMAGES}, at least 1"
        )
    sums = np.zeros((count, embeddings.shape[1]))
    np.add.at(sums, identity[enrolled], embeddings[enrolled].astype(np.float64))
    vectors = sums / pictures[:, None]
    _lengths(vectors, "the enrolment vector of identity")
    return vectors


def enrolment_logits(embeddings: NDArray[np.floating], identity: Ints, vectors: Floats) -> Floats:
    """l [E] of each picture against the vector [I, D] of its own identity.

    Raises UserError on an embedding that is not finite or all zeros.
    """
    _check_embeddings(embeddings)
    pictures, people = _unit(embeddings, "the embedding of picture"), _unit(vectors, "the enrolment vector of identity")
    cosine = np.einsum("ed,ed->e", pictures, people[identity])
    clamped = np.clip(cosine, COSINE_FLOOR, 1 - COSINE_FLOOR)
    return np.log(clamped) - np.log1p(-clamped)


def identify(embeddings: NDArray[np.floating], vectors: Floats) -> Ints:
    """Whom each picture is taken for [E]: the identity of the nearest vector by cosine, the lower index among equals.

    Raises UserError on an embedding that is not finite or all zeros.
    """
    _check_embeddings(embeddings)
    pictures, people = _unit(embeddings, "the embedding of picture"), _unit(vectors, "the enrolment vector of identity")
    return np.argmax(pictures @ people.T, axis=1).astype(np.int64)


def accuracy(predicted: Ints, identity: Ints, counted: NDArray[np.bool_]) -> float | None:
    """Share of the ``counted`` pictures [E] taken for their own identity, in [0, 1]; None where none is counted."""
    assert predicted.shape == identity.shape == counted.shape
    return float((predicted == identity)[counted].mean()) if counted.any() else None


def _check_embeddings(embeddings: NDArray[np.floating]) -> None:
    bad = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    if bad.size:
        raise UserError(
            f"the embedding of picture {int(bad[0])} is not finite ({bad.size} of {len(embeddings)} are not): the "
            "model diverged; train it with a lower learning rate"
        )


def _lengths(rows: Floats, what: str) -> Floats:
    lengths = np.linalg.norm(rows, axis=1)
    if not lengths.all():
        raise UserError(
            f"{what} {int(np.argmin(lengths))} is zero, so it has no direction: the model collapsed; train it again "
            "with a lower learning rate"
        )
    return lengths


def _unit(rows: NDArray[np.floating], what: str) -> Floats:
    wide = rows.astype(np.float64)
    return wide / _lengths(wide, what)[:, None]
