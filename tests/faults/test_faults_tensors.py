"""The smallest files of a checkpoint's tensors that nobody writes, manifest or not: each is named as damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from clear_dist.engine.checkpoint_files import Damaged
from clear_dist.engine.checkpoint_tensors import Held, Part, expected, open_tensors, write_tensors
from clear_dist.errors import LONGEST
from tests.faults.tensor_files import NAMES, WHOLE, packed, unpacked, with_parts, write_ranks


def refused(folder: Path) -> str:
    with pytest.raises(Damaged) as caught, open_tensors(folder, NAMES):
        pass
    return str(caught.value)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    write_ranks(tmp_path)
    with open_tensors(tmp_path, NAMES) as saved:
        assert expected({"a": WHOLE}, saved) is None
        pieces = list(saved.slices(Part("a", 3, 2, WHOLE), "weight"))
        assert [(at, values.tolist()) for at, values in pieces] == [(0, [3.0]), (1, [4.0])]
        assert saved.scalar("a", "step") == torch.tensor(3.0) and saved.scalar("a", "exp_avg") is None


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ('{"a": [0, Infinity, 6]}', "a is [0, inf, 6], expected three whole numbers"),
        ('{"a": [0, 1e999, 6]}', "a is [0, inf, 6], expected three whole numbers"),
        ('{"a": [NaN, 4, 6]}', "expected three whole numbers"),
        ('{"a": [false, 4, 6]}', "expected three whole numbers"),
        ('{"a": [0.5, 4, 6]}', "expected three whole numbers"),
        ('{"a": ["0", "4", "6"]}', "expected three whole numbers"),
        ('{"a": 4}', "a is 4, expected three whole numbers"),
        ('{"a": "046"}', "expected three whole numbers"),
        ('{"a": [0, 4]}', "expected three whole numbers"),
        ('{"a": [-1, 4, 6]}', "expected elements of a parameter that has them"),
        ('{"a": [0, 0, 6]}', "expected elements of a parameter that has them"),
        ('{"a": [4, 4, 6]}', "expected elements of a parameter that has them"),
        (f'{{"a": [0, 4, {10**300}]}}', "a is another parameter in another file"),
        (f'{{"a": [0, 4, {"9" * 5_000}]}}', "a whole number of 5,000 digits"),
        ('{"a": [0, 4, 6], "a": [0, 4, 6]}', "key 'a' occurs twice"),
        ('{"a": [0, 4, 6], "b": [0, 4, 6]}', "parts and tensors differ"),
        ('["a"]', "parts and tensors differ"),
        ("[" * 40_000, "nested more than 100 deep"),
        ('{"\\ud800": [0, 4, 6]}', "half of a character"),
        ("", "Expecting value"),
    ],
)
def test_parts_nobody_writes(tmp_path: Path, parts: str, said: str) -> None:
    first, _ = write_ranks(tmp_path)
    (tmp_path / NAMES[0]).write_bytes(with_parts(first, parts))
    message = refused(tmp_path)
    assert message.startswith(str(tmp_path / NAMES["another file" in said])) and said in message
    assert len(message) < LONGEST


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([0, 4, 7], [5, 2, 7]),  # nobody has the fifth
        ([0, 4, 7], [4, 2, 7]),  # nor the last
        ([1, 4, 7], [5, 2, 7]),  # nor the first
        ([0, 4, 5], [3, 2, 5]),  # both have the fourth: whose counts?
        ([0, 4, 4], [2, 2, 4]),  # the second's are all the first's
    ],
    ids=str,
)
def test_an_element_in_no_file_or_in_two(tmp_path: Path, first: list[int], second: list[int]) -> None:
    for name, content, parts in zip(NAMES, write_ranks(tmp_path), (first, second), strict=True):
        (tmp_path / name).write_bytes(with_parts(content, json.dumps({"a": parts})))
    assert refused(tmp_path) == f"{tmp_path}: the files together do not hold each element of a once"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"weight/a": {"dtype": "I32", "shape": [4], "data_offsets": [0, 16]}},
            "weight of a is I32, expected F64, F32",
        ),
        (
            {"weight/a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}},
            "weight of a is [2, 2], expected [4]",
        ),
        ({"exp_avg/a": {"dtype": "F64", "shape": [], "data_offsets": [16, 24]}}, "a is another parameter in another"),
        ({"__metadata__": {}}, "not a checkpoint's (KeyError: 'parts')"),
        ({"__metadata__": {"parts": 1}}, "not safetensors"),
        ({"weight/a": {"dtype": "F32", "shape": [10**19], "data_offsets": [0, 16]}}, "not safetensors"),
    ],
)
def test_headers_nobody_writes(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    first, _ = write_ranks(tmp_path)
    header, data = unpacked(first)
    (tmp_path / NAMES[0]).write_bytes(packed({**header, **change}, data))
    assert said in refused(tmp_path)


def test_a_parameter_without_its_weight(tmp_path: Path) -> None:
    first, _ = write_ranks(tmp_path)
    header, data = unpacked(first)
    header["other/a"] = header.pop("weight/a")
    (tmp_path / NAMES[0]).write_bytes(packed(header, data))
    assert "no weight of a" in refused(tmp_path)


def test_a_weight_that_is_kept_once(tmp_path: Path) -> None:
    weight = Held("weight/a", torch.float32, (), lambda: torch.tensor(3.0))
    write_tensors(tmp_path / NAMES[0], [Part("a", 0, 1, 1)], [weight])
    with pytest.raises(Damaged, match=r"weight of a is \[\], expected \[1\]"), open_tensors(tmp_path, NAMES[:1]):
        pass


def test_a_name_that_drives_a_terminal_or_fills_it_is_quoted(tmp_path: Path) -> None:
    first, _ = write_ranks(tmp_path)
    for name in ("\x1b[2J", "x" * 10_000):
        (tmp_path / NAMES[0]).write_bytes(with_parts(first, json.dumps({"a": [name, 4, 6]})))
        message = refused(tmp_path)
        assert "\x1b" not in message and len(message) < LONGEST
