"""Pictures of the card: some people, and faces against people (figure 4 of the paper)."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence

from PIL import Image

from clear_dist.data.build.dataset import Content
from clear_dist.data.build.folder import Folder
from clear_dist.data.mini.draw import encode
from clear_dist.report.data_build_page import contact_sheet_files, write
from clear_dist.report.data_figures import Trait, against_image
from clear_dist.services.progress import say

from .data_build_pictures import IMAGES

PEOPLE, PICTURES, SIDE, MARGIN = 12, 8, 96, 6


def sheet(content: Content) -> bytes:
    """PNG: a row a person, the last four rows people to forget."""
    names = list(content.names)
    kept, gone = names[:-4], names[-4:]
    count = min(PEOPLE - len(gone), len(kept))
    rows = [*(kept[at * len(kept) // count] for at in range(count)), *gone]
    step = SIDE + MARGIN
    page = Image.new("RGB", (PICTURES * step + MARGIN, len(rows) * step + MARGIN), "white")
    for y, name in enumerate(rows):
        for x, shown in enumerate(content.pictures[name][:PICTURES]):
            with Image.open(io.BytesIO(shown.path.read_bytes())) as picture:
                page.paste(picture.convert("RGB").resize((SIDE, SIDE)), (MARGIN + x * step, MARGIN + y * step))
    return encode(page)


def show(folder: Folder, stages: Sequence[str]) -> None:
    """``index.html`` of these stages; files of later ones may be of an earlier run."""
    small: dict[str, bytes] = {}
    for file in contact_sheet_files(folder.path, stages):
        with contextlib.suppress(OSError), Image.open(folder.path / IMAGES / file) as picture:
            small[file] = encode(picture.convert("RGB").resize((SIDE, SIDE)))
    write(folder.path / "index.html", folder.path, small, stages)
    say(f"what each stage did: {folder.path / 'index.html'}")


def face_figure(folder: Folder) -> bytes:
    """PNG: people beside the pool of faces, by age, gender and group."""
    people = [Trait(line["age"], line["gender"]["value"], line["group"]["value"]) for line in folder.read("attributes")]
    faces = [Trait(line["age"], line["gender"], line["group"]) for line in folder.read("faces")]
    image = against_image("figure4", "Faces against people", people, faces, f"{len(faces):,} faces of the pool")
    assert image is not None  # there are people and faces
    return image.light
