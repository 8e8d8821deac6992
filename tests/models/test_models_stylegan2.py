"""Faces by their seeds: the same bytes whatever stands beside them, a score, a PNG that others can read."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from clear_dist.data.build.face_sources import FaceModel
from clear_dist.models.stylegan2 import PSI, StyleGAN2, encode_png, random_weights
from clear_dist.models.stylegan2_layers import with_deviation
from clear_dist.types import UserError

SEEDS = (0, 7, 2**32 - 1, 2**32, 2**63 - 1, 2**64 - 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_weights(tmp_path_factory.mktemp("stylegan2"), 16)


@pytest.fixture(scope="module")
def model(folder: Path) -> StyleGAN2:
    return StyleGAN2.open(folder, "cpu")


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        image.load()
        assert image.format == "PNG" and image.mode == "RGB"
        return np.asarray(image)


def test_a_network_of_faces(model: StyleGAN2) -> None:
    """What the data's side asks for."""
    source: FaceModel = model
    made = list(source.make(SEEDS))
    assert len(made) == len(SEEDS) and len({png for png, _ in made}) == len({score for _, score in made}) == len(SEEDS)
    for png, score in made:
        assert pixels(png).shape == (16, 16, 3)
        assert isinstance(score, float) and np.isfinite(score)
    assert list(model.make([])) == []


def test_one_seed_gives_the_same_bytes_and_score_whatever_stands_beside_it(folder: Path, model: StyleGAN2) -> None:
    state = torch.get_rng_state()
    together = list(model.make(SEEDS))
    assert list(model.make(SEEDS[::-1])) == together[::-1]
    for seed, expected in zip(SEEDS, together, strict=True):
        assert next(StyleGAN2.open(folder, "cpu").make([seed])) == expected  # alone, nothing kept from before
    assert list(model.make(np.array([7, 7]))) == [together[1]] * 2  # pyright: ignore[reportArgumentType]
    assert torch.equal(state, torch.get_rng_state())


def test_all_64_bits_of_a_seed_count(model: StyleGAN2) -> None:
    pictures = [png for png, _ in model.make([5, 5 + 2**32, 5 + 2**33, 5 + 2**63])]
    assert len(set(pictures)) == 4


@torch.inference_mode()
def test_z_is_nvidias(model: StyleGAN2, monkeypatch: pytest.MonkeyPatch) -> None:
    """``RandomState(seed).randn(1, 512)`` is what NVIDIA's code draws for a seed."""
    generator, seen = model._generator, []
    monkeypatch.setattr(generator.style, "forward", lambda z: seen.append(z) or torch.zeros_like(z))
    model._picture(85)
    expected = np.random.RandomState(85).randn(1, 16).astype(np.float32)
    np.testing.assert_array_equal(seen[-1].numpy(), expected)


@torch.inference_mode()
def test_truncation_goes_towards_the_mean(folder: Path, model: StyleGAN2, monkeypatch: pytest.MonkeyPatch) -> None:
    assert model.psi == PSI == 0.7
    z = torch.from_numpy(np.random.RandomState(0).randn(4096, 16).astype(np.float32))
    mean = model._generator.style(z).mean(0, keepdim=True)
    for psi in (1.0, 0.7, 0.25):
        other = StyleGAN2.open(folder, "cpu", psi)
        styles: list[torch.Tensor] = []
        monkeypatch.setattr(other._generator, "forward", lambda w, noise, kept=styles: kept.append(w))
        other._picture(3)
        own = other._generator.style(torch.from_numpy(np.random.RandomState(3).randn(1, 16).astype(np.float32)))
        torch.testing.assert_close(styles[0], mean + psi * (own - mean))


@torch.inference_mode()
def test_a_score_is_the_discriminators_beside_three_fixed_faces(model: StyleGAN2) -> None:
    company = [model._picture(2**64 - i) for i in (1, 2, 3)]
    group = torch.cat([model._picture(4), *company])
    features = torch.cat([model._discriminator.features(one[None]) for one in group])
    assert with_deviation(features)[0, -1, 0, 0] > 1e-3  # of one picture alone it would be 1e-4
    assert next(model.make([4]))[1] == pytest.approx(float(model._discriminator(group)[0]), rel=1e-5)


@torch.inference_mode()
def test_bytes_are_rounded_and_clamped(model: StyleGAN2, monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.tensor([-9.0, -1.0, -0.5, 0.0, 0.5, 1.0, 9.0, 1 / 255])
    picture = values.repeat(3 * 16 * 16 // 8).view(1, 16, 16, 3).permute(0, 3, 1, 2).contiguous()
    monkeypatch.setattr(model, "_picture", lambda seed: picture)
    expected = [0, 0, 64, 128, 191, 255, 255, 128]
    assert pixels(next(model.make([0]))[0]).flatten()[:8].tolist() == expected


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (64, 48)])
def test_png_is_read_back(shape: tuple[int, int]) -> None:
    values = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    np.testing.assert_array_equal(pixels(encode_png(values)), values)
    assert len(encode_png(np.zeros((512, 512, 3), np.uint8))) < 4000


def test_digest_is_of_the_files(folder: Path, model: StyleGAN2, tmp_path: Path) -> None:
    parts = [hashlib.sha256((folder / name).read_bytes()).digest() for name in ("config.json", "model.safetensors")]
    assert model.digest == hashlib.sha256(b"".join(parts)).hexdigest()
    assert StyleGAN2.open(random_weights(tmp_path / "same", 16), "cpu").digest == model.digest
    assert StyleGAN2.open(random_weights(tmp_path / "other", 16, seed=1), "cpu").digest != model.digest


def test_random_weights_leave_torchs_random_state_alone(tmp_path: Path) -> None:
    state = torch.get_rng_state()
    random_weights(tmp_path, 8)
    assert torch.equal(state, torch.get_rng_state())
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("size", [8, 64])
def test_sizes(size: int, tmp_path: Path) -> None:
    model = StyleGAN2.open(random_weights(tmp_path, size, channel_max=4), "cpu")
    assert pixels(next(model.make([1]))[0]).shape == (size, size, 3)


@pytest.mark.parametrize("seed", [-1, 2**64, 1.0, "1", True, None])
def test_seeds_are_refused_before_a_picture_is_made(model: StyleGAN2, seed: Any) -> None:
    with pytest.raises(UserError, match=r"seeds: expected whole numbers from 0 to 2\^64 - 1; got "):
        model.make([0, seed])


@pytest.mark.parametrize("psi", [0, -0.1, 1.01, float("nan"), "1", True, None])
def test_psi_outside_its_range(folder: Path, psi: Any) -> None:
    with pytest.raises(UserError, match="psi: expected a number above 0 and at most 1; got "):
        StyleGAN2.open(folder, "cpu", psi)


@pytest.mark.parametrize("device", ["gpu", "", "cuda:99", "meta"])
def test_a_device_that_is_not_there(folder: Path, device: str) -> None:
    with pytest.raises(UserError, match=r"device: .* give auto, cpu or cuda"):
        StyleGAN2.open(folder, device)


def test_auto_is_the_cpu_without_a_gpu(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert StyleGAN2.open(folder)._device.type == "cpu"
