"""Encoded pictures to RGB, and the check that they are pictures at all."""

from __future__ import annotations

import io

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from clear_dist.types import Picture, UserError

MAX_PIXELS = 50_000_000  # larger pictures are refused: a small file may unfold into gigabytes
_SIDEWAYS = (5, 6, 7, 8)  # orientations (EXIF) that turn a picture by a quarter
_WIDE_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")


def check_picture(picture: Picture) -> None:
    """Read the header (and the checksums where the format has some), not the pixels: cheap enough for a whole set.

    Raises UserError naming the picture's source: empty, not an image, damaged, or larger than ``MAX_PIXELS``.
    """
    with _open(picture) as image:
        try:
            image.verify()
        except Exception as error:
            raise _broken(picture, error) from error


def decode(picture: Picture) -> Image.Image:
    """The picture as 8-bit RGB, upright.

    Any mode PIL knows: 1-bit, palette, grey, CMYK; 16-bit and float are scaled to 8 bits by their range;
    transparent pixels become white; camera rotation (EXIF) is applied; of an animation the first frame.
    Raises UserError naming the picture's source.
    """
    with _open(picture) as image:
        try:
            image.load()
            return _rgb(ImageOps.exif_transpose(image) or image)
        except Exception as error:
            raise _broken(picture, error) from error


def picture_size(picture: Picture) -> tuple[int, int]:
    """(height, width) of ``decode(picture)``, from its header where possible. Raises UserError naming the source."""
    with _open(picture) as image:
        try:
            sideways = image.getexif().get(ExifTags.Base.Orientation, 1) in _SIDEWAYS
        except Exception as error:
            raise _broken(picture, error) from error
        width, height = image.size
        return (width, height) if sideways else (height, width)


def _open(picture: Picture) -> Image.Image:
    try:
        data = picture.read()
    except OSError as error:
        raise _broken(picture, error) from error
    if not data:
        raise UserError(f"{picture.source}: the picture is empty (0 bytes).")
    try:
        image = Image.open(io.BytesIO(data))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(picture, str(error)) from error
    except Exception as error:
        raise _broken(picture, error) from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise _too_large(picture, f"{width} x {height}")
    return image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in _WIDE_MODES:
        # PIL clips these to 255 instead of scaling. 16-bit keeps its absolute range; wider modes have none.
        values = np.asarray(image, dtype=np.float64)
        if image.mode.startswith("I;16") or (image.mode == "I" and values.min() >= 0 and values.max() < 1 << 16):
            scaled = values / 257.0
        else:
            low, high = float(values.min()), float(values.max())
            scaled = (values - low) * (255.0 / (high - low) if high > low else 0.0)
        return Image.fromarray(np.rint(scaled).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _broken(picture: Picture, error: Exception) -> UserError:
    # PIL's message about content it does not know names an object in memory, and says no more than this one.
    why = "" if isinstance(error, UnidentifiedImageError) else f" ({type(error).__name__}: {error})"
    return UserError(
        f"{picture.source}: not a picture that can be opened{why}. Expected an encoded image such as PNG or JPEG."
    )


def _too_large(picture: Picture, size: str) -> UserError:
    return UserError(
        f"{picture.source}: {size} pixels, more than the {MAX_PIXELS // 1_000_000} million allowed. Scale it down."
    )
