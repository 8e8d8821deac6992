"""Pictures of people, and which of several samples is taken."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import permutations

import pytest
from PIL import Image

from clear_dist.data.build.face_drawer import DrawnFaces
from clear_dist.data.build.photos import DrawnPhotos, Sample, best_of, photograph, seeds_of
from clear_dist.data.build.prompts import Prompt
from clear_dist.types import UserError

PROMPT = Prompt("Ann Lee", 7, "a real photo", "", "books", None, 5)
FACES = DrawnFaces()


class By:
    """A detector whose scores are given."""

    def __init__(self, **scores: float) -> None:
        self.scores = scores

    def score(self, picture: bytes) -> float:
        return self.scores[picture.decode()]


class Given:
    def __init__(self, *data: bytes) -> None:
        self.data = data

    def take(self, face: object, prompt: Prompt, seeds: Sequence[int]) -> list[Sample]:
        return [Sample(data) for data in self.data]


def png(colour: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (40, 40), colour).save(out, "PNG")
    return out.getvalue()


def test_a_drawing_shows_the_same_face_and_says_what_it_shows() -> None:
    source = DrawnPhotos(FACES, 48)
    face = FACES.face("drawn/0/3")
    seeds = seeds_of("Ann Lee", 7, 12, 0)
    samples = source.take(face, PROMPT, seeds)
    assert samples == source.take(face, PROMPT, seeds) and samples[5:6] == source.take(face, PROMPT, seeds[5:6])
    assert len({sample.data for sample in samples}) == 12
    identity = FACES.drawn("drawn/0/3").identity
    assert {(s.shows["skin"], s.shows["face"], s.shows["facial_hair"]) for s in samples} == {
        (identity.skin, identity.face, identity.facial_hair)
    }
    assert Image.open(io.BytesIO(samples[0].data)).size == (48, 48)


def test_seeds_belong_to_person_line_and_seed() -> None:
    assert seeds_of("a", 1, 8, 0)[:3] == seeds_of("a", 1, 3, 0)
    many = [seed for name in "ab" for line in range(50) for s in (0, 1) for seed in seeds_of(name, line, 8, s)]
    assert len(set(many)) == len(many) and max(many) < 2**53


def test_the_best_mean_rank_wins_whatever_the_scales() -> None:
    pictures = [b"x", b"y", b"z"]
    assert best_of(pictures, [By(x=1, y=2, z=3)]) == (2, 1.0)
    assert best_of(pictures, [By(x=1, y=2, z=3), By(x=0.3, y=900, z=0.2)]) == (1, 0.75)
    assert best_of(pictures, [By(x=5, y=5, z=1)]) == (0, 0.75), "the first of equals, which share their ranks"
    assert best_of(pictures, [By(x=1, y=1, z=1)]) == (0, 0.5)
    assert best_of(pictures, []) == (0, None) and best_of([b"x"], [By(x=1)]) == (0, None)


def test_order_of_samples_changes_only_ties() -> None:
    first, second = By(a=1, b=4, c=3, d=2), By(a=9, b=7, c=8, d=1)
    for order in permutations([b"a", b"b", b"c", b"d"]):
        at, score = best_of(order, [first, second])
        assert order[at] in (b"b", b"c") and score == pytest.approx((1 + 1 / 3) / 2)


def test_a_detector_that_gives_no_number_is_refused() -> None:
    with pytest.raises(UserError, match="NaN"):
        best_of([b"x", b"y"], [By(x=float("nan"), y=1)])


def test_samples_that_are_no_pictures_are_passed_over() -> None:
    face = FACES.face("drawn/0/3")
    photo = photograph(Given(b"broken", png("red"), png("red")[:60]), [], face, PROMPT, [11, 12, 13])
    assert (photo.sample.data, photo.seed, photo.tried, photo.score) == (png("red"), 12, (1, 3), None)
    with pytest.raises(UserError, match="Ann Lee, line 7: none of 2 samples is a picture"):
        photograph(Given(b"", b"GIF89a"), [], face, PROMPT, [1, 2])
