"""Who is to be forgotten, and how many pictures everybody keeps.

As in TOFU and CLEAR the last people are forgotten: 1, 5 and 10 percent of all, each split holding the smaller ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from clear_dist.data.mini.tables import SPLITS
from clear_dist.data.mini.world import spread
from clear_dist.types import UserError

PERCENT: Final = {"forget01": 1, "forget05": 5, "forget10": 10}
# Pictures that CLEAR has of 100 questions about its people, by the smallest split that forgets them (None: retained
# by all): 35 of 40, 153 of 160, 191 of 200, 3,389 of 3,600. The rest was not good enough.
CLEAR_SHARE: Final = {"forget01": (35, 40), "forget05": (153, 160), "forget10": (191, 200), None: (3389, 3600)}
LEAST: Final = 4  # people: one for each split, and somebody to retain


def forgotten(people: int) -> dict[str, int]:
    """Split -> how many of the last people it forgets; nearest whole numbers, at least one more than the split before.

    Raises UserError for fewer than four people.
    """
    if people < LEAST:
        raise UserError(
            f"{people} people: expected at least {LEAST}, so that three splits differ and some are retained."
        )
    out: dict[str, int] = {}
    least = 1
    for split, percent in PERCENT.items():
        out[split] = max(least, (people * percent + 50) // 100)
        least = out[split] + 1
    return out


def people_of(split: str, names: Sequence[str]) -> tuple[str, ...]:
    """The people of ``full``, ``forgetXX``, ``retainXX``, or ``retain``: those that no split forgets."""
    gone = forgotten(len(names))
    if split == "full":
        return tuple(names)
    if split in gone:
        return tuple(names[-gone[split] :])
    forget = "forget10" if split == "retain" else next(f for f, retain in SPLITS.items() if retain == split)
    return tuple(names[: -gone[forget]])


def smallest(names: Sequence[str]) -> dict[str, str | None]:
    """Name -> the smallest split that forgets the person; None: none does."""
    out: dict[str, str | None] = dict.fromkeys(names)
    for split in reversed(PERCENT):
        out.update(dict.fromkeys(people_of(split, names), split))
    return out


def kept_pictures(rows: Mapping[str, int], share: str | int) -> dict[str, int]:
    """Name -> how many pictures the person keeps.

    Args:
        rows: name -> how many there are, in the order of people.
        share: ``all``; ``clear``: as many of all as CLEAR has, by split; or a number for everybody.

    Raises:
        UserError: a number that somebody does not reach.
    """
    if share == "all":
        return dict(rows)
    if share == "clear":
        home = smallest(list(rows))
        out: dict[str, int] = {}
        for split, (some, of) in CLEAR_SHARE.items():
            mine = [name for name in rows if home[name] == split]
            total = sum(rows[name] for name in mine)
            # Everybody's fair part, then one more each from the first on, as far as they have so many.
            parts = spread((total * some + of // 2) // of, len(mine)) if mine else []
            out.update({name: min(part, rows[name]) for name, part in zip(mine, parts, strict=True)})
        return {name: max(1, out[name]) for name in rows}
    few = [name for name, count in rows.items() if count < int(share)]
    if few:
        raise UserError(
            f"--pictures {share}: {few[0]} has {rows[few[0]]} questions, and each question is one picture. Ask for "
            "fewer, or for all."
        )
    return dict.fromkeys(rows, int(share))
