"""What a batch says of pictures that are cut by their size: sizes from headers, layouts joined, rotary positions."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from data_fakes import IMAGE, CharProcessor, encoded_image, example, picture_of
from PIL import Image
from torch import Tensor

from clear_dist.data.encode import encode, encode_prompt
from clear_dist.data.images import decode, picture_size
from clear_dist.data.packing import pack
from clear_dist.data.tree import Asked, grow
from clear_dist.types import ImageLayout, Picture, UserError


class GridProcessor(CharProcessor):
    """A picture of h x w pixels takes h x w tokens and as many rows of two numbers."""

    def __init__(self) -> None:
        super().__init__(image_tokens=1)
        self.image_shape: tuple[int, ...] = (2,)
        self.layout_of: Callable[[int, int], ImageLayout] | None = lambda h, w: ImageLayout(
            h * w, h * w, {"grid": (1, h, w)}, grid=(h, w)
        )

    def pixels(self, image: Image.Image) -> Tensor:
        return torch.full((image.height * image.width, 2), float(image.width))


def shown(height: int, width: int) -> Picture:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (height, width, 0)).save(buffer, "PNG")
    return picture_of(buffer.getvalue(), f"picture {height} x {width}")


PROCESSOR = GridProcessor()


def pixels(picture: Picture) -> Tensor:
    return PROCESSOR.pixels(decode(picture))


@pytest.mark.parametrize("orientation", [None, 1, 3, 6, 8])
def test_size_is_that_of_the_decoded_picture(orientation: int | None) -> None:
    image, exif = Image.new("RGB", (7, 3)), Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif)
    picture = picture_of(buffer.getvalue())
    whole = decode(picture)
    assert picture_size(picture) == (whole.height, whole.width)


def test_what_is_no_picture_is_named() -> None:
    for data in (b"", b"nonsense"):
        with pytest.raises(UserError, match=r"full\[3\].image"):
            encode_prompt(PROCESSOR, "q", picture_of(data, "full[3].image"))


def test_a_prompt_holds_as_many_image_tokens_as_the_picture_takes() -> None:
    for height, width in ((1, 1), (2, 3), (5, 2)):
        prefix, rest, layout = encode_prompt(PROCESSOR, "who", shown(height, width))
        assert prefix.count(IMAGE) == height * width
        assert layout is not None and layout.inputs == {"grid": (1, height, width)}
        assert rest == PROCESSOR.encode_prompt("who", True)[1]
    assert encode_prompt(PROCESSOR, "who", None)[2] is None
    plain = CharProcessor(4)
    prefix, _, layout = encode_prompt(plain, "who", picture_of(encoded_image((1, 2, 3))))
    assert prefix.count(IMAGE) == 4 and layout is None


def test_rotary_positions_by_hand() -> None:
    """BOS, a picture of 2 x 3, and two questions that share it; then a text."""
    rows = [encode(example(i, q, a, p), PROCESSOR, 64) for i, (q, a, p) in enumerate(
        [("ab", "c", shown(2, 3)), ("d", "ef", shown(2, 3)), ("x", "y", None)]
    )]  # fmt: skip
    batch = pack({"forget": rows}, PROCESSOR, row_length=64, pixels=pixels)
    assert batch.rotary_ids is not None and batch.rotary_ids.shape == (3, 1, batch.input_ids.shape[1])
    # Behind the picture, which starts at 1: 1 + max(2, 3) = 4 for each of the questions.
    asked = [*range(4, 8), *range(4, 8)]
    at = {"text": [0, 1, 2, 3], "time": [0, *[1] * 6, *asked]}
    at["height"] = [0, 1, 1, 1, 2, 2, 2, *asked]
    at["width"] = [0, 1, 2, 3, 1, 2, 3, *asked]
    got = [axis.tolist() for axis in batch.rotary_ids[:, 0]]
    first_is_picture = batch.input_ids[0, 1] == IMAGE
    for axis, name in zip(got, ("time", "height", "width"), strict=True):
        assert axis == ([*at[name], *at["text"]] if first_is_picture else [*at["text"], *at[name]])
    assert batch.image_inputs["grid"].tolist() == [[1, 2, 3]]
    assert batch.pixel_values is not None and batch.pixel_values.shape == (6, 2)


def test_trees_have_the_positions_of_sequences_packed_alone() -> None:
    """Places of every prompt and answer, part by part."""
    plan = [("ab", ["c", "de"], shown(3, 2)), ("f", ["g"], shown(3, 2)), ("h", ["i"], shown(1, 4)), ("j", ["k"], None)]
    asked = []
    for question, answers, picture in plan:
        asked.append(Asked.of([encode(example(0, question, a, picture), PROCESSOR, 64) for a in answers]))
    tree = grow(asked, PROCESSOR, row_length=40, pixels=pixels)
    rotary, place = tree.batch.rotary_ids, 0
    assert rotary is not None
    for (question, answers, picture), branch in zip(plan, [tree.branches[b] for b in tree.branch_of], strict=True):
        for answer in answers:
            row = [encode(example(0, question, answer, picture), PROCESSOR, 64)]
            alone = pack({"forget": row}, PROCESSOR, row_length=64, pixels=pixels)
            expected = alone.position_ids.expand(3, 1, -1) if alone.rotary_ids is None else alone.rotary_ids
            prompt = len(branch.places)
            assert torch.equal(rotary[:, branch.row, branch.places], expected[:, 0, :prompt])
            count = len(row[0].answer)
            index = tree.batch.score_index[place : place + count]
            assert torch.equal(rotary.flatten(1)[:, index], expected[:, 0, prompt - 1 : prompt - 1 + count])
            place += count
    assert sorted(tree.batch.image_inputs["grid"].tolist()) == [[1, 1, 4], [1, 3, 2]]


def test_no_picture_gives_the_dummys_layout() -> None:
    row = [encode(example(0, "q", "a"), PROCESSOR, 64)]
    for batch in (
        pack({"forget": row}, PROCESSOR, row_length=32, pixels=pixels),
        grow([], PROCESSOR, row_length=32, pixels=pixels).batch,
    ):
        assert batch.pixel_values is not None and torch.equal(batch.pixel_values, torch.zeros(1, 2))
        assert batch.image_inputs["grid"].tolist() == [[1, 1, 1]]
        assert batch.rotary_ids is None and batch.image_slots.numel() == 0


def test_layouts_stand_in_the_order_of_slots_and_pixels() -> None:
    """Rows are filled by length, not by order: pictures, grids and slots go together."""
    pictures = [shown(1, 2), shown(4, 4), shown(2, 2), shown(3, 1)]
    rows = [encode(example(i, "q", "a", p), PROCESSOR, 64) for i, p in enumerate(pictures)]
    batch = pack({"forget": rows}, PROCESSOR, row_length=24, pixels=pixels)
    assert batch.pixel_values is not None and batch.input_ids.shape[0] > 1
    sizes = batch.image_inputs["grid"][:, 1:]
    counts = sizes.prod(-1).tolist()
    assert batch.pixel_values[:, 0].tolist() == np.repeat(sizes[:, 1].numpy(), counts).tolist()
    assert (batch.input_ids.flatten()[batch.image_slots] == IMAGE).all()
    for part in batch.image_slots.split(counts):
        assert torch.equal(part, torch.arange(int(part[0]), int(part[0]) + len(part))), "one run of tokens a picture"


def test_a_batch_keeps_what_the_tower_is_told_on_the_cpu() -> None:
    row = [encode(example(0, "q", "a", shown(2, 2)), PROCESSOR, 64)]
    moved = pack({"forget": row}, PROCESSOR, row_length=32, pixels=pixels).to("meta")
    assert moved.rotary_ids is not None and moved.rotary_ids.device.type == "meta"
    assert moved.image_inputs["grid"].device.type == "cpu"
