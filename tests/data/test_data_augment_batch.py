"""Whole batches moved at once: exact where nothing moves, the same for the same seed, each picture by itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from clear_dist.data.augment_batch import (
    AUGMENTATIONS,
    DRAWS,
    MEAN,
    STD,
    Augmentation,
    augment,
    augment_with,
    draws,
    normalise,
)
from clear_dist.types import UserError

FLIP = 4
ALL = Augmentation(shift=0.25, scale=(0.5, 1.5), degrees=30.0, flip=False, jitter=0.4)


def pictures(count: int = 3, height: int = 32, width: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def middle(count: int = 3, **put: float) -> Tensor:
    """Draws that change nothing, but for the named ones."""
    found = torch.full((count, DRAWS), 0.5)
    for name, value in put.items():
        found[:, ["window", "across", "down", "angle", "flip", "bright", "contrast"].index(name)] = value
    return found


def raw(values: Tensor) -> Tensor:
    """Back to 0..255."""
    return (values * STD + MEAN) * 255


def test_normalise_maps_bytes_to_minus_one_to_one() -> None:
    ends = torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1).expand(2, 3, 4, 4)
    assert torch.equal(normalise(ends)[:, 0, 0, 0], torch.tensor([-1.0, 1.0]))
    assert torch.allclose(raw(normalise(pictures())), pictures().float(), atol=1e-4)


@pytest.mark.parametrize("side", [(32, 32), (31, 45), (105, 64)])
def test_what_does_not_move_is_exact(side: tuple[int, int]) -> None:
    # Sides that are no powers of two go through a canvas; any rounding of places would show.
    batch = pictures(2, *side)
    still = augment_with(batch, middle(2), ALL)
    assert (still - normalise(batch)).abs().max() < 1e-6


@pytest.mark.parametrize("side", [(32, 32), (31, 45)])
def test_a_flip_mirrors_the_very_numbers_of_every_second_picture(side: tuple[int, int]) -> None:
    batch = pictures(2, *side)
    uniforms = middle(2)
    uniforms[:, FLIP] = torch.tensor([0.49, 0.51])
    found = augment_with(batch, uniforms, Augmentation(flip=True))
    assert torch.equal(found[0], normalise(batch).flip(-1)[0])
    assert torch.equal(found[1], normalise(batch)[1])


@pytest.mark.parametrize(("across", "down"), [(4, 0), (-4, 0), (0, 3), (2, -5)])
def test_a_shift_by_whole_pixels_moves_the_very_numbers_and_repeats_the_edge(across: int, down: int) -> None:
    batch = pictures(2, 32, 64)
    settings = Augmentation(shift=0.5)
    uniforms = middle(2, across=0.5 + across / 64, down=0.5 + down / 32)
    found = augment_with(batch, uniforms, settings)
    # The window goes right and down: what is seen at x is what was at x + across.
    rows, columns = (torch.arange(32) + down).clamp(0, 31), (torch.arange(64) + across).clamp(0, 63)
    assert torch.equal(found, normalise(batch)[:, :, rows][:, :, :, columns])


def test_a_rotation_turns_as_pil_does() -> None:
    y, x = np.mgrid[0:48, 0:48]
    smooth = np.stack([127 + 100 * np.sin(x / 9), 127 + 100 * np.cos(y / 7), 5 * x], -1).clip(0, 255).astype(np.uint8)
    batch = torch.from_numpy(smooth.transpose(2, 0, 1).copy())[None]
    settings = Augmentation(degrees=20.0)
    found = raw(augment_with(batch, middle(1, angle=1.0), settings))[0]
    turned = Image.fromarray(smooth).rotate(20.0, Image.Resampling.BILINEAR)
    expected = torch.from_numpy(np.array(turned).transpose(2, 0, 1).copy()).float()
    inside = (slice(None), slice(12, 36), slice(12, 36))
    assert (found[inside] - expected[inside]).abs().max() < 1.5
    other_way = raw(augment_with(batch, middle(1, angle=0.0), settings))[0]
    assert (other_way[inside] - expected[inside]).abs().max() > 20


def test_a_small_window_is_a_closer_look_and_stays_inside() -> None:
    ramp = torch.arange(64, dtype=torch.uint8).expand(1, 3, 64, 64)
    half = Augmentation(scale=(0.5, 0.5))
    for across, first in ((0.0, 0.0), (0.5, 16.0), (1.0, 32.0)):
        found = raw(augment_with(ramp, middle(1, across=across), half))[0, 0, 30]
        expected = (first + (torch.arange(64) + 0.5) / 2 - 0.5).clamp(0, 63)
        assert torch.allclose(found, expected, atol=1e-3)


def test_a_large_window_shows_the_whole_picture_in_the_middle() -> None:
    ramp = torch.arange(64, dtype=torch.uint8).expand(1, 3, 64, 64)
    for across in (0.0, 1.0):
        found = raw(augment_with(ramp, middle(1, across=across), Augmentation(scale=(2.0, 2.0))))[0, 0, 30]
        assert torch.allclose(found, (2 * torch.arange(64) - 31.5).clamp(0, 63), atol=1e-3)


def test_brightness_and_contrast() -> None:
    flat = torch.full((1, 3, 8, 8), 100, dtype=torch.uint8)
    settings = Augmentation(jitter=0.2)
    assert torch.allclose(raw(augment_with(flat, middle(1, bright=1.0), settings)), torch.tensor(120.0), atol=1e-3)
    assert torch.allclose(raw(augment_with(flat, middle(1, contrast=1.0), settings)), torch.tensor(100.0), atol=1e-3)
    halves = flat.clone()
    halves[..., 4:] = 200
    found = raw(augment_with(halves, middle(1, contrast=0.0), settings))[0, 0, 0]
    assert torch.allclose(found[[0, 7]], torch.tensor([110.0, 190.0]), atol=1e-3)
    bright = raw(augment_with(halves + 50, middle(1, bright=1.0), settings))
    assert torch.allclose(bright.max(), torch.tensor(255.0), atol=1e-3)  # 300, clamped


def test_draws_are_a_function_of_seed_and_step() -> None:
    assert torch.equal(draws(8, 3, 5), draws(8, 3, 5))
    for seed, step in ((4, 5), (3, 6), (5, 3), (-3, 5)):
        assert not torch.equal(draws(8, 3, 5), draws(8, seed, step))
    many = draws(2000, 0, 0)
    assert many.min() >= 0 and many.max() < 1
    assert (many.mean(0) - 0.5).abs().max() < 0.04


def test_the_generator_of_others_is_left_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    augment(pictures(), 1, 2, AUGMENTATIONS["photo"])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["shift", "photo"])
def test_the_same_seed_gives_the_same_batch_and_neighbours_do_not_matter(name: str) -> None:
    batch, settings = pictures(6), AUGMENTATIONS[name]
    found = augment(batch, 1, 2, settings)
    assert torch.equal(found, augment(batch, 1, 2, settings))
    assert not torch.allclose(found, augment(batch, 1, 3, settings))
    uniforms = draws(6, 1, 2)
    order = torch.tensor([4, 0, 5])
    alone = augment_with(batch[order], uniforms[order], settings)
    assert torch.allclose(alone, found[order], atol=1e-6)
    assert not torch.allclose(augment(batch[:1].expand(2, -1, -1, -1), 1, 2, settings)[0], found[1])


def test_no_augmentation_is_normalise_and_the_input_is_left_alone() -> None:
    batch = pictures()
    kept = batch.clone()
    assert torch.equal(augment(batch, 1, 2, AUGMENTATIONS["none"]), normalise(batch))
    augment(batch, 1, 2, AUGMENTATIONS["photo"])
    assert torch.equal(batch, kept)


@pytest.mark.parametrize("name", list(AUGMENTATIONS))
def test_half_precision_is_the_rounded_full_one(name: str) -> None:
    batch, settings = pictures(), AUGMENTATIONS[name]
    full, half = augment(batch, 1, 2, settings), augment(batch, 1, 2, settings, torch.bfloat16)
    assert (full.dtype, half.dtype) == (torch.float32, torch.bfloat16)
    assert torch.equal(full.to(torch.bfloat16), half)
    assert full.abs().max() <= 1 + 1e-6


def test_characters_are_neither_mirrored_nor_recoloured() -> None:
    assert not AUGMENTATIONS["shift"].flip and AUGMENTATIONS["shift"].jitter == 0


@pytest.mark.parametrize(
    ("field", "settings"),
    [
        ("shift", {"shift": -0.1}),
        ("scale", {"scale": (1.1, 0.9)}),
        ("scale", {"scale": (0.0, 1.0)}),
        ("scale", {"scale": (1.0, float("inf"))}),
        ("degrees", {"degrees": 200.0}),
        ("jitter", {"jitter": 1.0}),
        ("shift", {"shift": float("nan")}),
    ],
)
def test_settings_out_of_range_are_refused(field: str, settings: dict[str, object]) -> None:
    with pytest.raises(UserError, match=f"augmentation.{field}"):
        Augmentation(**settings)  # pyright: ignore[reportArgumentType]
