"""One loader for every source: CLEAR-mini, CLEAR (Hub or directory), TOFU (Hub, directory, JSON lines)."""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from clear_dist.data.clear import cache_directory
from clear_dist.data.conversations import choice, evaluation, training
from clear_dist.data.people import choose, draw_holdout, leakage, refuse_overlap
from clear_dist.data.picture_check import check_pictures
from clear_dist.data.rows import BadData, ChoiceRow, OnBadData, Row, TextRow, VisualRow
from clear_dist.data.sources import Source, open_source, people_of
from clear_dist.types import SETS, Example, Modality, Picture, SetName, UserError


@dataclass(frozen=True)
class Dataset:
    """A dataset with a choice of people to forget.

    name: the source as given. digest: SHA-256 over every example below, pictures by their own digests.
    train: "forget", "retain" -> training examples; unseen pictures left out.
    sets: set -> evaluation examples, with paraphrases, wrong answers and options.
    people: "forget", "retain", "holdout" -> names.
    leaks: what the retain set gives away of the forget set, a line each.
    holdout: examples of the people held out of both sets.
    skipped: bad rows that were dropped (``on_bad_data="skip"``). notes: what else the user should know.
    """

    name: str
    digest: str
    train: dict[str, list[Example]]
    sets: dict[SetName, list[Example]]
    people: dict[str, list[str]]
    leaks: list[str]
    holdout: list[Example] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def load_dataset(
    source: str,
    *,
    forget: str | None = "forget10",
    forget_names: str | None = None,
    forget_file: Path | None = None,
    modality: Modality = "both",
    eval_modality: Modality | None = None,
    unseen: int | Literal["auto"] = "auto",
    holdout: int = 0,
    tofu: str | None = None,
    seed: int = 0,
    on_bad_data: OnBadData = "fail",
    on_progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Read a dataset, split it into forget and retain, and turn it into conversations.

    Args:
        source: ``clear-mini`` (made on first use, then cached); a directory in CLEAR's layout; a TOFU directory or
            JSON-lines file; the name of either on the Hub.
        forget: a published split, ``forgetXX``; None: nobody is forgotten, everyone is retained. forget_names
            ("A;B") or forget_file (a name or row id a line) choose people instead; retain is everyone else.
        modality: what is trained on; eval_modality: what is evaluated (None: the same).
        unseen: pictures of every person, the last ones, kept out of training; "auto": those that
            ``attributes.json`` marks, or none.
        holdout: retain people, drawn by ``seed``, taken out of both sets.
        tofu: directory or Hub name of TOFU's perturbed answers for CLEAR's text. Default: ``tofu/`` in the
            directory, or ``locuslab/TOFU`` for a dataset of the Hub; "none" for none.
        on_bad_data: "fail" refuses the dataset at the first bad row, "skip" drops bad rows and lists them.
        on_progress: called with (pictures decoded, pictures to decode); those known to be good are not looked at again.

    Raises UserError: a source that is none; a missing config or column; an empty text; a picture that cannot be
    decoded; a person in forget and retain; a name nobody bears; no example left. No pixels are kept.
    """
    if forget_names is not None and forget_file is not None:
        raise UserError("--forget-names and --forget-file exclude each other: give one.")
    bad = BadData(on_bad_data)
    notes: list[str] = []
    files = open_source(source, tofu, bad, notes)
    shown = eval_modality or modality
    wide: Modality = modality if modality == shown else "both"

    if forget_names is None and forget_file is None and forget is None:
        forget_rows, retain_rows = [], files.rows("full", wide, published=None)
    elif forget_names is None and forget_file is None:
        assert forget is not None
        _check_split(forget, files)
        forget_rows = files.rows(forget, wide, published=forget)
        retain_rows = files.rows(_retain_name(forget), wide, published=forget)
        refuse_overlap(forget_rows, retain_rows)
    else:
        everything = files.rows("full", wide, published=None)
        chosen = set(choose(everything, forget_names, forget_file))
        forget_rows = [row for row in everything if row.person in chosen]
        retain_rows = [row for row in everything if row.person not in chosen]

    people = {"forget": people_of(forget_rows), "retain": people_of(retain_rows), "holdout": list[str]()}
    people["holdout"] = draw_holdout(people["retain"], holdout, seed)
    out = set(people["holdout"])
    people["retain"] = [person for person in people["retain"] if person not in out]
    holdout_rows = [row for row in retain_rows if row.person in out]
    retain_rows = [row for row in retain_rows if row.person not in out]

    choices = files.choices(shown)
    shown_pictures = _pictures([*forget_rows, *retain_rows, *holdout_rows], choices)
    errors = check_pictures(shown_pictures, cache=cache_directory() / "pictures", on_progress=on_progress)
    for error in errors.values():
        bad.report(str(error))
    everyone = [name for group in people.values() for name in group]
    parts = {"forget": forget_rows, "retain": retain_rows, "holdout": holdout_rows}
    parts = _mark_unseen({name: _sound(rows, errors) for name, rows in parts.items()}, unseen)
    leaks = leakage(parts["forget"], parts["retain"])

    train = {name: _only(training(parts[name], name), modality) for name in ("forget", "retain")}
    held = _only(training(parts["holdout"], "retain"), modality)
    sets: dict[SetName, list[Example]] = {name: [] for name in SETS}
    for name in ("forget", "retain"):
        sets[name] = _only(evaluation(parts[name], name, everyone, seed), shown)
        if not train[name] and (name == "retain" or forget is not None):
            raise UserError(f"{source}: no {name} example is left for --modality {modality}.")
        for kind, what in (("qa", "questions"), ("caption", "captions")):
            asked = [e for e in sets[name] if e.kind == kind]
            if asked and not any(e.perturbed for e in asked):
                notes.append(f"{name}: no wrong answers are known for its {what}; no truth ratio for them.")
    # People nobody learned: what a membership score of the forget set is compared with.
    sets["holdout"] = _only(evaluation(parts["holdout"], "holdout", everyone, seed), shown)
    for row in choices:
        if row.picture is None or row.picture.digest not in errors:
            sets[row.set].append(choice(row))
    for name, examples in {**train, **sets}.items():
        assert len({e.id for e in examples}) == len(examples), f"example ids of {name} repeat"
    return Dataset(source, _digest(train, sets, held), train, sets, people, leaks, held, bad.skipped, notes)


def _check_split(forget: str, files: Source) -> None:
    known = files.splits()
    if not re.fullmatch(r"forget\d\d", forget):
        raise UserError(f"--forget {forget}: expected one of {', '.join(known) or 'forget01, forget05, forget10'}.")
    if not known and files.modality() != "text":
        raise UserError(
            f"--forget {forget}: the dataset publishes no forget split. Name the people to forget with --forget-names "
            "or --forget-file: retain is everyone else."
        )


def _retain_name(forget: str) -> str:
    return f"retain{100 - int(forget[-2:])}"


def _pictures(rows: Sequence[Row], choices: Sequence[ChoiceRow]) -> list[Picture]:
    pictures = [row.picture for row in rows if isinstance(row, VisualRow)]
    return pictures + [row.picture for row in choices if row.picture is not None]


def _sound(rows: Sequence[Row], errors: dict[str, UserError]) -> list[Row]:
    return [row for row in rows if isinstance(row, TextRow) or row.picture.digest not in errors]


def _mark_unseen(parts: dict[str, list[Row]], unseen: int | Literal["auto"]) -> dict[str, list[Row]]:
    """Rows with ``seen`` set: by ``attributes.json``, or the last ``unseen`` pictures of every person."""
    pictures: defaultdict[str, list[VisualRow]] = defaultdict(list)
    for row in (row for rows in parts.values() for row in rows):
        if isinstance(row, VisualRow):
            pictures[row.person].append(row)
    if unseen == "auto":
        held = [row for mine in pictures.values() for row in mine if row.info and row.info.unseen]
    else:
        if unseen < 0:
            raise UserError(f"unseen: {unseen} pictures. Expected 0 or more, or auto.")
        short = next((person for person, mine in pictures.items() if len(mine) <= unseen), None)
        if short is not None:
            raise UserError(
                f"unseen: {unseen} pictures of every person are to be held out, but {short} has "
                f"{len(pictures[short])}. Hold out fewer, so that at least one is left to train on."
            )
        held = [row for mine in pictures.values() for row in mine[len(mine) - unseen :]]
    # A picture may stand in several rows, even of several people: unseen is unseen in all of them.
    digests = {row.picture.digest for row in held}

    def marked(row: Row) -> Row:
        if isinstance(row, VisualRow) and row.picture.digest in digests:
            return replace(row, seen=False)
        return row

    return {name: [marked(row) for row in rows] for name, rows in parts.items()}


def _only(examples: Sequence[Example], modality: Modality) -> list[Example]:
    return [e for e in examples if modality in ("both", e.modality)]


def _digest(train: dict[str, list[Example]], sets: dict[SetName, list[Example]], held: list[Example]) -> str:
    digest = hashlib.sha256()
    groups = [*train.items(), *((f"eval:{name}", examples) for name, examples in sets.items()), ("holdout", held)]
    for name, examples in groups:
        for e in examples:
            picture = e.picture.digest if e.picture else None
            row = [name, e.id, e.kind, e.question, e.answer, picture, e.person, e.seen]
            more = [e.paraphrase, e.perturbed, e.options, e.fact, dict(e.attributes or {})]
            digest.update(json.dumps(row + more, sort_keys=True).encode())
    return digest.hexdigest()
