"""The shuffled-pictures control: is the picture really looked at?

Every question keeps its wording and its right answer but gets another person's picture. A model that recognises
people must now name the wrong one, so name accuracy has to fall to chance; if it does not, names are read off the
question, or the picture never reached the model.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

from clear_dist.metrics.record import control_name, is_control
from clear_dist.types import Example, Picture, SetName, UserError

__all__ = ["control_name", "is_control", "shuffle_pictures"]


def _other(example: Example, pool: Sequence[Example]) -> list[Picture]:
    """Pictures of other people than the example's; where nobody is named, simply other pictures."""
    assert example.picture is not None
    own = example.picture.digest
    return [
        e.picture
        for e in pool
        if e.picture is not None and e.picture.digest != own and (example.person is None or e.person != example.person)
    ]


def shuffle_pictures(examples: Mapping[SetName, Sequence[Example]], seed: int = 0) -> dict[SetName, list[Example]]:
    """The visual examples with pictures of other people of the same set (of any set where it has nobody else).

    All questions on one picture get the same other picture. Text examples are left out, since nothing changes for
    them, and so are the visible attributes, which no longer hold. Raises UserError if all pictures show one person.
    """
    rng = random.Random(seed)
    visual: dict[SetName, list[Example]] = {
        name: [e for e in rows if e.picture is not None] for name, rows in examples.items()
    }
    everything = list({e.picture.digest: e for rows in visual.values() for e in rows if e.picture is not None}.values())
    out: dict[SetName, list[Example]] = {}
    for name, rows in visual.items():
        pool = list({e.picture.digest: e for e in rows if e.picture is not None}.values())
        swapped: dict[tuple[str, str | None], Picture] = {}
        out[name] = []
        for e in rows:
            assert e.picture is not None
            key = (e.picture.digest, e.person)
            if key not in swapped:
                choices = _other(e, pool) or _other(e, everything)
                if not choices:
                    raise UserError(
                        f"set {name}: no picture of anyone but {e.person or 'this one'} to swap with; the "
                        "shuffled-pictures control needs pictures of at least two people"
                    )
                swapped[key] = rng.choice(choices)
            out[name].append(replace(e, picture=swapped[key], attributes=None))
    return out
