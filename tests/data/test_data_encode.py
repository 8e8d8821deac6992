"""Encoding cuts nothing off and refuses what cannot be trained on."""

from __future__ import annotations

import pytest
from data_fakes import BOS, EOS, IMAGE, CharProcessor, example, picture

from clear_dist.data.encode import encode, encode_all
from clear_dist.types import UserError


def test_prefix_rest_and_answer_are_the_processors_tokens() -> None:
    e = encode(example(0, "ab", "c", picture(1)), CharProcessor(2), 64)
    assert e.prefix.tolist() == [BOS, IMAGE, IMAGE]
    assert e.rest.tolist() == [107, 108]
    assert e.answer.tolist() == [109, EOS]
    assert e.length == 7
    assert e.digest == picture(1).digest
    text = encode(example(1, "ab", "c"), CharProcessor(2), 64)
    assert (text.prefix.tolist(), text.rest.tolist(), text.digest) == ([], [BOS, 107, 108], None)


def test_a_sequence_too_long_names_the_example_and_the_flag() -> None:
    assert encode(example(3, "abcde", "fg"), CharProcessor(), 9).length == 9
    with pytest.raises(UserError, match=r"full/3/name: 9 tokens .*--max-length 8.*at least 9"):
        encode(example(3, "abcde", "fg"), CharProcessor(), 8)


def test_a_picture_for_a_text_only_model_is_refused() -> None:
    with pytest.raises(UserError, match=r"full/0/name has a picture.*--modality text"):
        encode(example(0, "q", "a", picture(0)), CharProcessor(0), 64)


@pytest.mark.parametrize("answer", ["", "  \n"])
def test_an_empty_answer_is_refused(answer: str) -> None:
    with pytest.raises(UserError, match="full/5/name: the answer is empty"):
        encode(example(5, "q", answer), CharProcessor(), 64)


def test_an_image_token_mismatch_is_refused() -> None:
    processor = CharProcessor(4)
    processor.encode_prompt = lambda question, with_picture: ([BOS] + [IMAGE] * 3, [20])  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"full/0/name: the prompt holds 3 image tokens, the model expects 4"):
        encode(example(0, "q", "a", picture(0)), processor, 64)


def test_a_whole_set_keeps_its_order() -> None:
    made = encode_all([example(i, "q", "a") for i in range(3)], CharProcessor(), 64)
    assert [e.example_id for e in made] == ["full/0/name", "full/1/name", "full/2/name"]
