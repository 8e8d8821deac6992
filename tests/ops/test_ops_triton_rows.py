"""Row kernels against float64, in Triton's interpreter. The tests themselves are in triton_rows.py."""

from __future__ import annotations

import re

import pytest
from interpreter import run


def passed(summary: str) -> int:
    number = re.search(r"(\d+) passed", summary)
    assert number and "skipped" not in summary, summary
    return int(number[1])


def test_row_kernels_in_the_interpreter() -> None:
    assert passed(run("triton_rows.py", "not slow")) > 90


@pytest.mark.slow
def test_row_kernels_of_more_sizes_in_the_interpreter() -> None:
    assert passed(run("triton_rows.py", "slow")) > 30
