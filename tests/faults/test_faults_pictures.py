"""Every kind of picture a dataset may hold: it becomes the pixels it should, or is refused by config, row, column."""

from __future__ import annotations

import io
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clear_dist.data.images import decode
from clear_dist.data.load import load_dataset
from clear_dist.types import UserError

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data"))
from data_fakes import VISUAL, changed  # pyright: ignore[reportMissingImports]

SIDE = 24
RAMP = np.linspace(0, 255, SIDE).round().astype(np.uint8)
GREY = np.broadcast_to(RAMP, (SIDE, SIDE))
COLOUR = np.stack([GREY, GREY.T, 255 - GREY], axis=-1).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, pixels: bytes) -> bytes:
    """A PNG by hand, for what PIL cannot write."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def grey3(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, axis=-1).astype(np.uint8)


def rows16(values: np.ndarray) -> bytes:
    return b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)


WIDE = GREY.astype(np.uint16) * 257
CMYK = Image.fromarray(COLOUR).convert("CMYK")
PALETTE = Image.fromarray(COLOUR).quantize(16)
BLACK_WHITE = Image.fromarray((GREY > 127).astype(np.uint8) * 255).convert("1", dither=Image.Dither.NONE)
HOLES = Image.fromarray(np.dstack([COLOUR, np.where(GREY > 127, 255, 0).astype(np.uint8)]), "RGBA")
TURNED = Image.fromarray(COLOUR).getexif()
TURNED[0x0112] = 3  # upside down

TURNS = {6: np.rot90(COLOUR, -1), 8: np.rot90(COLOUR), 5: COLOUR.transpose(1, 0, 2)}  # EXIF's number -> shown upright
GLASS = np.where(GREY > 127, 255, 64).astype(np.uint8)  # a part that lets three quarters of the white through
OVER_WHITE = np.rint(GREY * (GLASS / 255) + 255 * (1 - GLASS / 255))
CLEAR_INDEX = int(np.asarray(PALETTE)[0, 0])
CUT_OUT = np.where((np.asarray(PALETTE) == CLEAR_INDEX)[..., None], 255, np.asarray(PALETTE.convert("RGB")))


def turned(number: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = number
    return encoded(Image.fromarray(COLOUR), "PNG", exif=exif)


def unmarked(data: bytes) -> bytes:
    """A CMYK JPEG without Adobe's marker (APP14). Readers take its inks to be inverted, as Adobe's are, anyway."""
    at = data.index(b"\xff\xee")
    return data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4]) :]


# name -> (file, the pixels it stands for [SIDE, SIDE, 3], how far a lossy coder may be off)
GOOD: dict[str, tuple[bytes, np.ndarray, int]] = {
    "rgb png": (encoded(Image.fromarray(COLOUR), "PNG"), COLOUR, 0),
    "rgb bmp": (encoded(Image.fromarray(COLOUR), "BMP"), COLOUR, 0),
    "rgb tiff": (encoded(Image.fromarray(COLOUR), "TIFF"), COLOUR, 0),
    "rgb jpeg": (encoded(Image.fromarray(COLOUR), "JPEG", quality=98, subsampling=0), COLOUR, 12),
    "rgb webp": (encoded(Image.fromarray(COLOUR), "WEBP", lossless=True), COLOUR, 0),
    "1 bit": (encoded(BLACK_WHITE, "PNG"), grey3(np.where(GREY > 127, 255, 0)), 0),
    "8 bit grey": (encoded(Image.fromarray(GREY.copy()), "PNG"), grey3(GREY), 0),
    "16 bit grey": (png(SIDE, SIDE, 16, 0, rows16(WIDE)), grey3(GREY), 0),
    "16 bit rgb": (png(SIDE, SIDE, 16, 2, rows16(np.repeat(WIDE, 3, axis=1))), grey3(GREY), 0),
    "float tiff": (encoded(Image.fromarray(GREY.astype(np.float32)), "TIFF"), grey3(GREY), 0),
    "cmyk tiff": (encoded(CMYK, "TIFF"), COLOUR, 0),
    "cmyk jpeg": (encoded(CMYK, "JPEG", quality=98, subsampling=0), COLOUR, 12),
    "cmyk jpeg without adobe's marker": (
        unmarked(encoded(CMYK, "JPEG", quality=98, subsampling=0)),
        COLOUR,
        12,
    ),
    "grey with alpha": (encoded(Image.fromarray(np.dstack([GREY, GLASS]), "LA"), "PNG"), grey3(OVER_WHITE), 1),
    "palette with a clear colour": (encoded(PALETTE, "PNG", transparency=CLEAR_INDEX), CUT_OUT, 0),
    "palette gif with a clear colour": (encoded(PALETTE, "GIF", transparency=CLEAR_INDEX), CUT_OUT, 0),
    **{f"turned, {number}": (turned(number), pixels, 0) for number, pixels in TURNS.items()},
    "palette": (encoded(PALETTE, "PNG"), np.asarray(PALETTE.convert("RGB")), 0),
    "palette gif": (encoded(PALETTE, "GIF"), np.asarray(PALETTE.convert("RGB")), 0),
    "holes are white": (encoded(HOLES, "PNG"), np.where(GREY[..., None] > 127, COLOUR, 255).astype(np.uint8), 0),
    "upside down": (encoded(Image.fromarray(COLOUR), "PNG", exif=TURNED), COLOUR[::-1, ::-1], 0),
    "first of several": (
        encoded(PALETTE, "GIF", save_all=True, append_images=[Image.new("P", (SIDE, SIDE))]),
        np.asarray(PALETTE.convert("RGB")),
        0,
    ),
}
NOISY = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
JPEG, NOISE = encoded(NOISY, "JPEG"), encoded(NOISY, "PNG")
BAD: dict[str, tuple[bytes, str]] = {
    "zero bytes": (b"", "the picture is empty"),
    "text": (b"just some words", "not a picture"),
    "html": (b"<html><body>404</body></html>", "not a picture"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "not a picture"),
    "lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "not a picture"),
    "jpeg cut in its pixels": (JPEG[: len(JPEG) // 2], "not a picture"),
    "png cut in its pixels": (NOISE[: len(NOISE) // 2], "not a picture"),
    "png with a flipped bit": (NOISE[:2000] + bytes([NOISE[2000] ^ 1]) + NOISE[2001:], "not a picture"),
    "bomb": (png(30_000, 30_000, 1, 0, b"\0" * 100), "million allowed"),
    "wide bomb": (png(2_000_000_000, 1, 1, 0, b"\0" * 100), "million allowed"),
    "no width": (png(0, 10, 8, 2, b"\0" * 10), "not a picture"),
}


def dataset(folder: Path, data: bytes) -> str:
    def change(tables: dict[str, dict[str, list[Any]]]) -> None:
        tables["retain90"]["image"][3] = {"bytes": data, "path": None}

    return changed(folder, change, keep=VISUAL)


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CLEAR_DIST_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", GOOD)
def test_what_is_a_picture_has_the_right_pixels(tmp_path: Path, name: str) -> None:
    data, wanted, tolerance = GOOD[name]
    read = load_dataset(dataset(tmp_path, data), modality="visual")
    (example, *_) = [e for e in read.train["retain"] if e.id.startswith("retain90/3/")]
    assert example.picture is not None
    found = np.asarray(decode(example.picture)).astype(int)
    assert found.shape == (SIDE, SIDE, 3)
    assert np.abs(found - wanted.astype(int)).max() <= tolerance


@pytest.mark.parametrize("name", BAD)
def test_what_is_none_is_named_or_left_out(tmp_path: Path, name: str) -> None:
    data, message = BAD[name]
    path = dataset(tmp_path, data)
    with pytest.raises(UserError, match=rf"retain90\[3\]\.image: .*{message}.*--on-bad-data skip"):
        load_dataset(path, modality="visual")
    read = load_dataset(path, modality="visual", on_bad_data="skip")
    assert len(read.skipped) == 1 and read.skipped[0].startswith("retain90[3].image: ")
    assert not any(e.id.startswith("retain90/3/") for e in read.train["retain"])
    assert any(e.id.startswith("retain90/4/") for e in read.train["retain"]), "its neighbours stay"


@pytest.mark.parametrize("cut", [lambda data: data[:-1], lambda data: data[:100], lambda data: data[: len(data) // 3]])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_a_picture_cut_anywhere_is_whole_or_refused(tmp_path: Path, kind: str, cut: Callable[[bytes], bytes]) -> None:
    """A last byte may be missing where the format does not need it; then the pixels are still the right ones."""
    whole = encoded(NOISY, kind)
    path = dataset(tmp_path, cut(whole))
    try:
        read = load_dataset(path, modality="visual")
    except UserError as error:
        assert str(error).startswith("retain90[3].image: ")
        return
    (example, *_) = [e for e in read.train["retain"] if e.id.startswith("retain90/3/")]
    assert example.picture is not None
    assert np.array_equal(np.asarray(decode(example.picture)), np.asarray(Image.open(io.BytesIO(whole)).convert("RGB")))
