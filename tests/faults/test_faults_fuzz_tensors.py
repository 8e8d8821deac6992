"""Tensors of a checkpoint that somebody else wrote: each element of each parameter once, or named as damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import strategies as st

from clear_dist.engine.checkpoint_files import Damaged
from clear_dist.engine.checkpoint_tensors import Part, expected, open_tensors
from clear_dist.errors import UserError
from tests.faults.fuzz import check_message, counted
from tests.faults.fuzz_inputs import altered, damaged, files
from tests.faults.tensor_files import NAMES, WHOLE, packed, unpacked, with_parts, write_ranks

COUNTS = [pytest.param(300, id="fast"), pytest.param(10_000, marks=pytest.mark.slow, id="10000")]


@pytest.mark.parametrize("count", COUNTS)
def test_tensors_are_each_element_once_or_damaged(tmp_path: Path, count: int) -> None:
    first, second = write_ranks(tmp_path)
    header, data = unpacked(first)
    parts = json.loads(header["__metadata__"]["parts"])
    names = [*(str(tmp_path / name) for name in NAMES), f"{tmp_path}: "]

    def tensors(content: bytes) -> None:
        (tmp_path / NAMES[0]).write_bytes(content)
        try:
            with open_tensors(tmp_path, NAMES) as saved:
                if problem := expected({"a": WHOLE}, saved):
                    raise UserError(f"{tmp_path}: {problem}")
                for key in saved.keys["a"]:
                    if saved.scalar("a", key) is None:
                        pieces = saved.slices(Part("a", 0, WHOLE, WHOLE), key)
                        places = [at + i for at, values in pieces for i in range(len(values))]
                        assert places == list(range(WHOLE)), f"{key} holds {places}"
        except Damaged as error:
            check_message(str(error), names)
            raise UserError(str(error)) from None

    other_parts = files([json.dumps(parts).encode()], [parts]).map(lambda text: text.decode("utf-8", "replace"))
    hostile = st.one_of(
        other_parts.map(lambda text: with_parts(first, text)),
        altered([header]).map(lambda value: packed(value, data)),
        damaged([first, second]),
        st.sampled_from([first, first, second, with_parts(first, "[" * 40_000)]),
    )
    counted(count, hostile, tensors, names=names, accepted_at_least=count // 50, rejected_at_least=count // 2)
