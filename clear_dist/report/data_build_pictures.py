"""Sections on a build's prompts, pictures, texts and dataset."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from clear_dist.report.cells import Row, Table, gap, plain_number, text
from clear_dist.report.data_build_people import cut, listed, looks, number, with_rest
from clear_dist.report.data_build_rows import Prompt, Shot, Wording, Written
from clear_dist.report.data_pieces import Look, Section, Thumbnail, several, thumbnail

SHEET_ROWS, SHEET_COLUMNS = 12, 8
EXAMPLES = 5


@dataclass(frozen=True)
class SheetRow:
    name: str
    pictures: tuple[Thumbnail, ...]


def prompts_told(prompts: Sequence[Prompt]) -> str:
    return f"{several(len(prompts), 'prompt')} for {several(len({p.name for p in prompts}), 'person', 'people')}."


def prompts_block(prompts: Sequence[Prompt]) -> Section:
    topics: defaultdict[str, list[Prompt]] = defaultdict(list)
    for prompt in prompts:
        topics[prompt.topic].append(prompt)
    order = sorted(topics.items(), key=lambda item: (-len(item[1]), item[0]))
    writers = Counter(prompt.by for prompt in prompts)
    rows = [
        Row(
            (
                text(cut(topic)),
                *(number(n) for n in (len(found), sum(p.setting is None for p in found), max(p.tokens for p in found))),
            )
        )
        for topic, found in order
    ]
    told = ", ".join(f"{cut(by)} {count:,}" for by, count in sorted(writers.items()))
    head = ("Topic", "Prompts", "Setting left out", "Tokens, most")
    left_out = [
        (p.name, f"line {p.line:,}, {several(p.tokens, 'token')}", cut(p.text)) for p in prompts if p.setting is None
    ]
    return Section(
        "prompts",
        "Prompts",
        "What each picture is to show: one for each question, with a setting that follows from what it is about.",
        tables=(with_rest("topics", "Prompts by topic", head, rows),),
        notes=(f"Settings chosen by: {told}.",),
        looks=looks("Settings left out, since the text encoder reads no more tokens", left_out),
    )


def pictures_told(shots: Sequence[Shot]) -> str:
    made, people = sum(shot.file is not None for shot in shots), len({shot.name for shot in shots})
    decided = any(shot.kept is not None for shot in shots if shot.file is not None)
    kept = f"; {sum(bool(shot.kept) for shot in shots):,} kept" if decided else ""
    return f"{several(made, 'picture')} of {several(people, 'person', 'people')}{kept}."


def pictures_block(shots: Sequence[Shot]) -> Section:
    made = [shot for shot in shots if shot.file is not None]
    groups = {
        "kept, to train on": [shot for shot in made if shot.kept and not shot.unseen],
        "kept, unseen in training": [shot for shot in made if shot.kept and shot.unseen],
        "left out": [shot for shot in made if shot.kept is False],
        "not decided yet": [shot for shot in made if shot.kept is None],
    }
    rows = []
    for what, found in groups.items():
        scores = [shot.score for shot in found if shot.score is not None]
        figures = (min(scores), statistics.median(scores), max(scores)) if scores else (None,) * 3
        tries = sum(shot.samples for shot in found)
        if found:
            rows.append(
                Row(
                    (
                        text(what),
                        number(len(found)),
                        number(tries),
                        *(gap("no score") if f is None else plain_number(f) for f in figures),
                    )
                )
            )
    head = ("Pictures", "Number", "Tries", "Score, least", "Median", "Most")
    hopeful = {shot.name for shot in made if shot.kept is not False}
    without = [name for name in dict.fromkeys(shot.name for shot in shots) if name not in hopeful]
    notes = (f"No picture was kept of {len(without):,}: {listed(without)}.",) if without else ()
    failed = [(shot.name, f"line {shot.line:,}", cut(shot.failed)) for shot in shots if shot.file is None]
    return Section(
        "pictures",
        "Pictures",
        "Of several tries for each prompt the best is taken; of a person's pictures those with the best scores stay.",
        tables=(Table("picture-groups", "Pictures and their scores", head, tuple(rows)),),
        notes=notes,
        looks=looks("Could not be made", failed),
    )


def sheet_shots(shots: Sequence[Shot]) -> list[tuple[str, list[Shot]]]:
    """Who is on the contact sheet, spread over everybody, with their first pictures."""
    people: defaultdict[str, list[Shot]] = defaultdict(list)
    for shot in shots:
        if shot.file is not None:
            people[shot.name].append(shot)
    names = list(people)
    count = min(len(names), SHEET_ROWS)
    chosen = [names[at * len(names) // count] for at in range(count)]
    return [(name, people[name][:SHEET_COLUMNS]) for name in chosen]


def contact_sheet(shots: Sequence[Shot], thumbnails: Mapping[str, bytes]) -> tuple[SheetRow, ...]:
    return tuple(
        SheetRow(
            name,
            tuple(
                thumbnail(
                    thumbnails.get(s.file or ""), f"Picture of {name} for the question on line {s.line}", _note(s)
                )
                for s in mine
            ),
        )
        for name, mine in sheet_shots(shots)
    )


def _note(shot: Shot) -> str:
    return "left out" if shot.kept is False else "unseen" if shot.unseen else ""


def texts_told(wordings: Sequence[Wording]) -> str:
    wrong = sum(len(one.perturbed) for one in wordings)
    return f"{several(len(wordings), 'caption')} with {several(wrong, 'wrong one')}."


def texts_block(wordings: Sequence[Wording]) -> Section:
    writers: defaultdict[str, list[Wording]] = defaultdict(list)
    for one in wordings:
        writers[one.by].append(one)
    rows = [
        Row(
            (
                text(cut(by)),
                number(len(found)),
                number(sum(bool(one.paraphrase) for one in found)),
                plain_number(statistics.fmean(len(one.perturbed) for one in found), 1),
                plain_number(statistics.fmean(len(one.names) for one in found), 1),
            )
        )
        for by, found in sorted(writers.items())
    ]
    head = ("Written by", "Captions", "Paraphrases", "Wrong captions, mean", "Wrong names, mean")
    examples = [
        (
            one.name,
            cut(one.caption),
            f"Otherwise: {cut(one.paraphrase)} Wrong: {cut(''.join(one.perturbed[:1])) or 'none'}",
        )
        for one in wordings[:: max(1, len(wordings) // EXAMPLES)][:EXAMPLES]
    ]
    notes = []
    for why, found in (
        ("The paraphrase is the caption itself, or empty", [o for o in wordings if o.paraphrase in ("", o.caption)]),
        ("A wrong caption is the right one", [o for o in wordings if {o.caption, o.paraphrase} & set(o.perturbed)]),
        ("There is no wrong caption", [o for o in wordings if not o.perturbed]),
    ):
        if found:
            notes.append(f"{why}, {len(found):,}: {listed([f'{one.name} (line {one.line})' for one in found])}.")
    return Section(
        "texts",
        "Texts",
        "A caption for each picture, the same in other words, and wrong ones in the same form, for the truth ratio.",
        tables=(Table("writers", "Captions by who wrote them", head, tuple(rows)),),
        notes=tuple(notes),
        looks=(Look("Some of them", tuple(examples)),),
    )


def dataset_told(written: Written) -> str:
    findings = f"{several(written.faults, 'fault')}, {several(written.warnings, 'warning')}"
    return f"{several(written.people, 'person', 'people')} in {several(len(written.counts), 'config')}; {findings}."


def dataset_block(written: Written) -> Section:
    configs = tuple(Row((text(name), number(count))) for name, count in written.counts.items())
    splits = [Row((text(name), number(len(people)), text(listed(people)))) for name, people in written.splits.items()]
    return Section(
        "dataset",
        "Dataset",
        "In CLEAR's layout, checked as by clear-dist data check, which shows findings with their pictures (--report).",
        tables=(
            *((Table("configs", "Rows by config", ("Config", "Rows"), configs),) if configs else ()),
            *((with_rest("splits", "Who is to be forgotten", ("Split", "People", "Names"), splits),) if splits else ()),
        ),
    )
