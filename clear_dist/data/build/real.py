"""Real faces and the real world: what a model knew before, and is to know afterwards.

Built in are CLEAR-mini's drawn celebrities and passers-by, in CLEAR's numbers; a dataset in CLEAR's layout, CLEAR
itself among them, can give its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from clear_dist.data.build.dataset import Cells
from clear_dist.data.build.folder import key_of
from clear_dist.data.clear import ClearFiles
from clear_dist.data.mini import text
from clear_dist.data.mini.tables import Photo, Tables, take
from clear_dist.data.mini.world import build_world, real_people
from clear_dist.data.rows import BadData
from clear_dist.types import UserError


def drawn_choices(names: Sequence[str]) -> tuple[dict[str, list[Cells]], dict[str, Cells]]:
    """(config -> rows, digest -> entry of attributes.json). names: of the dataset's people; celebrities who share one
    are left out."""
    world = build_world("full")
    taken = {name.casefold() for name in names}
    faces = [take(shot) for shot in world.real_faces if str(shot.person).casefold() not in taken]
    strangers = [take(shot) for shot in world.strangers]
    tables = Tables(world, {}, faces, strangers)
    rows = {config: tables.rows(config) for config in ("real_faces", "real_world")}
    return rows, dict(_entries([*faces, *strangers]))


def celebrities() -> list[str]:
    """The names that nobody in a dataset with the built-in real faces should have."""
    return [person.name for person in real_people().people]


def choices_of(source: str) -> dict[str, list[Cells]]:
    """Those of another dataset. Raises UserError: no dataset there, neither config in it, a broken row."""
    files = ClearFiles(source, BadData("fail"))
    if not any(files.has(config) for config in ("real_faces", "real_world")):
        raise UserError(f"--real {source}: neither real_faces nor real_world there; name a dataset that has one.")
    out: dict[str, list[Cells]] = {"real_faces": [], "real_world": []}
    for row in files.choices():
        assert row.picture is not None  # such rows are refused
        image = {"bytes": row.picture.read(), "path": f"{row.picture.digest[:16]}.png"}
        cells: dict[str, Any] = {"image": image, "answer": row.answer, "options": list(row.options)}
        out[row.set].append(cells if row.question is None else {**cells, "question": row.question})
    return out


def choices_digest(choices: Mapping[str, Sequence[Cells]]) -> str:
    """SHA-256 of all rows, pictures by their own."""
    rows = [
        [config, hashlib.sha256(row["image"]["bytes"]).hexdigest(), row.get("question"), row["answer"], row["options"]]
        for config, several in choices.items()
        for row in several
    ]
    return key_of(rows)


def _entries(photos: Sequence[Photo]) -> Iterator[tuple[str, Cells]]:
    for photo in photos:
        shot = photo.shot
        yield (
            photo.digest,
            {
                "person": shot.person,
                "unseen": shot.unseen,
                "attributes": shot.attributes,
                "description": text.description(shot.identity, shot.look),
                "questions": [list(pair) for pair in text.questions(shot.identity, shot.look)],
            },
        )
