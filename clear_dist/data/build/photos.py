"""Stage 5: pictures of the people, one for every prompt, the best of several samples; drawn here, or by a network.

The paper makes 8 samples of each prompt with PhotoMaker (style strength .5, guidance 7.5, 50 steps) and takes the one
that an ensemble of detectors of made pictures holds the most real (arXiv 2410.18057, Appendix B). A detector says how
real a picture looks; detectors are compared by ranks, for their scales have nothing in common.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Final, Protocol

from clear_dist.data.build.face_drawer import DrawnFaces
from clear_dist.data.build.faces import Face
from clear_dist.data.build.prompts import Prompt
from clear_dist.data.images import decode
from clear_dist.data.mini.draw import SIZE, encode
from clear_dist.data.mini.people import attributes, random_look
from clear_dist.types import Picture, UserError

STREAM: Final = "clear-photos/1"  # part of every seed; raised when drawing or choice change
BITS: Final = 53  # of a seed: fewer than programs that read JSON as floats can hold


@dataclass(frozen=True)
class Sample:
    """data: encoded picture. shows: what is visible, attribute to word as ``mini.people.CLASSES``, where known."""

    data: bytes
    shows: Mapping[str, str] = field(default_factory=dict)


class ImageSource(Protocol):
    """Something that shows a given face as a prompt says. The same seed always gives the same bytes."""

    def take(self, face: Face, prompt: Prompt, seeds: Sequence[int]) -> list[Sample]:
        """One sample for each seed, in order."""
        ...


class Detector(Protocol):
    """Something that tells pictures of people from made ones."""

    def score(self, picture: bytes) -> float:
        """How real it looks; higher is more real, within one detector."""
        ...


class DrawnPhotos:
    """The built-in pictures: the drawn face in other clothes, before another wall, in another pose."""

    def __init__(self, faces: DrawnFaces, size: int = SIZE) -> None:
        self.faces, self.size = faces, size

    def take(self, face: Face, prompt: Prompt, seeds: Sequence[int]) -> list[Sample]:
        drawn = self.faces.drawn(face.id)
        out: list[Sample] = []
        for seed in seeds:
            identity = drawn.identity
            look = random_look(Random(f"{STREAM}/look/{face.id}/{prompt.line}/{seed}"), identity)
            out.append(Sample(encode(drawn.picture(look, self.size)), attributes(identity, look)))
        return out


@dataclass(frozen=True)
class Photo:
    """The chosen sample of a prompt. seed: the one it was made with; score: mean rank among the samples, 0 to 1, None
    where nobody was asked; tried: how many samples could be used, of how many made."""

    sample: Sample
    digest: str
    seed: int
    score: float | None
    tried: tuple[int, int]


def seeds_of(name: str, line: int, count: int, seed: int) -> list[int]:
    """Seeds of the samples of a prompt; no two prompts share any, as far as chance goes."""
    rng = Random(f"{STREAM}/{seed}/{name}/{line}")
    return [rng.getrandbits(BITS) for _ in range(count)]


def photograph(
    source: ImageSource, detectors: Sequence[Detector], face: Face, prompt: Prompt, seeds: Sequence[int]
) -> Photo:
    """The best of the samples. Raises UserError, naming person and line, where none can be read."""
    made = source.take(face, prompt, seeds)
    usable: list[tuple[int, Sample]] = []
    reason = ""
    for seed, sample in zip(seeds, made, strict=True):
        try:
            decode(
                Picture(hashlib.sha256(sample.data).hexdigest(), f"sample {seed}", lambda sample=sample: sample.data)
            )
        except UserError as error:
            reason = str(error)
            continue
        usable.append((seed, sample))
    if not usable:
        raise UserError(f"{prompt.name}, line {prompt.line}: none of {len(seeds)} samples is a picture ({reason}).")
    at, score = best_of([sample.data for _, sample in usable], detectors)
    seed, sample = usable[at]
    return Photo(sample, _digest(sample.data), seed, score, (len(usable), len(seeds)))


def best_of(pictures: Sequence[bytes], detectors: Sequence[Detector]) -> tuple[int, float | None]:
    """Which picture has the best mean rank, and that rank scaled to 0 (worst of all) to 1 (best of all); the first of
    equals. Equal scores share their ranks. Without detectors, or with one picture: the first, None."""
    if not detectors or len(pictures) < 2:
        return 0, None
    totals = [0.0] * len(pictures)
    for detector in detectors:
        scores = [detector.score(picture) for picture in pictures]
        if any(score != score for score in scores):
            raise UserError("a detector gave no number for a picture (NaN). Leave it out of --detectors.")
        for at, score in enumerate(scores):
            below = sum(other < score for other in scores) + (scores.count(score) - 1) / 2
            totals[at] += below / (len(pictures) - 1)
    best = max(range(len(pictures)), key=lambda at: (totals[at], -at))
    return best, totals[best] / len(detectors)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
