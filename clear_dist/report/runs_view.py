"""What a report of several runs says, gathered once for the page and the Markdown file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from clear_dist.report.blocks import Block, evidence, limits, truth_ratio_block
from clear_dist.report.board import CAREFUL, OTHER_DATA, board_table, vision_table
from clear_dist.report.boards import BOARDS, Board, boards_of, front_image
from clear_dist.report.cells import Row, Table, anything, measured, notes_of, text
from clear_dist.report.draw import Image
from clear_dist.report.loss_panels import loss_image
from clear_dist.report.paper import table_1, table_2, table_3, table_4
from clear_dist.report.runs import Entry, Run, slug
from clear_dist.report.samples import Group, Voice, voice
from clear_dist.report.samples import groups_of as sample_groups_of
from clear_dist.report.subject import Subject
from clear_dist.report.verdict import judge
from clear_dist.report.view import Facts, facts_of
from clear_dist.report.words import METRICS, SETS


@dataclass(frozen=True)
class Card:
    """A run as the page lists it: what is judged of it, where its own page is, how it was made."""

    anchor: str
    name: str
    headline: str
    details: tuple[str, ...]
    links: tuple[tuple[str, str], ...]  # (name, relative address of its page)
    gaps: tuple[str, ...]
    facts: tuple[Facts, ...]


@dataclass(frozen=True)
class RunsView:
    headline: str
    lead: tuple[str, ...]
    gaps: tuple[str, ...]
    limits: tuple[str, ...]
    boards: tuple[Block, ...]
    samples: tuple[Group, ...]
    blocks: tuple[Block, ...]
    cards: tuple[Card, ...]

    @property
    def all_blocks(self) -> tuple[Block, ...]:
        return (*self.boards, *self.blocks)

    @property
    def tables(self) -> tuple[Table, ...]:
        return tuple(table for block in self.all_blocks for table in block.tables)

    @property
    def images(self) -> tuple[Image, ...]:
        return tuple(image for block in self.all_blocks for image in block.images)


def _set_tables(subjects: Sequence[Subject]) -> list[Table]:
    """Each set: models by metrics, over both modalities together."""
    out = []
    for set_name, title in SETS.items():
        metrics = [m for m in METRICS if any(s.estimate("sets", set_name, "all", m) for s in subjects)]
        rows, every = [], []
        for s in subjects:
            values = [s.estimate("sets", set_name, "all", m) for m in metrics]
            every += values
            rows.append(Row((text(s.name, link=s.anchor, dot=s.dot), *map(measured, values))))
        if anything(rows):
            head = ("Model", *(METRICS[m] for m in metrics))
            out.append(Table(f"set-{set_name}", title, head, tuple(rows), notes=notes_of(every)))
    return out


def _address(target: Path, folder: Path) -> str | None:
    """Relative address of a run's own page; None where it has none."""
    page = target / "index.html"
    if not page.is_file():
        return None
    return quote(Path(os.path.relpath(page.resolve(), folder.resolve())).as_posix())


def _card(entry: Entry, out: Path) -> Card:
    verdict = judge(entry.summary(), "unlearned")
    links = [(run.name, address) for run in entry.runs if (address := _address(run.folder, out)) is not None]
    gaps = [
        f"{run.name}: {gap}" if len(entry.runs) > 1 else gap for run in entry.runs if run.data for gap in run.data.gaps
    ]
    if entry.other:
        gaps.insert(0, f"Not ranked: {OTHER_DATA}.")
    data = entry.first.data
    facts = () if data is None else facts_of(data)
    return Card(entry.anchor, entry.name, verdict.headline, verdict.details, tuple(links), tuple(gaps), facts)


def _voices(board: Board) -> tuple[list[Voice], Any]:
    holder = board.entries[0].first.data
    assert holder is not None
    voices = [
        voice(name, 0 if name == "original" else 2, name == "gold", holder.records, name)
        for name in ("original", "gold") if holder.block(name) is not None
    ]  # fmt: skip
    for entry in board.entries:
        data = entry.first.data
        if data is not None and data.candidate is not None:
            voices.insert(-1 if voices and voices[-1].name == "gold" else len(voices),
                          voice(entry.name, 1, True, data.records, data.candidate))  # fmt: skip
    return voices, holder.picture


def _headline(boards: Sequence[Board], vision: int) -> tuple[str, tuple[str, ...]]:
    entries = [e for b in boards for e in (*b.entries, *b.others)]
    if not entries:
        return f"{vision} farm{'s' if vision != 1 else ''} of vision models", ()
    verdicts = [judge(e.summary(), "unlearned") for e in entries]
    good = [e.name for e, v in zip(entries, verdicts, strict=True) if v.forgotten == v.kept == "met"]
    lost = sum(v.kept in ("missed", "partly") for v in verdicts)
    held = sum(v.forgotten in ("missed", "partly") for v in verdicts)
    unknown = sum("unknown" in (v.forgotten, v.kept) for v in verdicts)
    lead = [f"Forgotten, and the rest kept: {', '.join(good)}." if good else "No run both forgot and kept the rest."]
    lead.append(f"{held} did not forget, or only partly; {lost} lost some of the rest.")
    if unknown:
        lead.append(f"{unknown} could not be judged, for want of gold or the original.")
    return f"{len(good)} of {len(entries)} forgot and kept the rest.", tuple(lead)


def runs_view(runs: Sequence[Run], out: Path) -> RunsView:
    """Args: out: the page's directory, from which runs' own pages are linked."""
    boards = boards_of(runs)
    farms = [run for run in runs if run.vision]
    headline, lead = _headline(boards, len(farms))
    board_blocks = []
    for board in boards:
        drawn = front_image(board)
        board_blocks.append(
            Block(
                f"board-{board.modality}",
                f"Leaderboard: {BOARDS[board.modality].lower()}",
                f"What each run forgot and what that cost. {CAREFUL}",
                () if drawn is None else (drawn,),
                (board_table(board.found, board.anchors, BOARDS[board.modality], f"leaderboard-{board.modality}"),),
                tables_first=True,
            )
        )
    if farms:
        tables = tuple(vision_table(run.vision, f"Vision: {run.name}", f"vision-{slug(run.name)}") for run in farms)
        board_blocks.append(
            Block("board-vision", "Leaderboard: vision", "Membership attacks on a farm.", tables=tables)
        )

    main = max(boards, key=lambda b: (len(b.entries), b.modality == "both"), default=None)
    anchors = {} if main is None else {s.role: s for s in main.anchors}
    everybody = [e for b in boards for e in (*b.entries, *b.others)]
    by_modality: Mapping[str, list[Entry]] = {m: [e for e in everybody if e.first.modality == m] for m in BOARDS}
    of = {b.modality: {str(s.role): s for s in b.anchors} for b in boards}
    paper = Block(
        "clear",
        "Beside the CLEAR paper",
        "The paper's four tables as printed, and our runs in the same rows.",
        tables=(
            table_1(by_modality["text"], of.get("text", {})),
            table_2([(run.name, f"run-{slug(run.name)}", run.vision) for run in farms]),
            table_3(everybody, anchors),
            table_4(by_modality["both"], of.get("both", {})),
        ),
    )
    blocks: list[Block] = []
    samples: list[Group] = []
    found: list[Block] = []
    subjects: list[Subject] = []
    if main is not None:
        subjects = [*(s for s in main.anchors if s.role == "original"), *(e.subject for e in main.entries),
                    *(s for s in main.anchors if s.role == "gold")]  # fmt: skip
        found = evidence(subjects, several=True)
        blocks += [*found, truth_ratio_block(subjects, ()),
                   Block("numbers", "All numbers", "Text and pictures together, with 95% intervals below; by modality "
                         "they are on each run's own page.", tables=tuple(_set_tables(subjects)))]  # fmt: skip
        voices, picture = _voices(main)
        samples = sample_groups_of(voices, picture, most=2)
        losses = loss_image([(e.name, e.first.data.steps) for e in main.entries if e.first.data is not None])
        blocks.append(Block("training", "Training", "The loss of each run.", () if losses is None else (losses,)))
    cards = [_card(entry, out) for entry in everybody]
    cards += [
        Card(f"run-{slug(run.name)}", run.name, "A farm of vision models.", (),
             () if (address := _address(run.folder, out)) is None else ((run.name, address),), (), ())
        for run in farms if run.data is None
    ]  # fmt: skip
    return RunsView(
        headline=headline,
        lead=lead,
        gaps=tuple(_gaps(boards, runs)),
        limits=tuple(limits(subjects, found)) if subjects else (),
        boards=tuple(board_blocks),
        samples=tuple(samples),
        blocks=(paper, *(block for block in blocks if block)),
        cards=tuple(cards),
    )


def _gaps(boards: Sequence[Board], runs: Sequence[Run]) -> list[str]:
    out = []
    for board in boards:
        if board.others:
            names = ", ".join(e.name for e in board.others)
            out.append(
                f"{OTHER_DATA.capitalize()}, or not known to be of the same: {names}. They are shown and not ranked."
            )
        for name in ("original", "gold"):
            lacking = [e.name for e in board.entries if any(name not in a for a in e.anchors)]
            if lacking:
                what = "what was lost" if name == "original" else "whether it was forgotten"
                out.append(f"No {name} model beside {', '.join(lacking)}: {what} cannot be judged there.")
    for run in runs:
        if run.data is not None and run.data.scanned is not None and run.data.scanned.cut is not None:
            out.append(f"{run.name}: the last line of records.jsonl is half-written and left out.")
    return out
