"""StyleGAN2 (arXiv 1912.04958) as a source of faces: pictures, and what its discriminator says of them.

Inference only, fp32. Stage 2 of CLEAR's construction (arXiv 2410.18057, Appendix B) keeps those of its faces that the
discriminator likes best.

What deviates from NVIDIA's code and the PyTorch conversion of its weights:

* A picture is made and judged alone, so that it does not depend on what is made beside it. The discriminator looks at
  groups of four; the other three are always the same faces of its own generator, so that what a group differs by stays
  as in training, and a score is the picture's own.
* z and noise of a seed come from NumPy's ``RandomState``, whose numbers are frozen: z is NVIDIA's for the same seed
  below 2^32. The noise is not the file's, nor torch's, whose generator on a CPU reads only 32 bits of a seed.
* Truncation is towards the mean w of 4,096 z from a fixed seed, not the average that was kept in training.

Symbols: N pictures, S size of a style, z and w styles before and after the mapping network.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from operator import index
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from clear_dist.models.stylegan2_files import (
    StyleGAN2Settings,
    files_digest,
    find_directory,
    random_weights,
    read_networks,
    read_settings,
)
from clear_dist.models.stylegan2_layers import GROUP, Networks
from clear_dist.types import UserError

__all__ = ["PSI", "StyleGAN2", "encode_png", "random_weights"]

PSI = 0.7
_SAMPLE = 4096  # styles whose mean truncation goes towards
_SEEDS = 2**64


class StyleGAN2:
    """Faces by their seeds. On a CPU one seed always gives the same bytes and score, whatever is made beside it (with
    the same torch, zlib and number of threads); on a GPU, nearly so.

    settings: of the networks. psi: truncation, from above 0 (all faces alike) to 1 (none). digest: SHA-256 of the
    files.
    """

    def __init__(self, networks: Networks, settings: StyleGAN2Settings, digest: str, psi: float, origin: str) -> None:
        if isinstance(psi, bool) or not isinstance(psi, int | float) or not 0 < psi <= 1:
            raise UserError(f"psi: expected a number above 0 and at most 1; got {psi!r}")
        self.settings, self.digest, self.psi = settings, digest, psi
        self._generator, self._discriminator = networks.g_ema, networks.d
        self._device = networks.g_ema.input.input.device
        self._origin = origin

    @classmethod
    def open(cls, directory: str | Path, device: str = "auto", psi: float = PSI) -> StyleGAN2:
        """From a directory with ``config.json`` and ``model.safetensors``.

        Args:
            device: as torch names it; ``auto`` is a GPU where there is one.
            psi: truncation, above 0 to 1.

        Raises:
            UserError: files that are missing, pickled, damaged or do not belong together (see ``read_settings`` and
                ``read_networks``); a device that is not there; ``psi`` outside its range.
        """
        place = _device(device)
        path = find_directory(directory)
        settings = read_settings(path)
        networks = read_networks(path, settings)
        return cls(networks.to(place), settings, files_digest(path), psi, str(path))

    def make(self, seeds: Sequence[int]) -> Iterator[tuple[bytes, float]]:
        """(PNG, discriminator's score) for each seed, in order, one at a time.

        Raises:
            UserError: at once, a seed that is no whole number from 0 to 2^64 - 1; on the way, a picture or score that
                is not finite.
        """
        return map(self._one, [_checked(seed) for seed in seeds])

    def _one(self, seed: int) -> tuple[bytes, float]:
        with torch.inference_mode(), _exact():
            picture = self._picture(seed)
            features = torch.cat([self._discriminator.features(picture), self._company])
            score = float(self._discriminator.judge(features)[0])
            if not math.isfinite(score):  # NaN and infinity of a pixel reach it
                raise UserError(
                    f"{self._origin}: seed {seed} gives no finite picture or score; these are not the weights of a "
                    "trained StyleGAN2, fetch or convert them again"
                )
            # NVIDIA's rounding of [-1, 1] to bytes
            pixels = (picture[0].permute(1, 2, 0) * 127.5 + 128).clamp(0, 255).to(torch.uint8)
        return encode_png(pixels.cpu().numpy()), score

    def _picture(self, seed: int) -> Tensor:
        """[1, 3, size, size]"""
        # One word seeds as NVIDIA's code does; both words of a longer seed count.
        draw = np.random.RandomState(seed if seed < 2**32 else [seed % 2**32, seed >> 32])
        w = self._generator.style(self._normal(draw, 1, self.settings.style_dim))
        noise = [self._normal(draw, 1, 1, side, side) for side in self._generator.sides]
        return self._generator(self._mean.lerp(w, self.psi), noise)

    @cached_property
    def _mean(self) -> Tensor:
        z = self._normal(np.random.RandomState(0), _SAMPLE, self.settings.style_dim)
        return self._generator.style(z).double().mean(0, keepdim=True).float()

    @cached_property
    def _company(self) -> Tensor:
        """[3, C, 4, 4]: what the discriminator sees in the faces that each picture is judged beside."""
        return torch.cat([self._discriminator.features(self._picture(_SEEDS - i)) for i in range(1, GROUP)])

    def _normal(self, draw: np.random.RandomState, *shape: int) -> Tensor:
        return torch.from_numpy(draw.standard_normal(shape).astype(np.float32)).to(self._device)


def encode_png(pixels: np.ndarray) -> bytes:
    """[H, W, 3] uint8 -> PNG. Each row is written as its difference from the one above, which compresses well."""
    height, width, _ = pixels.shape
    rows = np.diff(pixels.reshape(height, -1), axis=0, prepend=np.zeros((1, 3 * width), np.uint8))
    data = np.insert(rows, 0, 2, axis=1).tobytes()  # filter 2: "up"
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def _exact() -> AbstractContextManager[None]:
    """fp32 also in convolutions on a GPU, by the same algorithm each time."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)


def _checked(seed: int) -> int:
    try:
        value = -1 if isinstance(seed, bool) else index(seed)
    except TypeError:
        value = -1
    if not 0 <= value < _SEEDS:
        raise UserError(f"seeds: expected whole numbers from 0 to 2^64 - 1; got {seed!r}")
    return value


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch raises an AssertionError where it is built without CUDA
        first = str(error).strip().splitlines()[0]
        raise UserError(f"device: {name!r} is not there ({first}); give auto, cpu or cuda") from error
    if device.type == "meta":
        raise UserError("device: 'meta' computes nothing; give auto, cpu or cuda")
    return device
