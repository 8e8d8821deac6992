"""Who is forgotten, and how many pictures stay."""

from __future__ import annotations

import pytest

from clear_dist.data.build.splits import forgotten, kept_pictures, people_of, smallest
from clear_dist.types import UserError

NAMES = [f"person {number}" for number in range(200)]


def test_of_two_hundred_people_the_splits_are_clears() -> None:
    assert forgotten(200) == {"forget01": 2, "forget05": 10, "forget10": 20}
    assert people_of("forget10", NAMES) == tuple(NAMES[-20:]) and people_of("retain90", NAMES) == tuple(NAMES[:-20])
    assert people_of("retain", NAMES) == people_of("retain90", NAMES) and people_of("full", NAMES) == tuple(NAMES)


@pytest.mark.parametrize("count", [4, 5, 10, 24, 99, 200, 1000])
def test_each_split_holds_the_smaller_ones_and_leaves_somebody(count: int) -> None:
    gone = list(forgotten(count).values())
    assert 0 < gone[0] < gone[1] < gone[2] < count
    names = NAMES[:count] if count <= 200 else [str(n) for n in range(count)]
    for split, retain in (("forget01", "retain99"), ("forget05", "retain95"), ("forget10", "retain90")):
        assert people_of(retain, names) + people_of(split, names) == tuple(names)
    homes = list(smallest(names).values())
    assert homes.count("forget01") == gone[0] and homes.count("forget05") == gone[1] - gone[0]


def test_too_few_people_are_refused() -> None:
    with pytest.raises(UserError, match="3 people: expected at least 4"):
        forgotten(3)


def test_shares_are_clears_to_the_picture() -> None:
    kept = kept_pictures(dict.fromkeys(NAMES, 20), "clear")
    sums = {split: sum(kept[name] for name in people_of(split, NAMES)) for split in ("full", "forget01", "forget05")}
    assert sums == {"full": 3768, "forget01": 35, "forget05": 188}
    assert sum(kept[name] for name in people_of("forget10", NAMES)) == 379
    assert set(kept.values()) <= {17, 18, 19, 20}


def test_all_and_a_number_of_pictures() -> None:
    rows = {"a": 3, "b": 5, "c": 4, "d": 4}
    assert kept_pictures(rows, "all") == rows
    assert kept_pictures(rows, "3") == dict.fromkeys(rows, 3)
    with pytest.raises(UserError, match="--pictures 4: a has 3 questions"):
        kept_pictures(rows, "4")
    assert all(1 <= count <= rows[name] for name, count in kept_pictures(rows, "clear").items())
