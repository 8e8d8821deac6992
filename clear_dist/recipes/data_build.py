"""``clear-dist data build``: questions and answers about people become a dataset, stage by stage."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from clear_dist import __version__
from clear_dist.config import DataBuildConfig
from clear_dist.data.build.captions import Caption
from clear_dist.data.build.card import Facts, card
from clear_dist.data.build.companions import NONE, Companions, companions_beside, read_companions
from clear_dist.data.build.dataset import CHECKSUMS, Cells, Content, Shown, write_dataset
from clear_dist.data.build.folder import Line, key_of, opened
from clear_dist.data.build.people import Listed
from clear_dist.data.build.real import choices_digest, choices_of, drawn_choices
from clear_dist.data.build.splits import PERCENT, forgotten, people_of
from clear_dist.data.check import check_directory
from clear_dist.data.clear import cache_directory
from clear_dist.services.progress import say, task
from clear_dist.types import UserError

from . import data_build_pictures as pictures
from . import data_build_stages as stages
from .data_build_figures import face_figure, sheet, show
from .data_build_pictures import IMAGES
from .data_build_sources import askers, open_faces, open_images
from .data_build_stages import STAGES, Build

Given = tuple[Companions, Path | None]  # TOFU's companions of the text, and where they are


def run(config: DataBuildConfig) -> None:
    """Do what is left to do; nothing is at ``--out`` before the whole dataset is, checked.

    Raises:
        UserError: whatever is wrong with text, table, faces or pictures, by name; ``--out`` holds something else.
    """
    out, last = config.out, STAGES.index(config.until)
    if out.exists() and not (out.is_dir() and (_made(out) or not any(out.iterdir()))):
        raise UserError(f"--out {out}: holds something else than a dataset of this command; name another directory.")
    given = _companions(config)
    real = None if config.real in ("drawn", "none") else choices_of(config.real)
    with opened(config.build) as folder:
        _stages(Build(config, folder, askers(config)), last, given, real)
        show(folder, STAGES[: last + 1])


def _stages(build: Build, last: int, given: Given, real: dict[str, list[Cells]] | None) -> None:
    config = build.config
    people, people_key = stages.attributes(build)
    if last < 1:
        return _stopped(config)
    forgotten(len(people))  # too few are found before any face is made
    faces = open_faces(config)
    pool, pool_key = stages.collect_faces(build, faces, len(people))
    if last < 2:
        return _stopped(config)
    chosen, matching_key = stages.assign(build, people, pool, faces, (people_key, pool_key))
    if last < 3:
        return _stopped(config)
    images = open_images(config)
    prompts, prompts_key = stages.write_prompts(build, people, images, people_key)
    if last < 4:
        return _stopped(config)
    made, images_key = pictures.take_pictures(build, prompts, chosen, images, (matching_key, prompts_key))
    if last < 5:
        return _stopped(config)
    texts, texts_key = pictures.write_texts(build, people, prompts, made, images_key)
    if last < 6:
        return _stopped(config)
    return _assemble(build, people, texts, given, real, texts_key)


def _stopped(config: DataBuildConfig) -> None:
    say(
        f"stopped after {config.until}, as asked; its files are in {config.build}. The same command without --until "
        "goes on"
    )


def _assemble(
    build: Build,
    people: Sequence[Listed],
    texts: Sequence[Line],
    found: Given,
    real: dict[str, list[Cells]] | None,
    key: str,
) -> None:
    """The last stage: the dataset, written beside ``--out``, checked, and then given its name."""
    config, out = build.config, build.config.out
    given, where = found
    settings = {
        "real": config.real if real is None else choices_digest(real),
        "licences": [config.text_licence, config.faces_licence],
    }
    key = key_of("dataset/1", __version__, key, where and _digests(where), settings)
    made_from = {"text": config.text.name, "year": config.year, "seed": config.seed, "made": key}
    if (before := _made(out)) == key:
        return say(f"7 dataset: {out} is this very dataset already")
    if before is not None:
        raise UserError(f"--out {out}: holds a dataset that was made otherwise; name another directory, or remove it.")
    choices, theirs = real or {}, {}
    if config.real == "drawn":
        choices, theirs = drawn_choices([str(person.subject.name.value) for person in people])
    pictures = _pictures(build, people, texts)
    content = Content([person.subject for person in people], pictures, given, choices, theirs, made_from)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent))
    partial.chmod(0o755)
    try:
        with task("7 dataset", 1) as bar:

            def step(done: int, total: int) -> None:
                if bar is not None:
                    bar.total = total
                    bar.update(done)

            extra = {"sheet.png": sheet(content), "figure4.png": face_figure(build.folder)}
            facts = _facts(build, people, given, where)
            counts = write_dataset(partial, content, lambda counts: card(content, facts, counts), extra, step)
        report = check_directory(partial, cache=cache_directory() / "pictures")
        seen = {"faults": len(report.faults), "warnings": len(report.findings) - len(report.faults)}
        splits = {split: list(people_of(split, content.names)) for split in PERCENT}
        build.folder.write_json(
            "dataset.json", {"counts": counts, "people": len(people), "splits": splits, "findings": seen}
        )
        if report.faults:
            first = report.faults[0]
            raise UserError(
                f"{len(report.faults)} faults in what would be the dataset, which is therefore not written; the first: "
                f"{first.kind}, {first.place}: {first.what}. Correct the text or the table of people."
            )
        if out.exists():
            out.rmdir()  # empty, as seen above
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    rows = ", ".join(f"{name} {count:,}" for name, count in counts.items() if not name.endswith("+tofu"))
    say(f"7 dataset: {out}: {rows}; checked: no fault, {seen['warnings']} warnings (clear-dist data check {out})")


def _pictures(build: Build, people: Sequence[Listed], texts: Sequence[Line]) -> dict[str, list[Shown]]:
    pictures: dict[str, list[Shown]] = {str(person.subject.name.value): [] for person in people}
    for line in texts:
        said = Caption(
            line["caption"], line["paraphrase"], tuple(line["perturbed"]), tuple(line["perturbed_names"]), line["by"]
        )
        path = build.folder.path / IMAGES / line["file"]
        pictures[line["name"]].append(Shown(line["line"], path, line["digest"], said, line["shows"], line["unseen"]))
    return pictures


def _companions(config: DataBuildConfig) -> Given:
    if config.companions == "none":
        return NONE, None
    where = companions_beside(config.text) if config.companions == "beside" else Path(config.companions)
    return (NONE, None) if where is None else (read_companions(where), where)


def _digests(folder: Path) -> list[str]:
    return [f"{path.name} {stages.file_digest(path)}" for path in sorted(folder.glob("*.json"))]


def _made(out: Path) -> str | None:
    """What a dataset that is there says it was made by; None where it is none of ours, or not whole."""
    try:
        value = json.loads((out / "attributes.json").read_text(encoding="utf-8"))
        return value["made"] if (out / CHECKSUMS).is_file() else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _facts(build: Build, people: Sequence[Listed], given: Companions, where: Path | None) -> Facts:
    config = build.config
    drawn = "drawn by clear_dist (Apache-2.0): flat drawings that stand for invented people"
    made = {
        "text": f"{config.text.name} (SHA-256 {stages.file_digest(config.text)[:16]}), ages as in {config.year}",
        "faces": "drawn" if config.faces == "drawn" else Path(config.faces).name,
        "pictures": "drawn" if config.images == "drawn" else f"made with {Path(config.images).name}",
        "companions": f"{len(given.of):,} rows with wrong answers" if where is not None else "none",
        "real faces and real world": config.real if config.real in ("drawn", "none") else Path(config.real).name,
        "by": f"clear_dist {__version__}, seed {config.seed}",
    }
    if build.ask:
        made["language model"] = f"{config.ask_model}, for {config.ask_for}"
    licences = {
        "text": config.text_licence,
        "faces and pictures": drawn if config.images == "drawn" else config.faces_licence,
    }
    invented = [str(p.subject.name.value) for p in people if "name" in p.invented]
    notes = [f"The text names nobody here, so a name was invented: {', '.join(invented)}."] if invented else []
    missing = sum(bool(person.missing(config.year)) for person in people)
    if missing:
        notes.append(f"Of {missing} people an age, gender or group is not known; their faces were chosen without.")
    return Facts(config.out.name, made, licences, notes)
