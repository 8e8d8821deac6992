"""Classifiers of pictures: probabilities as the model gives them, labels that mean something, and those that do not."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

import pytest
import torch
from tiny_pipelines import edit, noise, write_classifier
from transformers import ViTForImageClassification, ViTImageProcessorPil

from clear_dist.data.build import person
from clear_dist.data.build.face_sources import Estimator
from clear_dist.data.build.photos import Detector
from clear_dist.models import picture_estimator
from clear_dist.models.picture_bytes import decoded
from clear_dist.models.picture_classifier import PictureClassifier, RealnessDetector
from clear_dist.models.picture_estimator import FaceEstimator, years_of
from clear_dist.types import UserError

FAIRFACE_AGES = ("0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "more than 70")
FAIRFACE_RACES = (
    "White", "Black", "Latino_Hispanic", "East Asian", "Southeast Asian", "Indian", "Middle Eastern",
)  # fmt: skip
GROUPS = (
    "european", "african", "latin_american", "east_asian", "southeast_asian", "south_asian", "middle_eastern",
)  # fmt: skip
Write = Callable[[Sequence[str]], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    return lambda labels: write_classifier(tmp_path / str(len(list(tmp_path.iterdir()))), labels)


def test_probabilities_are_the_models_own(write: Write) -> None:
    folder = write(["a", "b", "c"])
    classifier = PictureClassifier.open(folder, device="cpu")
    model = ViTForImageClassification.from_pretrained(folder).eval()
    images = ViTImageProcessorPil.from_pretrained(folder)
    found = [classifier.probabilities(noise(seed)) for seed in (1, 2)]
    for seed, given in zip((1, 2), found, strict=True):
        with torch.no_grad():
            pixels = images(images=[decoded(noise(seed), "it")], return_tensors="pt")["pixel_values"]
            expected = model(pixel_values=pixels).logits[0].softmax(0)
        assert list(given) == ["a", "b", "c"]
        assert list(given.values()) == pytest.approx(expected.tolist(), abs=1e-6)
        assert classifier.likeliest(noise(seed)) == "abc"[int(expected.argmax())]
    assert found[0] != found[1]


def test_realness_is_the_share_of_labels_that_say_so(write: Write) -> None:
    folder = write(["REAL", "Fake", "photo"])
    detector = RealnessDetector.open(folder, device="cpu")
    asked: Detector = detector
    found = detector.classifier.probabilities(noise(3))
    assert asked.score(noise(3)) == pytest.approx(1 - found["Fake"], abs=1e-12)
    assert detector.real == ["REAL", "photo"] and len(detector.digest) == 64


@pytest.mark.parametrize("labels", [["fake", "artificial"], ["real", "human"], ["LABEL_0", "LABEL_1"]])
def test_labels_that_do_not_tell_real_from_made(write: Write, labels: list[str]) -> None:
    with pytest.raises(UserError, match=rf"cannot tell real pictures from made ones.*{labels[0]}.*authentic"):
        RealnessDetector.open(write(labels), device="cpu")


def test_faces_are_estimated_by_the_likeliest_label(write: Write) -> None:
    age, gender, group = write(FAIRFACE_AGES), write(["Male", "Female"]), write(FAIRFACE_RACES)
    estimator = FaceEstimator.open(age, gender, group, device="cpu")
    as_data_wants_it: Estimator = estimator
    seen: set[object] = set()
    for seed in range(6):
        face = noise(seed)
        years, word, region = as_data_wants_it.estimate(face)
        assert estimator.age and estimator.gender and estimator.group
        assert years == years_of(estimator.age.likeliest(face))
        assert word == estimator.gender.likeliest(face).lower()
        assert region == GROUPS[FAIRFACE_RACES.index(estimator.group.likeliest(face))]
        seen |= {years, word, region}
    assert len(seen) > 3
    assert FaceEstimator.open(gender=gender, device="cpu").estimate(noise(0))[::2] == (None, None)
    assert FaceEstimator().estimate(noise(0)) == (None, None, None)
    assert len({estimator.digest, FaceEstimator.open(gender=gender).digest, FaceEstimator.open(age).digest}) == 3


def test_words_are_those_of_the_data() -> None:
    assert get_args(picture_estimator.Gender) == person.GENDERS
    assert get_args(picture_estimator.Group) == person.GROUPS
    assert set(picture_estimator.GENDERS.values()) - {None} == set(person.GENDERS)
    assert set(picture_estimator.GROUPS.values()) - {None} == set(person.GROUPS)


@pytest.mark.parametrize(
    ("label", "years"),
    [
        ("20-29", 24), ("0-2", 1), ("3-9", 6), ("more than 70", 75), ("60+", 65), ("70 or older", 75), ("under 10", 5),
        ("(25, 32)", 28), ("34", 34), ("age_20_to_29", 24), ("20 – 29 years", 24), ("<18", 9), (">=65", 70),
    ],
)  # fmt: skip
def test_ages(label: str, years: int) -> None:
    assert years_of(label) == years


@pytest.mark.parametrize("label", ["", "teen", "29-20", "130", "20-29-30", "-5", "LABEL_3", "more than 118", "２０"])
def test_labels_that_are_no_ages(label: str) -> None:
    with pytest.raises(UserError, match=r"model: .* is no age that is known here; expected ranges .* 20-29"):
        years_of(label, "model")


def test_labels_that_are_not_known(write: Write) -> None:
    with pytest.raises(UserError, match=r"'Martian' is no group that is known here; expected african, black"):
        FaceEstimator.open(group=write(["Black", "Martian"]), device="cpu")
    with pytest.raises(UserError, match=r"'cat' is no gender that is known here; expected female, woman"):
        FaceEstimator.open(gender=write(["cat", "male"]), device="cpu")
    with pytest.raises(UserError, match="'adult' is no age"):
        FaceEstimator.open(age=write(["adult", "20-29"]), device="cpu")


def test_directories_that_are_no_classifier(write: Write, tiny_dir: Path, tmp_path: Path) -> None:
    folder = write(["real", "fake"])
    with pytest.raises(UserError, match="no such directory"):
        PictureClassifier.open(tmp_path / "nowhere")
    with pytest.raises(UserError, match="cannot be loaded as a classifier of pictures"):
        PictureClassifier.open(tiny_dir, device="cpu")
    with pytest.raises(UserError, match="not a picture that can be opened"):
        PictureClassifier.open(folder, device="cpu").probabilities(b"text")
    config = (folder / "config.json").read_text()
    for changes, message in (
        ({"num_hidden_layers": 3}, r"the weights lack \d+ tensors"),
        ({"id2label": {"0": "real", "1": "real"}}, "a label occurs twice among real, real"),
        ({"problem_type": "multi_label_classification"}, "problem_type: expected labels that exclude each other"),
    ):
        edit(folder / "config.json", **changes)
        with pytest.raises(UserError, match=message):
            PictureClassifier.open(folder, device="cpu")
        (folder / "config.json").write_text(config)
    processor = folder / "preprocessor_config.json"
    processor.rename(tmp_path / "kept")
    with pytest.raises(UserError, match=r"no preprocessor_config\.json"):
        PictureClassifier.open(folder, device="cpu")
    (tmp_path / "kept").rename(processor)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-3])
    with pytest.raises(UserError, match="fetch the file again"):
        PictureClassifier.open(folder, device="cpu")
    weights.rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="pickled weights only"):
        PictureClassifier.open(folder, device="cpu")


def test_broken_weights_give_no_probabilities(write: Write) -> None:
    classifier = PictureClassifier.open(write(["real", "fake"]), device="cpu")
    classifier.model.classifier.bias.data[0] = float("nan")
    with pytest.raises(UserError, match="gave values that are no numbers"):
        classifier.probabilities(noise(1))


def test_a_small_file_of_too_many_pixels_is_refused() -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    side = 10_000  # 100 million pixels of one bit
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    bomb = header + chunk(b"IDAT", zlib.compress(bytes(side * (1 + side // 8)))) + chunk(b"IEND", b"")
    assert len(bomb) < 20_000
    with pytest.raises(UserError, match="face: not a picture that can be opened"):
        decoded(b"\x89PNG\r\n\x1a\n" + bomb, "face")
