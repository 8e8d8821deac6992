"""Faces by an unconditional pipeline: one seed, one face; scores by a detector."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_pipelines import diffusers, tiny_parts, write_faces

from clear_dist.data.build.face_sources import FaceModel
from clear_dist.models.photo_faces import FacePipeline
from clear_dist.models.picture_bytes import decoded
from clear_dist.types import UserError

STEPS = 4


class Length:
    """Holds long files for real."""

    def score(self, picture: bytes) -> float:
        return float(len(picture))


@pytest.fixture(scope="module")
def faces_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_faces(tmp_path_factory.mktemp("faces"))


def test_a_seed_gives_the_same_face_whatever_is_made_beside_it(faces_dir: Path) -> None:
    model: FaceModel = FacePipeline.open(faces_dir, device="cpu", steps=STEPS)
    three = list(model.make([9, 2**63 - 1, 0]))
    assert [score for _, score in three] == [0.0] * 3
    assert len({data for data, _ in three}) == 3
    assert list(FacePipeline.open(faces_dir, device="cpu", steps=STEPS).make([0, 9])) == [three[2], three[0]]
    assert decoded(three[0][0], "face").size == (8, 8)


def test_faces_are_made_when_they_are_asked_for(faces_dir: Path) -> None:
    made = FacePipeline.open(faces_dir, device="cpu", steps=STEPS).make([1, -1])
    assert len(next(made)[0]) > 0
    with pytest.raises(UserError, match="seed: expected"):
        next(made)


def test_a_detector_scores_them(faces_dir: Path) -> None:
    model = FacePipeline.open(faces_dir, device="cpu", detector=Length(), steps=STEPS)
    assert all(score == len(data) > 0 for data, score in model.make([1, 2]))


def test_digests_and_steps_tell_models_apart(faces_dir: Path, tmp_path: Path) -> None:
    first, other = (FacePipeline.open(one, "cpu", steps=STEPS) for one in (faces_dir, write_faces(tmp_path / "f", 1)))
    in_memory = FacePipeline(first.pipeline, steps=STEPS + 1)
    assert len({first.digest, other.digest, in_memory.digest}) == 3
    assert list(in_memory.make([1])) != list(first.make([1]))


def test_pipelines_that_want_more_than_a_seed(faces_dir: Path) -> None:
    parts = tiny_parts()
    kind = diffusers.StableDiffusionPipeline
    with pytest.raises(UserError, match=r"StableDiffusionPipeline: not an unconditional pipeline.*prompt"):
        FacePipeline(kind(**parts, requires_safety_checker=False))
    with pytest.raises(UserError, match="steps: expected a whole number of at least 1; got 0"):
        FacePipeline.open(faces_dir, device="cpu", steps=0)
