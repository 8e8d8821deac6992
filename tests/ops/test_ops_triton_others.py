"""Hidden distance and L1 against float64, in Triton's interpreter. The tests themselves are in triton_others.py."""

from __future__ import annotations

import re

from interpreter import run


def test_other_kernels_in_the_interpreter() -> None:
    summary = run("triton_others.py", "not slow")
    passed = re.search(r"(\d+) passed", summary)
    assert passed and int(passed[1]) > 12 and "skipped" not in summary, summary
