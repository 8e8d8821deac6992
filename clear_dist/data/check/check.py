"""All checks of a dataset directory, one after the other."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

from clear_dist.data.clear import ClearFiles
from clear_dist.types import UserError

from .companions import check_choices, check_companions
from .findings import Report
from .layout import Tables, read_tables
from .pictures import check_all_pictures
from .splits import check_splits, check_texts

NEAR = 2.0


def check_directory(
    directory: Path,
    *,
    near: float = NEAR,
    cache: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Everything that ``docs/data.md`` promises of a directory in CLEAR's layout, checked row by row.

    near: see ``pictures``. cache: where pictures that decoded well are remembered. on_progress: called with (pictures
    decoded, pictures). Raises UserError only where there is no directory, or none with configs.
    """
    if not directory.is_dir():
        raise UserError(f"{directory}: no such directory; name a dataset in CLEAR's layout")
    report = Report(str(directory))
    tables, files = read_tables(directory, report)
    if not report.counts or not any(report.counts.values()):
        raise UserError(
            f"{directory}: no config with rows there; a dataset has folders such as full/ with parquet files"
        )
    check_splits(tables, report)
    check_texts(tables, report)
    check_companions(tables, report)
    check_choices(tables, report)
    check_all_pictures(tables, report, near=near, cache=cache, on_progress=on_progress)
    _attributes(tables, files, report)
    _balance(tables, report)
    return report


def _attributes(tables: Tables, files: ClearFiles, report: Report) -> None:
    """``attributes.json`` speaks of pictures that are there, and leaves something of everybody to train on."""
    try:
        infos, facts = files.pictures_info, files.facts
    except UserError as error:
        report.add("attributes-broken", "attributes.json", str(error))
        return
    if not infos and not facts:
        return
    digests = {row.picture.digest for rows in tables.visual.values() for row in rows}
    digests |= {row.picture.digest for row in tables.choices if row.picture is not None}
    for digest in infos:
        if digest not in digests:
            report.add("attributes-foreign", "attributes.json", f"pictures.{digest[:12]}: no row has this picture")
    unseen: Counter[str] = Counter()
    mine: Counter[str] = Counter()
    for row in tables.visual.get("full", ()):
        mine[row.person] += 1
        unseen[row.person] += bool(row.info and row.info.unseen)
    for person, count in mine.items():
        if unseen[person] == count:
            report.add("nothing-to-train", f"full: {person}", "all pictures are marked unseen")
        elif any(unseen.values()) and not unseen[person]:
            report.add("nothing-unseen", f"full: {person}", "no picture is marked unseen; others have some", warn=True)


def _balance(tables: Tables, report: Report) -> None:
    """Pictures and questions of each person; who has far fewer than most."""
    pictures = Counter(row.person for row in tables.visual.get("full", ()))
    questions = Counter(row.person for row in tables.text.get("full+tofu", ()))
    report.people = {person: (pictures[person], questions[person]) for person in dict.fromkeys([*pictures, *questions])}
    for what, counts in (("pictures", pictures), ("questions", questions)):
        if not counts:
            continue
        usual = statistics.median(counts.values())
        few: defaultdict[int, list[str]] = defaultdict(list)
        for person in report.people:
            if counts[person] < usual / 2:
                few[counts[person]].append(person)
        for count, people in sorted(few.items()):
            some = ", ".join(people[:5]) + (" ..." if len(people) > 5 else "")
            report.add("unbalanced", f"full: {what}", f"{count} of {some}; the median is {usual:g}", warn=True)
