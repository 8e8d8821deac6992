"""Trees: who sees what, what is shared, and from where each token is predicted."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from data_fakes import IMAGE, CharProcessor, example, picture
from hypothesis import given, settings
from hypothesis import strategies as st

from clear_dist.data.encode import encode
from clear_dist.data.packing import PixelCache
from clear_dist.data.tree import Asked, Tree, grow

PROCESSOR = CharProcessor()
Plan = Sequence[tuple[int | None, str, Sequence[str]]]  # picture, question, answers


def asked(plan: Plan) -> list[Asked]:
    out = []
    for number, question, answers in plan:
        shown = None if number is None else picture(number)
        rows = [encode(example(i, question, a, shown), PROCESSOR, 200) for i, a in enumerate([*answers, "x"])]
        whole = Asked.of(rows)
        out.append(Asked(whole.picture, whole.prefix, whole.rest, whole.answers[: len(answers)]))
    return out


def grown(plan: Plan, row_length: int = 40) -> Tree:
    return grow(asked(plan), PROCESSOR, row_length=row_length, pixels=PixelCache(PROCESSOR))


PLAN: Plan = [
    (0, "who", ["ann", "bo", "cy berg"]),
    (0, "what", ["red", "green"]),
    (None, "where", ["here", "there"]),
    (1, "who", ["di"]),
    (0, "who", ["ed"]),  # once more, further down
    (None, "where", []),
    (1, "why", []),
]


def check_is_alone(plan: Plan, tree: Tree) -> None:
    """Every token an answer is predicted from sees just what it would see alone, in that order."""
    batch, mask = tree.batch, tree.batch.attention_mask()[:, 0]
    length = batch.input_ids.shape[1]
    at = 0
    for i, (number, question, answers) in enumerate(plan):
        prefix, rest = PROCESSOR.encode_prompt(question, number is not None)
        branch = tree.branches[tree.branch_of[i]]
        assert batch.input_ids[branch.row, branch.places].tolist() == [*prefix, *rest]
        assert batch.position_ids[branch.row, branch.places].tolist() == list(range(len(prefix) + len(rest)))
        assert tree.lengths[i] == [len(PROCESSOR.encode_answer(a)) for a in answers]
        for answer in answers:
            alone = [*prefix, *rest, *PROCESSOR.encode_answer(answer)]
            for k in range(len(prefix) + len(rest), len(alone)):
                row, place = divmod(int(batch.score_index[at]), length)
                seen = mask[row, place].nonzero()[:, 0]
                assert batch.input_ids[row, seen].tolist() == alone[:k]
                assert batch.position_ids[row, seen].tolist() == list(range(k))
                assert int(batch.targets[at]) == alone[k]
                at += 1
    assert at == len(batch.targets) == len(batch.score_index)


@pytest.mark.parametrize("row_length", [1, 40, 1000])
def test_every_answer_sees_its_question_and_picture_and_nothing_else(row_length: int) -> None:
    tree = grown(PLAN, row_length)
    check_is_alone(PLAN, tree)
    padding = ~tree.batch.real
    assert not tree.batch.attention_mask()[:, 0][~padding][:, :].any(-1).logical_not().any()
    for row, mask in enumerate(tree.batch.attention_mask()[:, 0]):
        assert not (mask[~padding[row]][:, padding[row]]).any(), "nothing looks at padding"
        assert mask[padding[row]].any(-1).all(), "a row of the mask without a place makes NaN"


def test_shared_parts_stand_once() -> None:
    tree = grown(PLAN)
    batch = tree.batch
    assert batch.pixel_values is not None and len(batch.pixel_values) == 2
    assert int((batch.input_ids == IMAGE).sum()) == 2 * PROCESSOR.image_tokens == len(batch.image_slots)
    assert tree.branch_of == [0, 1, 2, 3, 0, 2, 4] and len(tree.branches) == 5
    questions = len("whowhat") + 1 + len("where") + len("whowhy")  # a text question begins with BOS
    answers = sum(len(a) + 1 for _, _, given_ in PLAN for a in given_)
    assert batch.real_tokens == 2 * (1 + PROCESSOR.image_tokens) + questions + answers
    assert batch.real_tokens == int(batch.real.sum())


def test_pictures_stand_at_their_own_slots() -> None:
    batch = grown(PLAN).batch
    assert batch.pixel_values is not None
    flat = batch.input_ids.flatten()
    assert (flat[batch.image_slots] == IMAGE).all()
    assert [int(p[0, 0, 0]) for p in batch.pixel_values] == [0, 1]
    starts = batch.image_slots.reshape(2, -1)
    assert (starts.diff(dim=1) == 1).all()


def test_nothing_to_ask_is_a_legal_batch() -> None:
    tree = grown([])
    assert tree.batch.input_ids.shape == (1, 1) and tree.branches == [] and tree.lengths == []
    assert tree.batch.pixel_values is not None and not tree.batch.pixel_values.any()
    assert bool(tree.batch.attention_mask().all())
    assert len(tree.batch.targets) == 0


words = st.text("abc ", min_size=1, max_size=6).filter(str.strip)
plans = st.lists(
    st.tuples(st.sampled_from([None, 0, 1]), words, st.lists(words, max_size=3, unique=True)), min_size=1, max_size=7
)


@settings(max_examples=40, deadline=None)
@given(plans, st.sampled_from([1, 30, 100]))
def test_any_requests(plan: Plan, row_length: int) -> None:
    check_is_alone(plan, grown(plan, row_length))


def test_the_mask_is_that_of_packed_groups_where_both_apply() -> None:
    """One question a picture, one answer a question: a tree is a plain causal sequence."""
    tree = grown([(0, "who", ["ann"]), (1, "what", ["b"])], row_length=10)
    for mask, real in zip(tree.batch.attention_mask()[:, 0], tree.batch.real, strict=True):
        n = int(real.sum())
        assert torch.equal(mask[:n, :n], torch.ones(n, n, dtype=torch.bool).tril())
