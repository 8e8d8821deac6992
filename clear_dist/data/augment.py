"""A seeded image transform: the same person, seen a little differently.

Used where the reference looks at a transformed picture while the student sees the original one (the view AUGMENTED:
``twins`` of CLEAR, arXiv 2410.18057, appendix A, for models trained without augmentation). The paper does not list
its transforms; these are the usual ones, mild enough that the person stays recognisable. Ours.
"""

from __future__ import annotations

import hashlib
import io

import numpy as np
from PIL import Image, ImageEnhance

from clear_dist.data.images import decode
from clear_dist.types import Picture

VERSION = 1  # raised whenever the result of ``transform`` changes: digests, hence caches, depend on it
SCALE = (0.7, 1.0)  # share of the area that a crop keeps
RATIO = (0.9, 1.0 / 0.9)  # width / height of a crop, relative to the picture's
DEGREES = 8.0  # rotation, either way
JITTER = 0.2  # brightness, contrast and saturation: factors in 1 -+ this
MAX_SIDE = 1024  # larger pictures are reduced first: no vision tower sees more, and pixels cost time


def transform(image: Image.Image, seed: int, digest: str) -> Image.Image:
    """Random crop resized back, horizontal flip, small rotation, brightness, contrast and saturation jitter.

    A pure function of its arguments: RGB image, seed, and the picture's digest (so that every picture has random
    numbers of its own, whatever the order). Returns RGB of the same size, at most MAX_SIDE on the longer side.
    """
    key = hashlib.sha256(f"augment/{VERSION}\0{digest}".encode()).digest()
    rng = np.random.default_rng([seed & (1 << 64) - 1, int.from_bytes(key[:8], "little")])
    # Everything is drawn before it is used, so one knob can change without moving the others.
    area, ratio = rng.uniform(*SCALE), float(np.exp(rng.uniform(*np.log(RATIO))))
    left, top, angle = rng.uniform(), rng.uniform(), float(rng.uniform(-DEGREES, DEGREES))
    flip = rng.uniform() < 0.5
    brightness, contrast, saturation = (float(f) for f in rng.uniform(1 - JITTER, 1 + JITTER, 3))

    image = image.convert("RGB")
    image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.BICUBIC)
    width, height = image.size
    image = _rotated(image, angle)
    across, down = min(1.0, (area * ratio) ** 0.5), min(1.0, (area / ratio) ** 0.5)
    x, y = left * (1 - across) * width, top * (1 - down) * height
    box = (x, y, x + across * width, y + down * height)
    image = image.resize((width, height), Image.Resampling.BICUBIC, box=box)
    if flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    image = ImageEnhance.Brightness(image).enhance(brightness)
    image = ImageEnhance.Contrast(image).enhance(contrast)
    return ImageEnhance.Color(image).enhance(saturation)


def augmented(picture: Picture, seed: int) -> Picture:
    """The picture as ``transform`` leaves it: read when needed, as PNG.

    Its digest names (transform version, seed, original), not the bytes: known without drawing, and a cache that is
    keyed on it forgets what an older transform made.
    """
    digest = hashlib.sha256(f"augmented/{VERSION}/{seed}\0{picture.digest}".encode()).hexdigest()

    def read() -> bytes:
        buffer = io.BytesIO()
        transform(decode(picture), seed, picture.digest).save(buffer, "PNG")
        return buffer.getvalue()

    return Picture(digest, f"{picture.source}, transformed", read)


def _rotated(image: Image.Image, degrees: float) -> Image.Image:
    """Rotated about its middle; what comes in from outside continues the edge, not black corners."""
    width, height = image.size
    margin = 1 + int(np.ceil(np.sin(np.radians(DEGREES)) * max(width, height)))
    wide = Image.fromarray(np.pad(np.asarray(image), ((margin, margin), (margin, margin), (0, 0)), mode="edge"))
    turned = wide.rotate(degrees, Image.Resampling.BICUBIC)
    return turned.crop((margin, margin, margin + width, margin + height))
