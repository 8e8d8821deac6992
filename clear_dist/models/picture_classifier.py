"""Classifiers of pictures from transformers directories, and detectors of made pictures on top of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoModelForImageClassification

from clear_dist.models.files import fetch_weights, resolve, weight_files, weight_totals, weights_digest
from clear_dist.models.info import load_config
from clear_dist.models.photo_load import device_named
from clear_dist.models.picture_bytes import decoded
from clear_dist.models.quiet import quiet
from clear_dist.models.vision_files import first_line, image_processor
from clear_dist.types import UserError

# What detectors call a picture that nobody made up.
REAL: Final = ("authentic", "camera", "genuine", "hum", "human", "natural", "nature", "photo", "real", "realism")


class PictureClassifier:
    """A classifier: how likely each of its labels is for a picture. name: for messages. digest: of its weights.

    Raises UserError on labels that occur twice, and on a model whose labels do not exclude each other.
    """

    def __init__(self, model: Any, images: Any, name: str, digest: str = "") -> None:
        self.model, self.images, self.name, self.digest = model, images, name, digest
        self.device: torch.device = model.device
        config = model.config
        self.labels: tuple[str, ...] = tuple(str(config.id2label[i]) for i in range(config.num_labels))
        if len(set(self.labels)) < len(self.labels):
            raise UserError(
                f"{name}: id2label: a label occurs twice among {', '.join(self.labels)}; correct config.json."
            )
        if config.problem_type not in (None, "single_label_classification"):
            raise UserError(
                f"{name}: problem_type: expected labels that exclude each other; got {config.problem_type}."
            )

    @classmethod
    def open(cls, directory: str | Path, device: torch.device | str = "auto") -> PictureClassifier:
        """A classifier from a directory or by its Hub name, in fp32.

        Raises UserError: no such model; weights that are missing, pickled, broken or of another configuration; no
        image processor.
        """
        where = device_named(device)
        name = str(directory)
        path = resolve(name)
        config = load_config(path)
        fetch_weights(name, path)
        weight_totals(weight_files(path))
        auto: Any = AutoModelForImageClassification
        try:
            with quiet():
                model, report = auto.from_pretrained(
                    path,
                    config=config,
                    dtype=torch.float32,
                    local_files_only=True,
                    use_safetensors=True,
                    trust_remote_code=False,
                    output_loading_info=True,
                )
        except Exception as error:  # transformers raises many kinds
            raise UserError(f"{path}: cannot be loaded as a classifier of pictures: {first_line(error)}") from error
        if missing := sorted(report["missing_keys"]):
            raise UserError(
                f"{path}: the weights lack {len(missing)} tensors config.json asks for (first: {missing[0]}); "
                "configuration and weights do not belong together."
            )
        return cls(model.to(where).eval(), image_processor(path)[1], name, weights_digest(path))

    @torch.no_grad()
    def probabilities(self, picture: bytes) -> dict[str, float]:
        """Label -> probability, in the model's order. Raises UserError on what is no picture."""
        image = decoded(picture, f"picture for {self.name}")
        pixels = self.images(images=[image], return_tensors="pt")["pixel_values"]
        logits = self.model(pixel_values=pixels.to(self.device, torch.float32)).logits[0]
        if not logits.isfinite().all():
            raise UserError(f"{self.name}: gave values that are no numbers; its weights are broken.")
        return dict(zip(self.labels, logits.double().softmax(0).tolist(), strict=True))

    def likeliest(self, picture: bytes) -> str:
        """The label with the highest probability; the first of equals."""
        found = self.probabilities(picture)
        return max(found, key=lambda label: found[label])


class RealnessDetector:
    """How real a picture looks: the probability of a classifier's labels that mean so (``REAL``).

    Satisfies ``data.build.photos.Detector``. Raises UserError where no label means so, or every one does.
    """

    def __init__(self, classifier: PictureClassifier) -> None:
        self.classifier = classifier
        self.real = [label for label in classifier.labels if plain(label) in REAL]
        if not 0 < len(self.real) < len(classifier.labels):
            raise UserError(
                f"{classifier.name}: cannot tell real pictures from made ones: of its labels "
                f"({', '.join(classifier.labels)}) {len(self.real)} mean that a picture is real. Expected one of "
                f"{', '.join(REAL)}, and one that is not."
            )

    @classmethod
    def open(cls, directory: str | Path, device: torch.device | str = "auto") -> RealnessDetector:
        return cls(PictureClassifier.open(directory, device))

    @property
    def digest(self) -> str:
        return self.classifier.digest

    def score(self, picture: bytes) -> float:
        """0 to 1; higher is more real."""
        found = self.classifier.probabilities(picture)
        return sum(found[label] for label in self.real)


def plain(label: str) -> str:
    """Lower case, words apart by one space."""
    return " ".join(label.lower().replace("_", " ").replace("/", " ").replace("-", " ").split())


def check_labels(classifier: PictureClassifier, words: Mapping[str, object], what: str) -> None:
    """Raises UserError naming a label that stands for none of ``words``."""
    if strange := [label for label in classifier.labels if plain(label) not in words]:
        raise UserError(
            f"{classifier.name}: {strange[0]!r} is no {what} that is known here; expected {', '.join(words)}. Rename "
            "the label in config.json (id2label)."
        )
