"""Batches of resident pictures to what a vision model sees: normalised, and each one moved a little, on their device.

``data.augment`` transforms one picture with PIL; this does a batch where it lies, so that a training step never waits
for the processor. One affine sampling per picture (window, rotation, flip), then one affine change of its values
(brightness, contrast, normalisation). Random numbers are drawn on the processor from (seed, step), then sent: every
device moves the same picture the same way. ``augment_with`` takes them as an argument and can be captured in a graph.

Symbols: N pictures, H, W their height and width.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from clear_dist.data import augment as photo
from clear_dist.types import UserError

# [0, 255] becomes [-1, 1]. Not ImageNet's mean and deviation: models here start from random weights and a batch
# normalisation, and handwriting or drawings have not the statistics of photographs.
MEAN: Final = 0.5
STD: Final = 0.5
DRAWS: Final = 7  # numbers a picture needs: window, across, down, angle, flip, brightness, contrast


@dataclass(frozen=True)
class Augmentation:
    """How far a picture may move.

    shift: share of its sides, either way. scale: (least, most) side of the window that is seen, 1 being the whole
    picture, less a closer look; a window smaller than the picture lies anywhere in it, and ``shift`` beyond.
    degrees: rotation about the middle, either way. flip: mirror every second picture, left to right.
    jitter: brightness and contrast are multiplied by factors in 1 -+ this.
    """

    shift: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    degrees: float = 0.0
    flip: bool = False
    jitter: float = 0.0

    def __post_init__(self) -> None:
        least, most = self.scale
        for name, value, good, expected in (
            ("shift", self.shift, 0 <= self.shift <= 1, "0 to 1"),
            ("scale", self.scale, 0 < least <= most < math.inf, "(least, most) with 0 < least <= most"),
            ("degrees", self.degrees, 0 <= self.degrees <= 180, "0 to 180"),
            ("jitter", self.jitter, 0 <= self.jitter < 1, "at least 0, less than 1"),
        ):
            if not good:
                raise UserError(f"augmentation.{name}: expected {expected}; got {value}.")

    @property
    def moves(self) -> bool:
        """Whether pixels change places at all."""
        return self.flip or self.shift > 0 or self.degrees > 0 or self.scale != (1.0, 1.0)


AUGMENTATIONS: Final = MappingProxyType(
    {
        "none": Augmentation(),
        # Characters: no mirror, which would make another character, and no colours to change.
        "shift": Augmentation(shift=0.06, scale=(0.92, 1.08), degrees=6.0),
        # ``data.augment`` without its change of the sides' ratio and of saturation.
        "photo": Augmentation(
            scale=(photo.SCALE[0] ** 0.5, photo.SCALE[1] ** 0.5), degrees=photo.DEGREES, flip=True, jitter=photo.JITTER
        ),
    }
)


def normalise(pixels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """(pixels / 255 - MEAN) / STD: uint8 [N, 3, H, W] -> ``dtype`` [N, 3, H, W] in [-1, 1], on the same device."""
    assert pixels.dtype == torch.uint8 and pixels.ndim == 4
    return _normalised(pixels.to(torch.float32)).to(dtype)


def draws(count: int, seed: int, step: int) -> Tensor:
    """[count, DRAWS] float32 in [0, 1) on the processor: a function of the arguments alone."""
    key = hashlib.sha256(f"augment_batch/1/{seed}/{step}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(key[:8], "little", signed=True))
    return torch.rand(count, DRAWS, generator=generator)


def augment(pixels: Tensor, seed: int, step: int, settings: Augmentation, dtype: torch.dtype = torch.float32) -> Tensor:
    """``augment_with`` on the draws of (seed, step): picture j of the batch gets row j."""
    if not settings.moves and settings.jitter == 0:
        return normalise(pixels, dtype)
    return augment_with(pixels, draws(len(pixels), seed, step).to(pixels.device, non_blocking=True), settings, dtype)


def augment_with(
    pixels: Tensor, uniforms: Tensor, settings: Augmentation, dtype: torch.dtype = torch.float32
) -> Tensor:
    """uint8 [N, 3, H, W], moved and normalised: ``dtype`` [N, 3, H, W] on the same device. Nothing random here.

    uniforms: [N, DRAWS] float32 in [0, 1), on the device of the pixels. Bilinear; what comes in from outside continues
    the edge. Places and values that do not move stay exact: the identity is ``normalise``, a shift by whole pixels or
    a flip moves the very numbers. Brightness and contrast: v -> c b v + (1 - c) b m, m the picture's mean, clamped to
    [0, 255]. Work is done in float32 whatever ``dtype`` is.
    """
    assert pixels.dtype == torch.uint8 and pixels.ndim == 4
    assert uniforms.shape == (len(pixels), DRAWS) and uniforms.device == pixels.device
    values = pixels.to(torch.float32)
    if settings.moves:
        values = _sampled(values, uniforms, settings)
    if settings.jitter:
        bright, contrast = (1 + settings.jitter * (2 * uniforms[:, 5:, None, None] - 1)).unbind(1)
        bright, contrast = bright[..., None], contrast[..., None]
        mean = values.mean((1, 2, 3), keepdim=True)
        values = (values * (bright * contrast) + mean * (bright * (1 - contrast))).clamp_(0, 255)
    return _normalised(values).to(dtype)


def _normalised(values: Tensor) -> Tensor:
    return values.mul_(1 / (255 * STD)).sub_(MEAN / STD)


def _sampled(values: Tensor, uniforms: Tensor, settings: Augmentation) -> Tensor:
    """Each picture through its window: output place p -> source R(angle) (window F p + offset), from the middle."""
    height, width = values.shape[-2:]
    least, most = settings.scale
    u = uniforms[:, :, None, None]
    window = least + (most - least) * u[:, 0]
    reach = settings.shift + ((1 - window) / 2).clamp(min=0)
    across, down = ((2 * u[:, i] - 1) * reach * side for i, side in ((1, width), (2, height)))
    angle = (2 * u[:, 3] - 1) * math.radians(settings.degrees)
    cos, sin = angle.cos(), angle.sin()
    mirror = torch.where(u[:, 4] < 0.5, -1.0, 1.0) if settings.flip else torch.ones_like(window)

    x = torch.arange(width, device=values.device) - (width - 1) / 2  # [W]
    y = torch.arange(height, device=values.device)[:, None] - (height - 1) / 2  # [H, 1]
    seen_x, seen_y = window * mirror * x + across, window * y + down  # [N, 1, W], [N, H, 1]
    # Clamped here, not by the sampler: the edge is the picture's, not the canvas's.
    at_x = (cos * seen_x - sin * seen_y + (width - 1) / 2).clamp(0, width - 1)  # [N, H, W]
    at_y = (sin * seen_x + cos * seen_y + (height - 1) / 2).clamp(0, height - 1)
    # The sampler wants places in [-1, 1]. Where sides are powers of two, going there and back is exact; others are
    # put into the corner of a canvas that is.
    canvas_w, canvas_h = (1 << (side - 1).bit_length() for side in (width, height))
    canvas = functional.pad(values, (0, canvas_w - width, 0, canvas_h - height))
    grid = torch.stack(((2 * at_x + 1) / canvas_w - 1, (2 * at_y + 1) / canvas_h - 1), dim=-1)
    return functional.grid_sample(canvas, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
