"""The page of ``clear-dist data build``: what each stage did, what needs a look, and faces against people."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from clear_dist.report.data_build_people import (
    against_block,
    faces_block,
    faces_told,
    matching_block,
    matching_told,
    people_block,
    people_told,
)
from clear_dist.report.data_build_pictures import (
    SheetRow,
    contact_sheet,
    dataset_block,
    dataset_told,
    pictures_block,
    pictures_told,
    prompts_block,
    prompts_told,
    sheet_shots,
    texts_block,
    texts_told,
)
from clear_dist.report.data_build_read import STAGES, read_build
from clear_dist.report.data_build_rows import BuildData
from clear_dist.report.data_pieces import Section, several, write_page
from clear_dist.report.render import render

MEANINGS = {
    "Confidence": "How sure the reader of the text is of an attribute, 0 to 1. It is a guess by rules, or by a "
    "language model: look at the least sure ones.",
    "Group": "A coarse group by region of origin. It chooses which face goes with which invented person, and says "
    "nothing about anybody real.",
    "Cost": "What a face that does not fit costs: by years of age, and for another gender or group. The matching as a "
    "whole has the least cost there is.",
    "As good": "How many other faces the person has in matchings of the same cost.",
    "Given up": "What differs between person and face, or is unknown, of gender and group.",
    "Unseen": "Pictures that are kept out of training, so that what a model says about them is no learning by heart.",
    "Score": "Of a face: how real it looks. Of a picture: how well it fits its prompt and its face. Scores of one "
    "source can be compared.",
}
State = Literal["done", "empty", "none"]
T = TypeVar("T")


@dataclass(frozen=True)
class Stage:
    """A stage of the build. told: what it did, in a line. block: its section; empty where there is nothing to show."""

    key: str
    title: str
    state: State
    told: str
    block: Section | None = None


@dataclass(frozen=True)
class BuildView:
    """Everything the page shows. sheet: rows of the contact sheet."""

    name: str
    headline: str
    lead: str
    stages: tuple[Stage, ...]
    sections: tuple[Section, ...]
    sheet: tuple[SheetRow, ...]


def data_build_page(work: Path, thumbnails: Mapping[str, bytes] | None = None, stages: Collection[str] = STAGES) -> str:
    """The HTML page of a build, finished or not.

    Args:
        work: the folder of the stages' files; those that are missing are stages to come.
        stages: those that are shown; files of others may be of an earlier build.
        thumbnails: ``file`` of images.jsonl -> PNG or JPEG, small, of the files that ``contact_sheet_files`` names;
            one that is not there is shown as a gap.

    Raises UserError where there is no such folder, or a file is broken: names file, line and field.
    """
    return render("data_build.html.j2", build_view(read_build(work, stages), thumbnails or {}), MEANINGS)


def contact_sheet_files(work: Path, stages: Collection[str] = STAGES) -> tuple[str, ...]:
    """``file`` of the pictures on the page's contact sheet, below ``work/images``. Raises as ``data_build_page``."""
    shots = sheet_shots(read_build(work, stages).shots or ())
    return tuple(shot.file for _, mine in shots for shot in mine if shot.file is not None)


def write(
    path: Path, work: Path, thumbnails: Mapping[str, bytes] | None = None, stages: Collection[str] = STAGES
) -> None:
    """Writes ``data_build_page``, whole or not at all. Raises UserError, also where ``path`` cannot be written."""
    write_page(path, data_build_page(work, thumbnails, stages))


def build_view(data: BuildData, thumbnails: Mapping[str, bytes]) -> BuildView:
    stages = _stages(data)
    done = sum(stage.state == "done" for stage in stages)
    blocks = {stage.key: stage.block for stage in stages if stage.block is not None}
    sections = []
    for key, block in blocks.items():
        sections.append(block)
        if key == "matching":
            sections.append(against_block(data))
    if "matching" not in blocks:
        sections.append(against_block(data))
    headline = f"{done} of {len(stages)} stages are done"
    if data.written is not None:
        headline = f"{several(data.written.people, 'person', 'people')}, {several(data.written.faults, 'fault')}"
    return BuildView(
        name=data.name,
        headline=headline,
        lead=_lead(stages),
        stages=stages,
        sections=tuple(section for section in sections if section),
        sheet=contact_sheet(data.shots, thumbnails) if data.shots else (),
    )


def _stages(data: BuildData) -> tuple[Stage, ...]:
    matched = (data.matches, data.balance) if data.matches or data.balance else data.matches
    return (
        _stage("people", "People", data.people, people_told, people_block),
        _stage("faces", "Faces", data.faces, lambda _: faces_told(data), lambda _: faces_block(data)),
        _stage("matching", "Matching", matched, lambda _: matching_told(data), lambda _: matching_block(data)),
        _stage("prompts", "Prompts", data.prompts, prompts_told, prompts_block),
        _stage("pictures", "Pictures", data.shots, pictures_told, pictures_block),
        _stage("texts", "Texts", data.wordings, texts_told, texts_block),
        _stage("dataset", "Dataset", data.written, dataset_told, dataset_block),
    )


def _stage(key: str, title: str, found: T | None, told: Callable[[T], str], block: Callable[[T], Section]) -> Stage:
    if found is None:
        return Stage(key, title, "none", "Not done yet.")
    if found == ():
        return Stage(key, title, "empty", "Its file is there and empty: nothing was written yet.")
    return Stage(key, title, "done", told(found), block(found))


def _lead(stages: tuple[Stage, ...]) -> str:
    to_come = [stage.title.lower() for stage in stages if stage.state != "done"]
    return f"Still to come: {', '.join(to_come)}." if to_come else "All stages are done."
