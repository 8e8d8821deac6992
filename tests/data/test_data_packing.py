"""Packing keeps every token once and changes nothing of what a sequence sees."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from data_fakes import EOS, IMAGE, PAD, CharProcessor, example, picture, picture_of
from hypothesis import given, settings
from hypothesis import strategies as st

from clear_dist.data.encode import Encoded, encode
from clear_dist.data.packing import Layout, PixelCache, pack
from clear_dist.types import Batch, UserError

PROCESSOR = CharProcessor()
CACHE = PixelCache(PROCESSOR)
LAYOUTS: tuple[Layout, ...] = ("dense", "varlen", "padded")
WORDS = st.text(alphabet="abcdefgh", min_size=1, max_size=9)
# (question, answer, picture or None)
ITEMS = st.lists(st.tuples(WORDS, WORDS, st.none() | st.integers(0, 3)), max_size=12)


def encoded(items: Sequence[tuple[str, str, int | None]], start: int = 0) -> list[Encoded]:
    shown = [(q, a, None if p is None else picture(p)) for q, a, p in items]
    return [encode(example(start + i, q, a, p), PROCESSOR, 64) for i, (q, a, p) in enumerate(shown)]


def packed(
    views: dict[str, list[Encoded]], layout: Layout = "dense", row_length: int = 40, **more: bool | int
) -> Batch:
    return pack(views, PROCESSOR, row_length=row_length, pixels=CACHE, layout=layout, **more)  # pyright: ignore[reportArgumentType]


def attend(batch: Batch) -> torch.Tensor:
    """[T, D] float64: two rounds of attention over token and position embeddings, at the scored positions."""
    rng = torch.Generator().manual_seed(0)
    tokens, places = (torch.randn(256, 8, generator=rng, dtype=torch.float64) for _ in range(2))
    hidden = tokens[batch.input_ids] + places[batch.position_ids]
    if batch.pixel_values is not None and len(batch.image_slots):
        colour = batch.pixel_values[:, :, 0, 0].double().repeat_interleave(PROCESSOR.image_tokens, 0) / 255
        flat = hidden.view(-1, 8).clone()
        flat[batch.image_slots, :3] += colour
        hidden = flat.view_as(hidden)
    for _ in range(2):
        scores = (hidden @ hidden.mT).masked_fill(~batch.attention_mask()[:, 0], float("-inf"))
        hidden = hidden + scores.softmax(-1) @ hidden
    return hidden.reshape(-1, 8)[batch.score_index]


@settings(max_examples=40, deadline=None)
@given(ITEMS, ITEMS, st.integers(1, 60))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_sequence_sees_what_it_would_see_alone(
    layout: Layout,
    forget: list[tuple[str, str, int | None]],
    retain: list[tuple[str, str, int | None]],
    row_length: int,
) -> None:
    views = {"forget": encoded(forget), "retain": encoded(retain, 100)}
    batch = packed(views, layout, row_length)
    everything = [e for view in views.values() for e in view]
    alone = [attend(packed({"x": [e]})) for e in everything]
    expected = torch.cat(alone) if alone else torch.empty(0, 8, dtype=torch.float64)
    torch.testing.assert_close(attend(batch), expected, rtol=0, atol=1e-9)
    answers = [e.answer for e in everything]
    assert batch.targets.tolist() == (np.concatenate(answers).tolist() if answers else [])
    assert batch.example_ids == [e.example_id for e in everything]


@settings(max_examples=60, deadline=None)
@given(ITEMS, st.integers(1, 60), st.booleans())
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_token_is_kept_exactly_once(
    layout: Layout, items: list[tuple[str, str, int | None]], row_length: int, share: bool
) -> None:
    examples = encoded(items)
    batch = packed({"forget": examples}, layout, row_length, share=share)
    shared = share and layout == "dense"
    expected: list[tuple[int, ...]] = []
    seen: set[tuple[object, ...]] = set()
    for e in examples:
        # What is shared counts once: a picture by its digest, a prompt by picture and words.
        for key, part in ((("picture", e.digest), e.prefix), (("prompt", e.digest, *e.rest.tolist()), e.rest)):
            if len(part) and not (shared and key in seen):
                expected.append(tuple(part.tolist()))
            seen.add(key)
        expected.append(tuple(e.answer.tolist()))
    assert Counter(batch.input_ids[batch.real].tolist()) == Counter(t for part in expected for t in part)
    padding = ~batch.real
    assert batch.real_tokens == int(batch.real.sum()) == sum(map(len, expected))
    assert (batch.input_ids[padding] == PAD).all()
    # Padding stands at the ends of rows only.
    assert all(torch.equal(p, p.sort().values) for p in padding)


@settings(max_examples=60, deadline=None)
@given(ITEMS, st.integers(1, 60))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_answer_sees_its_own_prompt_and_nothing_else(
    layout: Layout, items: list[tuple[str, str, int | None]], row_length: int
) -> None:
    """Token by token, with the positions it would have alone."""
    examples = encoded(items)
    batch = packed({"forget": examples}, layout, row_length)
    mask, length = batch.attention_mask()[:, 0], batch.input_ids.shape[1]
    at = 0
    for e in examples:
        sequence = [*e.prefix.tolist(), *e.rest.tolist(), *e.answer.tolist()]
        prompt = len(sequence) - len(e.answer)
        for k in range(prompt, len(sequence)):
            row, place = divmod(int(batch.score_index[at]), length)
            seen = mask[row, place].nonzero()[:, 0]
            assert batch.input_ids[row, seen].tolist() == sequence[:k]
            assert batch.position_ids[row, seen].tolist() == list(range(k))
            assert int(batch.targets[at]) == sequence[k]
            at += 1
    assert at == len(batch.targets)
    assert not mask.triu(1).any()
    assert mask.diagonal(dim1=1, dim2=2).all(), "a row that looks at nothing is not a number"
    assert not (mask & batch.real[:, :, None] & ~batch.real[:, None, :]).any(), "nothing looks at padding"


@settings(max_examples=60, deadline=None)
@given(ITEMS, st.integers(1, 60))
def test_dense_rows_hold_at_most_the_row_length_or_the_longest_group(
    items: list[tuple[str, str, int | None]], row_length: int
) -> None:
    batch = packed({"forget": encoded(items)}, "dense", row_length)
    parts: dict[tuple[object, object], int] = {}
    for n, (question, answer, shown) in enumerate(items):
        trunk = (shown, None) if shown is not None else (None, question)
        new: dict[object, int] = {
            ("answer", n): len(answer) + 1,
            ("prompt", shown, question): len(question) + (shown is None),
        }
        if shown is not None:
            new["picture"] = 1 + PROCESSOR.image_tokens
        for key, tokens in new.items():
            parts.setdefault((trunk, key), tokens)
    sizes: Counter[object] = Counter()
    for (trunk, _), tokens in parts.items():
        sizes[trunk] += tokens
    assert batch.input_ids.shape[1] <= max(row_length, *sizes.values(), 1)


def test_examples_on_one_picture_share_it_across_views() -> None:
    items = [("who", "ada", 1), ("what", "a room", 1), ("where", "town", None)]
    views = {"forget": encoded(items), "idk": encoded([("who", "no idea", 1)], 10)}
    dense = packed(views)
    assert dense.pixel_values is not None
    assert dense.pixel_values.shape == (1, 3, 6, 6)
    assert len(dense.image_slots) == PROCESSOR.image_tokens
    for separate in (packed(views, share=False), packed(views, "varlen"), packed(views, "padded")):
        assert separate.pixel_values is not None
        assert len(separate.pixel_values) == 3
        assert separate.real_tokens == dense.real_tokens + 2 * (1 + PROCESSOR.image_tokens) + len("who")


def test_a_pair_shares_its_prompt_with_a_picture_and_without() -> None:
    """Two views bound example by example, as DPO has them: a question stands once, its two answers behind it."""
    items = [("who is it", "ada", 1), ("where does she live", "in town", None), ("what is it", "a room", 1)]
    kept = encoded(items)
    refused = encoded([(q, "no idea", p) for q, _, p in items], 10)
    batch = packed({"idk": refused, "forget": kept}, row_length=200)
    alone = packed({"forget": kept}, row_length=200)
    assert batch.real_tokens == alone.real_tokens + sum(len(e.answer) for e in refused)
    assert batch.targets.tolist() == np.concatenate([e.answer for e in (*refused, *kept)]).tolist()
    first = {n: int(batch.score_index[batch.token_example == n][0]) for n in range(6)}
    assert [first[n] for n in range(3)] == [first[n + 3] for n in range(3)], "predicted from the same place"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_image_slots_are_the_image_tokens_of_their_own_picture(layout: Layout) -> None:
    batch = packed({"forget": encoded([(f"q{i}", "a" * (1 + i % 5), i % 7) for i in range(20)])}, layout)
    assert batch.pixel_values is not None
    flat = batch.input_ids.view(-1)
    assert (flat[batch.image_slots] == IMAGE).all()
    assert int((flat == IMAGE).sum()) == len(batch.image_slots) == len(batch.pixel_values) * PROCESSOR.image_tokens
    # Which picture an answer sees: red is the picture's number, and that of the example is the same modulo 7.
    rows = batch.input_ids.shape[1]
    slots = zip(batch.image_slots[:: PROCESSOR.image_tokens].tolist(), batch.pixel_values, strict=True)
    owner = {start: int(pixels[0, 0, 0]) for start, pixels in slots}
    for n, example_id in enumerate(batch.example_ids):
        row, place = divmod(int(batch.score_index[batch.token_example == n][0]), rows)
        seen = (row * rows + batch.attention_mask()[row, 0, place].nonzero()[:, 0]).tolist()
        assert {owner[start] for start in seen if start in owner} == {int(example_id.split("/")[1]) % 7}


def test_views_and_examples_are_numbered_in_order() -> None:
    views = {"forget": encoded([("q", "abc", None), ("q", "d", 2)]), "idk": [], "retain": encoded([("x", "yz", 2)], 9)}
    batch = packed(views)
    assert batch.view_examples == {"forget": slice(0, 2), "idk": slice(2, 2), "retain": slice(2, 3)}
    assert batch.view_tokens == {"forget": slice(0, 6), "idk": slice(6, 6), "retain": slice(6, 9)}
    assert batch.token_example.tolist() == [0, 0, 0, 0, 1, 1, 2, 2, 2]
    assert batch.targets[batch.view_tokens["retain"]].tolist() == [10 + ord("y"), 10 + ord("z"), EOS]


def test_an_answer_right_after_the_picture_is_predicted_by_the_prefix() -> None:
    plain, other = encoded([("", "hi", 1), ("q", "ho", 1)])
    batch = packed({"forget": [plain, other]})
    assert batch.score_index[batch.token_example == 0].tolist() == [4, 5, 6]  # 4: the last image token
    swapped = packed({"forget": [other, plain]})
    assert swapped.score_index[swapped.token_example == 1].tolist() == [4, 9, 10]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nothing_to_pack_is_still_a_batch(layout: Layout) -> None:
    batch = packed({"forget": [], "retain": []}, layout)
    assert batch.input_ids.tolist() == [[PAD]]
    assert batch.attention_mask().tolist() == [[[[True]]]]
    assert batch.pixel_values is not None
    assert torch.equal(batch.pixel_values, torch.zeros(1, 3, 6, 6))
    for empty in (batch.image_slots, batch.score_index, batch.targets, batch.token_example):
        assert empty.shape == (0,)
        assert empty.dtype == torch.int64
    assert batch.real_tokens == 0
    assert batch.view_tokens == {"forget": slice(0, 0), "retain": slice(0, 0)}


def test_text_for_a_vision_language_model_brings_a_zero_picture() -> None:
    batch = packed({"retain": encoded([("q", "a", None)])})
    assert batch.pixel_values is not None
    assert torch.equal(batch.pixel_values, torch.zeros(1, 3, 6, 6))
    assert len(batch.image_slots) == 0


def test_a_text_only_model_gets_no_pixels() -> None:
    processor = CharProcessor(image_tokens=0)
    text = encode(example(0, "q", "a"), processor, 64)
    for views in ({"retain": [text]}, {"retain": []}):
        assert pack(views, processor, row_length=32, pixels=CACHE).pixel_values is None


def test_padding_stays_small() -> None:
    rng = np.random.default_rng(0)
    items = [("q" * int(rng.integers(1, 40)), "a" * int(rng.integers(1, 20)), None) for _ in range(64)]
    batch = packed({"retain": encoded(items)}, row_length=512)
    assert batch.real_tokens / batch.input_ids.numel() > 0.97
    padded = packed({"retain": encoded(items)}, "padded")
    assert padded.real_tokens / padded.input_ids.numel() < 0.7


def test_three_equal_groups_take_three_rows_rather_than_two_half_empty_ones() -> None:
    batch = packed({"retain": encoded([(w * 16, "a" * 2, None) for w in "qrs"])}, row_length=40)
    assert batch.input_ids.shape == (3, 20)


def test_rows_grow_to_a_multiple() -> None:
    batch = packed({"retain": encoded([("q", "abc", None)])}, multiple_of=8)
    assert batch.input_ids.shape == (1, 8)
    assert batch.real_tokens == 6


def test_packing_is_a_function_of_its_input() -> None:
    views = {"forget": encoded([(f"q{i}", "a" * (i % 4 + 1), i % 3 if i % 2 else None) for i in range(30)])}
    first, second = packed(views), packed(views)
    assert torch.equal(first.input_ids, second.input_ids)
    assert torch.equal(first.score_index, second.score_index)


def test_the_cache_decodes_once_and_drops_the_least_recently_used() -> None:
    processor = CharProcessor()
    size = 3 * 6 * 6 * 4
    cache = PixelCache(processor, max_bytes=2 * size)
    for number in (1, 2, 1):
        cache(picture(number))
    assert (processor.decoded, len(cache), cache.nbytes) == (2, 2, 2 * size)
    cache(picture(3))  # 2 goes
    cache(picture(1))
    assert processor.decoded == 3
    cache(picture(2))
    assert (processor.decoded, len(cache), cache.nbytes) == (4, 2, 2 * size)


def test_the_cache_counts_right_under_threads() -> None:
    processor = CharProcessor()
    size = 3 * 6 * 6 * 4
    cache = PixelCache(processor, max_bytes=5 * size)
    wrong: list[int] = []

    def work(offset: int) -> None:
        for i in range(200):
            number = (i * 7 + offset) % 11
            if float(cache(picture(number))[0, 0, 0]) != number:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert (len(cache), cache.nbytes) == (5, 5 * size)


def test_a_bad_picture_is_named_when_a_batch_wants_it() -> None:
    bad = encode(example(0, "q", "a", picture_of(b"nonsense", "full[12].image")), PROCESSOR, 64)
    with pytest.raises(UserError, match=r"full\[12\]\.image: not a picture"):
        packed({"forget": [bad]})
