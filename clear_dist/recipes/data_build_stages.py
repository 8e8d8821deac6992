"""Stages 1 to 4 of ``clear-dist data build``: each reads what those before it left, and leaves a file of its own."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from clear_dist.config import DataBuildConfig
from clear_dist.data.build import faces, prompts
from clear_dist.data.build.attributes import people_of_text, read_rows, review_rows
from clear_dist.data.build.attributes_asked import with_answers
from clear_dist.data.build.faces import Face, Kept, Quality, Wish, collect, restored, shift_for
from clear_dist.data.build.folder import Folder, Line, key_of
from clear_dist.data.build.matching import Matching, match, wanted
from clear_dist.data.build.people import Listed, check_ages, corrected, table_of, with_names
from clear_dist.data.build.prompts import Prompt, prompts_of
from clear_dist.data.build.real import celebrities
from clear_dist.data.build.saved_faces import SavedFaces
from clear_dist.services.progress import say, task
from clear_dist.types import UserError

from .data_build_sources import FaceChoice, ImageChoice, SavedAsker

STAGES = ("attributes", "faces", "matching", "prompts", "images", "texts", "dataset")
SHOWN = 5  # of what needs a look


@dataclass(frozen=True)
class Build:
    """What every stage may use. ask: the language model, if there is one, by what it is asked for."""

    config: DataBuildConfig
    folder: Folder
    ask: dict[str, SavedAsker]

    def asked(self, what: str) -> str | None:
        return self.ask[what].model if what in self.ask else None


def attributes(build: Build) -> tuple[list[Listed], str]:
    """Stage 1: who the text is about; ``people.csv`` is for corrections, ``review.csv`` has the least sure first."""
    config, folder = build.config, build.folder
    found = people_of_text(read_rows(config.text), where=str(config.text), block=config.block)
    if "attributes" in build.ask:
        found, answers = with_answers(found, build.ask["attributes"])
        say(f"  asked about {answers.asked} attributes: {answers.taken} taken, {answers.unknown} unknown")
    people = corrected(found, config.people)
    table = folder.path / "people.csv"
    if config.people is None or config.people.resolve() != table.resolve():  # what somebody works on is theirs
        folder.write_text(table.name, table_of(people))
    people = with_names(people, invent=config.unnamed == "invent", taken=celebrities())
    check_ages(people, config.year)
    folder.write_text("review.csv", _review(people))
    lines = [person.line(number, config.year) for number, person in enumerate(people)]
    # The key is of what is known, not of how: the same values from another table change nothing that follows.
    key = key_of("attributes/1", config.year, [person.known() for person in people])
    before = folder.done("attributes", key)
    if not before or folder.read("attributes") != lines:
        with folder.writing("attributes", key) as writer:
            for line in lines:
                writer.add(line)
    say(f"1 attributes: {len(people)} people{', as before' if before else f'; look through {table} and review.csv'}")
    _tell_missing(people, config)
    return people, key


def collect_faces(build: Build, chosen: FaceChoice, people: int) -> tuple[list[Face], str]:
    """Stage 2: the pool of faces."""
    config, folder = build.config, build.folder
    best = config.face_best if chosen.scored else config.face_draw
    quality = Quality(config.face_draw, best, max(config.pool, people))
    key = key_of("faces/1", faces.__name__, chosen.digest, config.seed, asdict(quality))
    for name, why in chosen.skipped[:SHOWN]:
        say(f"  face left out: {name}: {why}")
    if len(chosen.skipped) > SHOWN:
        say(f"  ... and {len(chosen.skipped) - SHOWN} more faces left out")
    whole = folder.done("faces", key)
    lines = folder.read("faces") if whole else folder.begun("faces", key)
    saved = SavedFaces(chosen.source, folder.path / "faces", lines) if chosen.made else None
    source = saved or chosen.source
    done = [_kept(line) for line in lines]
    pool = restored(source, done)
    if whole:
        say(f"2 faces: {len(done)} faces, as before")
        return pool, key
    with task("2 faces", quality.until) as bar, folder.writing("faces", key, lines) as writer:
        for kept, face in collect(source, config.seed, quality, done):
            pool.append(face if saved is None else saved.keep(face))
            facts = {"age": face.age, "gender": face.gender, "group": face.group, "score": face.score}
            writer.add({"id": kept.id, "digest": kept.digest, "draw": kept.group, **facts, "look": face.look})
            if bar is not None:
                bar.update(len(pool))
    say(f"2 faces: {len(pool)} faces")
    return pool, key


def assign(
    build: Build, people: Sequence[Listed], pool: Sequence[Face], chosen: FaceChoice, after: Sequence[str]
) -> tuple[dict[str, Face], str]:
    """Stage 3: ages shifted where the pool has too few, then everybody's face."""
    config, folder = build.config, build.folder
    key = key_of("matching/1", *after, config.slack)
    wishes = [wanted(person.subject, config.year) for person in people]
    shifted = faces.Shifted(tuple(pool))
    if chosen.shifter is not None:
        three: list[Wish] = [(wish.age, wish.gender, wish.group) for wish in wishes]
        shifted = shift_for(pool, three, chosen.shifter, config.slack)
    by_id = {face.id: face for face in shifted.pool}
    if folder.done("matching", key):
        pairs = {line["name"]: by_id[line["face"]] for line in folder.read("matching")}
        say(f"3 matching: {len(pairs)} people have a face, as before")
        return pairs, key
    found = match(wishes, list(shifted.pool))
    moved = [{"before": before, "after": after, "years": years} for before, after, years in shifted.moved]
    folder.write_text("shifts.jsonl", "".join(json.dumps(line) + "\n" for line in moved))
    folder.write_json(
        "matching.json",
        {"total": found.total, "ties": list(found.ties), "shortages": [asdict(s) for s in found.shortages]},
    )
    with folder.writing("matching", key) as writer:
        for pair in found.pairs:
            writer.add({**asdict(pair), "cost": pair.cost, "relaxed": list(pair.relaxed)})
    _tell_matching(found, len(shifted.moved))
    return {pair.name: by_id[pair.face] for pair in found.pairs}, key


def write_prompts(build: Build, people: Sequence[Listed], chosen: ImageChoice, before: str) -> tuple[list[Prompt], str]:
    """Stage 4: what each picture is to show."""
    config, folder = build.config, build.folder
    key = key_of("prompts/1", prompts.STREAM, before, chosen.limit, chosen.counter, build.asked("prompts"))
    if folder.done("prompts", key):
        made = [Prompt(**line) for line in folder.read("prompts")]
        say(f"4 prompts: {len(made)}, as before")
        return made, key
    made = []
    with task("4 prompts", len(people)) as bar, folder.writing("prompts", key) as writer:
        for number, person in enumerate(people, 1):
            asker = build.ask.get("prompts")
            mine = prompts_of(person.subject, config.year, count=chosen.count, limit=chosen.limit, asker=asker)
            for prompt in mine:
                writer.add(asdict(prompt))
            made += mine
            if bar is not None:
                bar.update(number)
    cut = sum(prompt.setting is None for prompt in made)
    say(f"4 prompts: {len(made)}{f', {cut} without a setting to keep within {chosen.limit} tokens' if cut else ''}")
    return made, key


def _kept(line: Line) -> Kept:
    return Kept(line["id"], line["digest"], line["draw"])


def _review(people: Sequence[Listed]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("person", "name", "attribute", "value", "confidence", "line", "evidence"))
    for row in review_rows([person.subject for person in people]):
        values = (row.attribute, row.value or "", f"{row.confidence:.2f}", row.line or "", row.evidence)
        writer.writerow((row.person, row.name or "", *values))
    return out.getvalue()


def _tell_missing(people: Sequence[Listed], config: DataBuildConfig) -> None:
    short = [(person, missing) for person in people if (missing := person.missing(config.year))]
    if not short:
        return
    some = "; ".join(f"{p.subject.name.value} (line {p.first_line}): {', '.join(m)}" for p, m in short[:SHOWN])
    what = f"{len(short)} people with something missing: {some}{' ...' if len(short) > SHOWN else ''}"
    if config.missing == "refuse":
        raise UserError(f"{what}. Give it with --people, or let it be with --missing allow.")
    say(f"  {what}; half of the cost counts for it")


def _tell_matching(found: Matching, moved: int) -> None:
    say(
        f"3 matching: {len(found.pairs)} people, total cost {found.total:g}, {moved} faces shifted in age; "
        f"{len(found.ties)} ties"
    )
    for short in found.shortages[:SHOWN]:
        say(f"  {short.people} {short.gender} {short.group} people, {short.faces} such faces")


def file_digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}).") from error
