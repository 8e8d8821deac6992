"""Where faces, pictures and language come from: what ``data build`` was told, opened and digested."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clear_dist.config import DataBuildConfig
from clear_dist.config.data_build import parts
from clear_dist.data.build import face_drawer, photos
from clear_dist.data.build.face_drawer import DrawnFaces
from clear_dist.data.build.face_sources import LISTS, FolderFaces, MadeFaces
from clear_dist.data.build.faces import AgeShift, Face, FaceSource
from clear_dist.data.build.folder import key_of
from clear_dist.data.build.photos import Detector, DrawnPhotos, ImageSource, Sample
from clear_dist.data.build.prompts import LIMIT, Prompt, estimated_tokens
from clear_dist.data.clear import cache_directory
from clear_dist.data.mini.draw import SIZE
from clear_dist.services.judge import Endpoint, ask_patiently, endpoint, read_cached, write_cached
from clear_dist.types import UserError

SAMPLES = 8  # of each prompt, as in the paper
TOKENS = 400  # of a reply


@dataclass(frozen=True)
class FaceChoice:
    """digest: of everything that decides the faces. shifter: shows a face at another age, where the source can.
    scored: whether some faces are better than others; where none is, none is passed over. made: by a network, each at
    some cost."""

    source: FaceSource
    digest: str
    shifter: AgeShift | None = None
    skipped: Sequence[tuple[str, str]] = ()
    scored: bool = True
    made: bool = False


@dataclass(frozen=True)
class ImageChoice:
    """counter: names the way tokens are counted; limit: of tokens in a prompt."""

    source: ImageSource
    digest: str
    samples: int
    detectors: Sequence[Detector] = ()
    count: Callable[[str], int] = estimated_tokens
    counter: str = "words"
    limit: int = LIMIT


@dataclass(frozen=True)
class SavedAsker:
    """A language model whose replies are kept, so that a build that was interrupted asks nothing twice."""

    where: Endpoint
    model: str
    cache: Path = field(default_factory=lambda: cache_directory() / "asked")

    def ask(self, prompt: str) -> str:
        body = {"model": self.model, "messages": [{"role": "user", "content": prompt}], "temperature": 0, "top_p": 1}
        body |= {"max_tokens": TOKENS, "n": 1, "seed": 0, "stream": False}
        key = key_of("asked/1", body)
        kept, reply = read_cached(self.cache, key)
        if not kept:
            reply = ask_patiently(self.where, body)
            write_cached(self.cache, key, reply)
        return reply or ""


def askers(config: DataBuildConfig) -> dict[str, SavedAsker]:
    """What may be asked -> who is asked; empty without ``--ask-url``."""
    if config.ask_url is None or config.ask_model is None:
        return {}
    asker = SavedAsker(endpoint(config.ask_url, key_env=config.ask_key_env), config.ask_model)
    return dict.fromkeys(parts(config.ask_for), asker)


def open_faces(config: DataBuildConfig) -> FaceChoice:
    """Raises UserError: nothing of the kind there, a list that cannot be read, weights that are not safetensors."""
    if config.faces == "drawn":
        drawn = DrawnFaces()
        return FaceChoice(drawn, key_of("drawn", face_drawer.STREAM), drawn)
    folder = Path(config.faces)
    if any((folder / name).is_file() for name in LISTS):
        listed = FolderFaces(folder)
        facts = [(face.id, face.look, face.age, face.gender, face.group, face.score) for face in listed.faces.values()]
        scored = len({face.score for face in listed.faces.values()}) > 1
        return FaceChoice(listed, key_of("folder", facts), None, listed.skipped, scored)
    if not folder.is_dir():
        raise UserError(
            f"--faces {folder}: no such directory; expected drawn, or a folder of pictures or of a network."
        )
    return _made_faces(config, folder)


def open_images(config: DataBuildConfig) -> ImageChoice:
    """Raises UserError: no pipeline there, one that cannot be given a face, weights that are not safetensors."""
    detectors, judged = _detectors(config)
    if config.images == "drawn":
        size = config.size or SIZE
        source = DrawnPhotos(DrawnFaces(), size)
        return ImageChoice(source, key_of("drawn", photos.STREAM, size, judged), config.samples or 1, detectors)
    from clear_dist.models.photo_pipeline import PhotoPipeline

    pipeline = PhotoPipeline.open(config.images, config.device, config.adapter)
    numbers = {"style": config.style, "guidance": config.guidance, "steps": config.steps, "size": config.size}
    digest = key_of("pipeline", pipeline.digest, numbers, judged)
    samples = config.samples or SAMPLES
    source = MadePhotos(pipeline, numbers)
    return ImageChoice(
        source, digest, samples, detectors, pipeline.count_tokens, f"tokenizer of {pipeline.digest}", pipeline.limit
    )


def _detectors(config: DataBuildConfig) -> tuple[list[Detector], str]:
    """The detectors, and a digest of them all."""
    names = parts(config.detectors or "")
    if not names:
        return [], "none"
    from clear_dist.models.picture_classifier import RealnessDetector

    found = [RealnessDetector.open(name, config.device) for name in names]
    return list(found), key_of([detector.digest for detector in found])


class MadePhotos:
    """The pictures of a pipeline that was given a face, as a source."""

    def __init__(self, pipeline: Any, numbers: dict[str, Any]) -> None:
        self.pipeline, self.numbers = pipeline, numbers

    def take(self, face: Face, prompt: Prompt, seeds: Sequence[int]) -> list[Sample]:
        made: list[bytes] = self.pipeline.make(face.read(), prompt.text, prompt.negative, seeds, **self.numbers)
        return [Sample(data) for data in made]


def _made_faces(config: DataBuildConfig, folder: Path) -> FaceChoice:
    """Faces of a network: diffusers where there is a model_index.json, else StyleGAN2."""
    from clear_dist.models.picture_estimator import FaceEstimator

    network: Any
    if (folder / "model_index.json").is_file():
        from clear_dist.models.photo_faces import FacePipeline

        network, name = FacePipeline.open(folder, config.device), "diffusers"
    else:
        from clear_dist.models.stylegan2 import StyleGAN2

        network, name = StyleGAN2.open(folder, device=config.device), "stylegan2"
    estimator = FaceEstimator.open(config.face_age, config.face_gender, config.face_group, config.device)
    digest = key_of(name, network.digest, estimator.digest)
    return FaceChoice(MadeFaces(network, estimator, name), digest, scored=name == "stylegan2", made=True)
