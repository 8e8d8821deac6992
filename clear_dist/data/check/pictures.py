"""Pictures: readable, of one person only, and not nearly the same on both sides of a split."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clear_dist.data.images import decode
from clear_dist.data.picture_check import check_pictures
from clear_dist.data.rows import VisualRow
from clear_dist.types import Picture

from .findings import Report
from .layout import Tables, place

SIDE = 16  # pixels of the thumbnail that is compared
DARK = 4.0  # standard deviation, of 255, below which a picture shows nothing

Progress = Callable[[int, int], None]


def check_all_pictures(
    tables: Tables, report: Report, *, near: float, cache: Path | None, on_progress: Progress | None
) -> None:
    """near: mean difference of two thumbnails, of 255, up to which pictures of different people are nearly the same."""
    rows = [row for config in tables.visual.values() for row in config]
    first: dict[str, tuple[str, Picture]] = {}
    for row in rows:
        first.setdefault(row.picture.digest, (place(row.id), row.picture))
    for choice in tables.choices:
        if choice.picture is not None:
            first.setdefault(choice.picture.digest, (place(choice.id), choice.picture))
    errors = check_pictures((picture for _, picture in first.values()), cache=cache, on_progress=on_progress)
    for digest, error in errors.items():
        report.add("picture-unreadable", first[digest][0], str(error).split(": ", 1)[1], pictures=[digest])
    sound = {digest: found for digest, found in first.items() if digest not in errors}
    _of_several(rows, sound, report)
    thumbs = {digest: _thumbnail(picture) for digest, (_, picture) in sound.items()}
    for digest, thumb in thumbs.items():
        if float(thumb.std()) < DARK:
            report.add("picture-blank", first[digest][0], "shows one colour only", warn=True, pictures=[digest])
    people = {row.picture.digest: row.person for row in tables.visual.get("full", rows)}
    _nearly_same(people, thumbs, first, tables, near, report)


def _of_several(rows: list[VisualRow], sound: dict[str, tuple[str, Picture]], report: Report) -> None:
    """One picture under several names, or several times with one person."""
    owners: defaultdict[str, dict[str, str]] = defaultdict(dict)
    within: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for row in rows:
        owners[row.picture.digest].setdefault(row.person, place(row.id))
        if row.id.startswith("full/"):
            within[row.picture.digest, row.person].append(place(row.id))
    for digest, names in owners.items():
        if len(names) > 1 and digest in sound:
            (one, where), (other, there), *_ = names.items()
            report.add(
                "picture-of-two", there, f"the picture of {other} is that of {one} at {where}", pictures=[digest]
            )
    for (digest, person), places in within.items():
        if len(places) > 1:
            report.add(
                "picture-twice",
                places[1],
                f"{person} has this picture at {places[0]} too",
                warn=True,
                pictures=[digest],
            )


def _thumbnail(picture: Picture) -> NDArray[np.float32]:
    return np.asarray(decode(picture).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float32).ravel()


def _nearly_same(
    people: dict[str, str],
    thumbs: dict[str, NDArray[np.float32]],
    first: dict[str, tuple[str, Picture]],
    tables: Tables,
    near: float,
    report: Report,
) -> None:
    """Pictures of people to forget against those of everybody else; on the largest split, which holds the others."""
    if not tables.splits:
        return
    forgotten = {row.person for row in tables.visual.get(list(tables.splits)[-1], ())}
    gone = [d for d, person in people.items() if person in forgotten and d in thumbs]
    kept = [d for d, person in people.items() if person not in forgotten and d in thumbs]
    if not gone or not kept:
        return
    theirs = np.stack([thumbs[d] for d in kept])
    for digest in gone:
        apart = np.abs(theirs - thumbs[digest]).mean(axis=1)
        closest = int(apart.argmin())
        if apart[closest] <= near:
            other = kept[closest]
            report.add(
                "picture-nearly-in-both",
                first[digest][0],
                f"{people[digest]} looks like {people[other]} at {first[other][0]} ({apart[closest]:.1f} of 255 apart)",
                pictures=[digest, other],
            )
