"""Faces of nobody, by an unconditional diffusers pipeline: DDPM and its like, trained on portraits."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch

from clear_dist.models.photo_files import inspect_pipeline, parts_digest
from clear_dist.models.photo_load import device_named, load_pipeline
from clear_dist.models.photo_sample import sample
from clear_dist.types import UserError


class Detector(Protocol):
    def score(self, picture: bytes) -> float:
        """How real a picture looks; higher is more real."""
        ...


class FacePipeline:
    """A pipeline that draws without being told what. Satisfies ``data.build.face_sources.FaceModel``.

    detector: gives the faces their scores; without one all are 0. steps: of denoising; None: the pipeline's own number
    (1,000 for DDPM). Raises UserError on a pipeline whose call wants more than a seed.
    """

    def __init__(
        self, pipeline: Any, detector: Detector | None = None, steps: int | None = None, digest: str | None = None
    ) -> None:
        parameters = inspect.signature(type(pipeline).__call__).parameters
        wanted = [
            name for name, one in parameters.items() if one.default is one.empty and name not in ("self", "kwargs")
        ]
        expected = {"batch_size", "generator", "num_inference_steps", "output_type"}
        if wanted or not expected <= set(parameters):
            raise UserError(
                f"{type(pipeline).__name__}: not an unconditional pipeline, such as DDPMPipeline: its call takes "
                f"{', '.join(name for name in parameters if name != 'self')}."
            )
        if steps is not None and steps < 1:
            raise UserError(f"steps: expected a whole number of at least 1; got {steps}.")
        self.pipeline, self.detector, self._digest = pipeline, detector, digest
        self.arguments = {} if steps is None else {"num_inference_steps": steps}

    @classmethod
    def open(
        cls,
        directory: str | Path,
        device: torch.device | str = "auto",
        detector: Detector | None = None,
        steps: int | None = None,
    ) -> FacePipeline:
        """A pipeline from a directory or by its Hub name, in fp32. Raises UserError: see ``inspect_pipeline``."""
        files = inspect_pipeline(directory)
        digest = files.digest()
        pipeline = load_pipeline(files, torch.float32).to(device_named(device))
        return cls(pipeline, detector, steps, digest)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of weights and configurations."""
        return parts_digest(self.pipeline) if self._digest is None else self._digest

    def make(self, seeds: Sequence[int]) -> Iterator[tuple[bytes, float]]:
        """(PNG, score) for each seed, in order; one seed always gives the same."""
        for seed in seeds:
            picture = sample(self.pipeline, seed, batch_size=1, **self.arguments)
            yield picture, 0.0 if self.detector is None else self.detector.score(picture)
