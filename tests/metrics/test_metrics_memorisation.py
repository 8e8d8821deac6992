"""Exact memorisation and extraction strength on hand-made answers and against their definitions."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clear_dist.metrics.memorisation import exact_memorisation, extraction_strength
from clear_dist.types import UserError


@pytest.mark.parametrize(
    ("own", "em", "es"),
    [
        ([True, True, True, True], 1.0, 1.0),
        ([False, False, False, False], 0.0, 0.0),  # OpenUnlearning's loop would give ES 1/4
        ([False, True, True, True], 0.75, 0.75),
        ([True, True, True, False], 0.75, 0.0),
        ([True, False, True, True], 0.75, 0.5),
        ([True], 1.0, 1.0),
        ([False], 0.0, 0.0),
    ],
)
@pytest.mark.parametrize("eos", [True, False])
def test_by_hand(own: list[bool], em: float, es: float, eos: bool) -> None:
    assert exact_memorisation([*own, eos]) == em
    assert extraction_strength([*own, eos]) == es  # whether EOS is expected plays no part


@settings(max_examples=100, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_extraction_strength_is_the_smallest_prefix_that_suffices(own: list[bool]) -> None:
    k = next(k for k in range(len(own) + 1) if all(own[k:]))
    em, es = exact_memorisation([*own, True]), extraction_strength([*own, True])
    assert em is not None and es is not None
    assert es == pytest.approx(1 - k / len(own))
    assert 0 <= es <= em <= 1


def test_nothing_but_eos_is_absent_and_no_token_at_all_an_error() -> None:
    assert exact_memorisation([True]) is None and extraction_strength([False]) is None
    for metric in (exact_memorisation, extraction_strength):
        with pytest.raises(UserError, match="EOS included"):
            metric([])
