"""Pictures and their texts in ``clear-dist data build``: stages 5 and 6."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence

from clear_dist.data.build import captions, photos
from clear_dist.data.build.faces import Face
from clear_dist.data.build.folder import Folder, Line, key_of
from clear_dist.data.build.people import Listed
from clear_dist.data.build.photos import photograph, seeds_of
from clear_dist.data.build.prompts import Prompt
from clear_dist.data.build.splits import kept_pictures
from clear_dist.reading import is_file
from clear_dist.services.progress import say, task
from clear_dist.types import UserError

from .data_build_sources import ImageChoice
from .data_build_stages import SHOWN, Build, file_digest

IMAGES = "images"


def take_pictures(
    build: Build, made: Sequence[Prompt], faces_of: dict[str, Face], chosen: ImageChoice, before: Sequence[str]
) -> tuple[list[Line], str]:
    """Stage 5: a picture for every prompt; one that cannot be read is listed and left out."""
    config, folder = build.config, build.folder
    key = key_of("images/1", photos.STREAM, *before, chosen.digest, chosen.samples, config.seed)
    # Each picture says what it is made of, so one person's correction does not cost everybody else's pictures.
    of = {prompt.line: _made_of(build, prompt, faces_of[prompt.name], chosen) for prompt in made}
    left = {str(line.get("of")): line for line in folder.lines_left("images")}
    sound = {at: left[digest] for at, digest in of.items() if digest in left and _is_whole(folder, left[digest])}
    if len(sound) == len(made) and folder.done("images", key):
        say(f"5 images: {len(made)}, as before")
        return [sound[prompt.line] for prompt in made], key
    (folder.path / IMAGES).mkdir(exist_ok=True)
    out: list[Line] = []
    # Those from before come first as far as they go: cut short again, none of them is lost.
    begun = [sound[prompt.line] for prompt in itertools.takewhile(lambda prompt: prompt.line in sound, made)]
    out += begun
    with task("5 images", len(made)) as bar, folder.writing("images", key, begun) as writer:
        for number, prompt in enumerate(made[len(begun) :], len(begun) + 1):
            line = sound.get(prompt.line)
            if line is None:
                line = {"of": of[prompt.line], **_take(build, prompt, faces_of[prompt.name], chosen)}
            writer.add(line)
            out.append(line)
            if bar is not None:
                bar.update(number)
    failed = [line for line in out if line["file"] is None]
    again = f", {len(sound)} of them from before" if sound else ""
    say(f"5 images: {len(out) - len(failed)}{again}{f'; {len(failed)} could not be made' if failed else ''}")
    for line in failed[:SHOWN]:
        say(f"  left out: {line['failed']}")
    return out, key


def write_texts(
    build: Build, people: Sequence[Listed], made: Sequence[Prompt], images: Sequence[Line], before: str
) -> tuple[list[Line], str]:
    """Stage 6: which pictures are kept, which of them unseen, and what is said about them."""
    config, folder = build.config, build.folder
    key = key_of("texts/1", captions.STREAM, before, config.pictures, config.unseen, build.asked("captions"))
    if folder.done("texts", key):
        lines = folder.read("texts")
        say(f"6 texts: {len(lines)} pictures with captions, as before")
        return lines, key
    kept = keep(people, images, config.pictures)
    settings = {prompt.line: prompt.setting for prompt in made}
    gender = {str(person.subject.name.value): person.subject.gender.value for person in people}
    lines = []
    with task("6 texts", len(kept)) as bar, folder.writing("texts", key) as writer:
        for number, (line, unseen) in enumerate(_with_unseen(kept, config.unseen), 1):
            name = line["name"]
            alike = [other for other in gender if gender[other] == gender[name]]
            others = alike if len(alike) > captions.WRONG else list(gender)
            said = captions.captions_of(
                name, line["line"], line["shows"], settings[line["line"]], others, build.ask.get("captions")
            )
            texts = {"caption": said.caption, "paraphrase": said.paraphrase, "perturbed": list(said.perturbed)}
            texts |= {"perturbed_names": list(said.perturbed_names), "by": said.by, "unseen": unseen}
            about = {name: line[name] for name in ("name", "line", "file", "digest", "shows")}
            lines.append({**about, **texts})
            writer.add(lines[-1])
            if bar is not None:
                bar.update(number)
    say(f"6 texts: {len(lines)} pictures with captions; {len(images) - len(lines)} pictures not kept")
    return lines, key


def keep(people: Sequence[Listed], images: Sequence[Line], share: str) -> list[Line]:
    """The pictures that stay, in the order of the text: of each person's those with the best scores, the first of
    equals. Raises UserError listing people who are left without any."""
    mine: dict[str, list[Line]] = {str(person.subject.name.value): [] for person in people}
    rows = {str(person.subject.name.value): len(person.subject.rows) for person in people}
    for line in images:
        if line["file"] is not None:
            mine[line["name"]].append(line)
    none = [name for name, lines in mine.items() if not lines]
    if none:
        raise UserError(f"no picture of {', '.join(none[:SHOWN])}{' ...' if len(none) > SHOWN else ''} could be made.")
    out: list[Line] = []
    for name, count in kept_pictures(rows, share).items():
        best = sorted(mine[name], key=lambda line: -(line["score"] if line["score"] is not None else 0.0))[:count]
        out += sorted(best, key=lambda line: line["line"])
    return out


def _with_unseen(kept: Sequence[Line], unseen: int) -> list[tuple[Line, bool]]:
    """The last pictures of everybody are never trained on; one at least is."""
    out: list[tuple[Line, bool]] = []
    for name in dict.fromkeys(line["name"] for line in kept):
        mine = [line for line in kept if line["name"] == name]
        seen = max(1, len(mine) - unseen)
        out += [(line, at >= seen) for at, line in enumerate(mine)]
    return out


def _made_of(build: Build, prompt: Prompt, face: Face, chosen: ImageChoice) -> str:
    """Digest of everything that decides the picture of a prompt."""
    return key_of(
        photos.STREAM,
        [chosen.digest, chosen.samples, build.config.seed],
        [face.id, face.look],
        [prompt.name, prompt.line, prompt.text, prompt.negative],
    )


def _take(build: Build, prompt: Prompt, face: Face, chosen: ImageChoice) -> Line:
    about: Line = {"name": prompt.name, "line": prompt.line}
    try:
        seeds = seeds_of(prompt.name, prompt.line, chosen.samples, build.config.seed)
        photo = photograph(chosen.source, chosen.detectors, face, prompt, seeds)
    except UserError as error:
        return {**about, "file": None, "failed": str(error)}
    file = f"{prompt.line:06d}.png"
    path = build.folder.path / IMAGES / file
    new = path.with_suffix(".new")
    new.write_bytes(photo.sample.data)
    os.replace(new, path)
    made = {"digest": photo.digest, "score": photo.score, "seed": photo.seed, "samples": photo.tried[0]}
    return {**about, "file": file, **made, "shows": dict(photo.sample.shows)}


def _is_whole(folder: Folder, line: Line) -> bool:
    file = line.get("file")
    if file is None:
        return True
    path = folder.path / IMAGES / str(file)
    return file == path.name and is_file(path) and file_digest(path) == line.get("digest")
