"""Every mode becomes RGB, and what is no picture is refused by name."""

from __future__ import annotations

import io

import numpy as np
import pytest
from data_fakes import encoded_image, picture_of
from PIL import Image

from clear_dist.data import images
from clear_dist.data.images import check_picture, decode
from clear_dist.data.picture_check import check_pictures
from clear_dist.types import UserError


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def colour(data: bytes) -> tuple[int, ...]:
    image = decode(picture_of(data))
    assert image.mode == "RGB"
    value = image.getpixel((0, 0))
    assert isinstance(value, tuple)
    return value


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (encoded_image((10, 200, 30)), (10, 200, 30)),
        (encoded_image((255, 255, 255), mode="1"), (255, 255, 255)),
        (encoded_image((0, 0, 0), mode="1"), (0, 0, 0)),
        (encoded_image((90, 90, 90), mode="L"), (90, 90, 90)),
        (encoded_image((255, 0, 0), mode="P"), (255, 0, 0)),
        (encoded_image((255, 255, 255), "TIFF", "CMYK"), (255, 255, 255)),
        (saved(Image.fromarray(np.full((4, 4), 257 * 100, dtype=np.uint16))), (100, 100, 100)),
        (saved(Image.fromarray(np.full((4, 4), 257 * 100, dtype=np.int32)), "TIFF"), (100, 100, 100)),
        (saved(Image.new("RGBA", (4, 4), (255, 0, 0, 0))), (255, 255, 255)),
        (saved(Image.new("RGBA", (4, 4), (255, 0, 0, 255))), (255, 0, 0)),
        (saved(Image.new("LA", (4, 4), (0, 0))), (255, 255, 255)),
    ],
    ids=["rgb", "white-1-bit", "black-1-bit", "grey", "palette", "cmyk", "16-bit", "32-bit", "clear", "solid", "la"],
)
def test_any_mode_becomes_rgb(data: bytes, expected: tuple[int, int, int]) -> None:
    check_picture(picture_of(data))
    assert colour(data) == expected


def test_a_float_picture_is_scaled_to_its_range() -> None:
    ramp = Image.fromarray(np.linspace(-2, 2, 16, dtype=np.float32).reshape(4, 4))
    values = np.asarray(decode(picture_of(saved(ramp, "TIFF"))))[..., 0]
    assert (values.min(), values.max()) == (0, 255)
    assert np.all(np.diff(values.ravel().astype(int)) > 0)
    flat = Image.fromarray(np.full((4, 4), 3.5, dtype=np.float32))
    assert colour(saved(flat, "TIFF")) == (0, 0, 0)


def test_camera_rotation_is_applied() -> None:
    image = Image.new("RGB", (8, 4), (0, 0, 255))
    exif = image.getexif()
    exif[0x0112] = 6  # orientation: turn by 90 degrees
    assert decode(picture_of(saved(image, "JPEG", exif=exif))).size == (4, 8)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"full\[0\]\.image: the picture is empty"),
        (b"not a picture at all", r"full\[0\]\.image: not a picture"),
        (encoded_image((1, 2, 3))[:40], r"full\[0\]\.image: not a picture"),
    ],
    ids=["empty", "text", "cut-off"],
)
def test_what_is_no_picture_is_named(data: bytes, message: str) -> None:
    for look in (check_picture, decode):
        with pytest.raises(UserError, match=message):
            look(picture_of(data))


def test_what_is_said_of_no_picture_holds_no_address() -> None:
    """The same words every time: they are kept in files that are compared."""
    with pytest.raises(UserError) as caught:
        decode(picture_of(b"rubbish"))
    assert "0x" not in str(caught.value)


def test_damaged_pixels_are_found_when_decoding() -> None:
    data = saved(Image.effect_noise((64, 64), 50), "JPEG")
    with pytest.raises(UserError, match="not a picture"):
        decode(picture_of(data[: len(data) // 2]))


def test_a_missing_file_is_named() -> None:
    def gone() -> bytes:
        raise FileNotFoundError("gone.png")

    picture = picture_of(b"x", "full[3].image")
    object.__setattr__(picture, "read", gone)
    with pytest.raises(UserError, match=r"full\[3\]\.image: .*gone\.png"):
        decode(picture)


def test_bombs_are_refused_before_they_unfold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 100)
    with pytest.raises(UserError, match=r"full\[0\]\.image: 11 x 10 pixels"):
        decode(picture_of(saved(Image.new("RGB", (11, 10)))))
    assert decode(picture_of(saved(Image.new("RGB", (10, 10))))).size == (10, 10)
    # 30,000 x 30,000 in a file of a few bytes: PIL's own guard fires first.
    header = bytearray(encoded_image((0, 0, 0)))
    header[16:24] = (30_000).to_bytes(4, "big") * 2
    import zlib

    header[29:33] = zlib.crc32(bytes(header[12:29])).to_bytes(4, "big")
    with pytest.raises(UserError, match="Scale it down"):
        check_picture(picture_of(bytes(header)))


def test_a_set_is_checked_picture_by_picture() -> None:
    good, empty, text = picture_of(encoded_image((1, 1, 1))), picture_of(b"", "a"), picture_of(b"text", "b")
    errors = check_pictures([good, empty, good, text, empty])
    assert list(errors) == [empty.digest, text.digest]
    assert str(errors[text.digest]).startswith("b: not a picture")
