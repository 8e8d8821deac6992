"""CLIP scores on records: which get one, and what a scorer is asked."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace

import pytest
from PIL import Image

from clear_dist.evaluation.clip import BATCH, clip_score, with_clip_scores
from clear_dist.metrics.record import Record
from clear_dist.types import Example, Picture, UserError


def picture(number: int) -> Picture:
    data = io.BytesIO()
    Image.new("L", (4, 4), number).save(data, "PNG")
    return Picture(f"{number:064d}", f"test[{number}]", data.getvalue)


class Fake:
    """Says (brightness of the picture + letters of the text) / 1000, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def similarity(self, pictures: Sequence[Image.Image], texts: Sequence[str]) -> list[float]:
        assert all(p.mode == "RGB" for p in pictures)
        self.asked.append(len(texts))
        return [(p.getpixel((0, 0))[0] + len(t)) / 1000 for p, t in zip(pictures, texts, strict=True)]  # pyright: ignore


FORGET = [Example(str(i), "forget", "caption", "?", "Ann.", picture(i % 50), "Ann") for i in range(100)]


def record(id: str, generated: str | None, model: str = "unlearned", **changes: object) -> Record:
    base = Record(model, "forget", "visual", "caption", id, "?", "Ann.", "Ann", scores={"rouge_l": 0.5})
    return replace(base, generated=generated, **changes)  # pyright: ignore[reportArgumentType]


def test_scores_are_added_to_private_questions_only() -> None:
    rows = [
        record("3", "four"),
        record("4", " four \n", "gold"),
        record("5", ""),
        record("5", " \n"),
        record("6", None),
        record("6", "a", "original/shuffled"),
        record("unknown", "a"),
        record("6", "a", set="retain"),
        record("6", "a", kind="attribute"),
    ]
    out = with_clip_scores(rows, {"forget": FORGET}, Fake())
    assert out[0].scores == {"rouge_l": 0.5, "clip_score": 0.007}
    assert out[1].score("clip_score") == 0.008, "white space is no text"
    assert [dict(r.scores) for r in out[2:4]] == [{"rouge_l": 0.5, "clip_score": None}] * 2
    assert out[4:] == rows[4:]
    assert with_clip_scores([], {}, Fake()) == []


def test_the_same_answer_to_the_same_picture_is_asked_once_and_pictures_in_batches() -> None:
    fake = Fake()
    rows = [record(str(i), "x" * (1 + i // 50), m) for m in ("original", "gold") for i in range(80)]
    out = with_clip_scores(rows, {"forget": FORGET}, fake)
    assert fake.asked == [BATCH, BATCH, 80 - 2 * BATCH]
    assert [r.score("clip_score") for r in out] == [(i % 50 + 1 + i // 50) / 1000 for i in range(80)] * 2


def test_bad_pictures_and_numbers_are_named() -> None:
    broken = [replace(FORGET[0], picture=Picture("0" * 64, "full[7].image", lambda: b"no picture"))]
    with pytest.raises(UserError, match=r"full\[7\]\.image"):
        with_clip_scores([record("0", "a")], {"forget": broken}, Fake())

    class Nan(Fake):
        def similarity(self, pictures: Sequence[Image.Image], texts: Sequence[str]) -> list[float]:
            return [float("nan")] * len(texts)

    with pytest.raises(UserError, match=r"test\[0\]: its CLIP similarity with 'a' is nan"):
        with_clip_scores([record("0", "a")], {"forget": FORGET}, Nan())


def test_the_papers_scale() -> None:
    assert clip_score(0.3) == 0.75 and clip_score(-0.3) == 0.0 and clip_score(0.0) == 0.0
