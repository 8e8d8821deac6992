"""Learning-rate schedules: their shapes, warm-up, and that the last step still moves."""

from __future__ import annotations

import math
from typing import get_args

import pytest

from clear_dist.engine.schedule import ScheduleName, lr_factor

NAMES = get_args(ScheduleName)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("total", [1, 2, 7, 100])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5, 0.99, 3])
def test_every_step_moves_and_none_beyond_the_peak(name: ScheduleName, total: int, warmup: float) -> None:
    factor = lr_factor(name, total, warmup)
    values = [factor(step) for step in range(total)]
    assert all(0 < v <= 1 for v in values), values
    assert 0 <= factor(total) <= 1  # what the scheduler asks for after the last step


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("warmup", [0.2, 4])
def test_warm_up_is_linear_to_the_peak(name: ScheduleName, warmup: float) -> None:
    factor = lr_factor(name, 20, warmup)
    assert [factor(s) for s in range(4)] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert factor(4) == 1.0


def test_shapes_after_warm_up() -> None:
    total, rise = 24, 4
    for step in range(rise, total):
        part = (step - rise) / (total - rise)
        assert lr_factor("constant", total, rise)(step) == 1.0
        assert lr_factor("linear", total, rise)(step) == pytest.approx(1 - part)
        assert lr_factor("cosine", total, rise)(step) == pytest.approx((1 + math.cos(math.pi * part)) / 2)


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_falling_schedules_fall(name: ScheduleName) -> None:
    factor = lr_factor(name, 50, 0)
    values = [factor(step) for step in range(50)]
    assert values[0] == 1.0
    assert values == sorted(values, reverse=True) and values[-1] < 0.05
