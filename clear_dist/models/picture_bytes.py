"""Encoded pictures to what pipelines and classifiers take, and back; everybody else handles bytes."""

from __future__ import annotations

import base64
import io
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers.image_transforms import to_pil_image
from transformers.image_utils import load_image

from clear_dist.types import UserError

if TYPE_CHECKING:
    from PIL.Image import Image


def decoded(data: bytes, name: str) -> Image:
    """The picture as 8-bit RGB, upright. Raises UserError, naming ``name``, where it cannot be opened or is a bomb."""
    if not data:
        raise UserError(f"{name}: the picture is empty (0 bytes).")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Image size")  # PIL's: a small file that unfolds into gigabytes
            return load_image("data:image/any;base64," + base64.b64encode(data).decode("ascii"))
    except Exception as error:  # PIL raises many kinds; their words quote the whole picture
        raise UserError(
            f"{name}: not a picture that can be opened. Expected an encoded image such as PNG or JPEG, of at most 89 "
            "million pixels."
        ) from error


def square(image: Image, side: int) -> Image:
    """Its middle, scaled to ``side`` x ``side`` pixels."""
    width, height = image.size
    edge = min(width, height)
    left, top = (width - edge) // 2, (height - edge) // 2
    return image.resize((side, side), _LANCZOS, box=(left, top, left + edge, top + edge))


def png(values: np.ndarray) -> bytes:
    """PNG of a picture [height, width, 1 or 3], each value 0 to 1."""
    eight_bit = np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
    image: Any = to_pil_image(eight_bit, do_rescale=False, input_data_format="channels_last")
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


_LANCZOS: Any = 1  # PIL.Image.Resampling.LANCZOS
