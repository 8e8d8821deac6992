"""The dataset itself: the configs of CLEAR, TOFU's files, ``attributes.json``, the card and checksums."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from clear_dist.data.build.captions import Caption, drawn_of
from clear_dist.data.build.companions import Companions, tofu_files
from clear_dist.data.build.person import Row, Subject
from clear_dist.data.build.splits import people_of
from clear_dist.data.mini import text
from clear_dist.data.mini.tables import SPLITS, columns, evenly
from clear_dist.data.mini.write import SHARD, no_progress_bars, write_parquet

RETAIN_PERTURBED: Final = 395  # rows that CLEAR has, spread over the people that no split forgets
CHECKSUMS: Final = "checksums.sha256"
Cells = dict[str, Any]


@dataclass(frozen=True)
class Shown:
    """A picture that is kept. shows: as ``photos.Sample``; unseen: never trained on."""

    line: int
    path: Path
    digest: str
    caption: Caption
    shows: Mapping[str, str]
    unseen: bool


@dataclass(frozen=True)
class Content:
    """subjects: in order, each with a name. pictures: name -> those kept, in the order of the text. choices: config ->
    rows of real people and the real world, ready to write; theirs: attributes.json's entries for those pictures."""

    subjects: Sequence[Subject]
    pictures: Mapping[str, Sequence[Shown]]
    companions: Companions
    choices: Mapping[str, Sequence[Cells]]
    theirs: Mapping[str, Cells]
    made_from: Mapping[str, Any]

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(str(subject.name.value) for subject in self.subjects)

    @cached_property
    def rows_of(self) -> dict[str, Sequence[Row]]:
        return {name: subject.rows for name, subject in zip(self.names, self.subjects, strict=True)}

    @cached_property
    def named(self) -> bool:
        """Whether text rows have to say whom they are about: their place does not tell it."""
        return len({len(rows) for rows in self.rows_of.values()}) > 1

    def rows(self, config: str) -> list[Cells]:
        """The rows of one config of ``columns()``."""
        if config in ("real_faces", "real_world"):
            return list(self.choices.get(config, ()))
        if config.endswith("_perturbed"):
            return self._perturbed(config.removesuffix("_perturbed"))
        people = people_of(config.removesuffix("+tofu"), self.names)
        rows = [self._plain(name, shown) for name in people for shown in self.pictures[name]]
        if not config.endswith("+tofu"):
            return rows
        nothing = {"image": None, "caption": None}
        texts = [
            {**nothing, "name": name, "question": row.question, "answer": row.answer}
            for name in people
            for row in self.rows_of[name]
        ]
        return [{**row, "question": None, "answer": None} for row in rows] + texts

    def columns(self, config: str) -> tuple[str, ...]:
        names = columns()[config]
        return (*names, "name") if self.named and config.endswith("+tofu") else names

    def _plain(self, name: str, shown: Shown) -> Cells:
        image = {"bytes": shown.path.read_bytes(), "path": shown.path.name}
        return {"image": image, "caption": shown.caption.caption, "name": name}

    def _perturbed(self, split: str) -> list[Cells]:
        photos = [(name, shown) for name in people_of(split, self.names) for shown in self.pictures[name]]
        if split == "retain":
            photos = evenly(photos, RETAIN_PERTURBED)
        return [
            {
                **self._plain(name, shown),
                "paraphrased_caption": shown.caption.paraphrase,
                "perturbed_captions": list(shown.caption.perturbed),
                "perturbed_names": list(shown.caption.perturbed_names),
            }
            for name, shown in photos
        ]

    def tofu(self) -> dict[str, list[Cells]]:
        """TOFU's files: name without suffix -> rows."""
        splits = {
            split: [row for name in people_of(split, self.names) for row in self.rows_of[name]]
            for split in ("full", *SPLITS, *SPLITS.values())
        }
        retained = [row for name in people_of("retain", self.names) for row in self.rows_of[name]]
        by_line = {row.line: name for name, rows in self.rows_of.items() for row in rows}
        return tofu_files(splits, retained, self.companions, by_line if self.named else None)

    def attributes(self) -> Cells:
        """What ``attributes.json`` holds: whom questions are about, what drawn pictures show, which are unseen."""
        pictures: Cells = {}
        for name, photos in self.pictures.items():
            for shown in photos:
                pictures[shown.digest] = {"person": name, "unseen": shown.unseen, **_described(shown.shows)}
        return {
            "v": 1,
            "dataset": "clear-build",
            **self.made_from,
            "pictures": pictures | dict(self.theirs),
            "facts": self._facts(),
        }

    def _facts(self) -> Cells:
        """Question -> person, and the words that a right answer must contain, where stage 1 found them in the answer;
        questions that two people are asked are left out: their place tells whom they are about."""
        facts: Cells = {}
        twice: set[str] = set()
        for name, subject in zip(self.names, self.subjects, strict=True):
            found = [subject.name, subject.genre, *subject.books]
            for row in subject.rows:
                told = {f.value for f in found if f.value and f.line == row.line and f.value in row.answer}
                told = {one for one in told if one not in row.question}
                if row.question in facts:
                    twice.add(row.question)
                facts[row.question] = {"person": name, "fact": told.pop() if len(told) == 1 else None}
        return {question: entry for question, entry in facts.items() if question not in twice}


def write_dataset(
    out: Path,
    content: Content,
    card: Callable[[Mapping[str, int]], str],
    extra: Mapping[str, bytes],
    on_progress: Callable[[int, int], None],
) -> dict[str, int]:
    """Write everything into the empty directory ``out``; the number of rows of every config.

    card: makes README.md of these numbers. extra: file name -> bytes, such as pictures of the card. on_progress: called
    with (configs done, all configs).
    """
    counts: dict[str, int] = {}
    with no_progress_bars():
        for number, config in enumerate(columns(), 1):
            rows = content.rows(config)
            counts[config] = len(rows)
            if rows:
                write_parquet(out / config / SHARD, content.columns(config), rows)
            on_progress(number, len(columns()))
    (out / "tofu").mkdir()
    for name, rows in content.tofu().items():
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (out / "tofu" / f"{name}.json").write_text(lines, encoding="utf-8")
    facts = json.dumps(content.attributes(), ensure_ascii=False, separators=(",", ":"))
    (out / "attributes.json").write_text(facts + "\n", encoding="utf-8")
    for name, data in extra.items():
        (out / name).write_bytes(data)
    (out / "README.md").write_text(card(counts), encoding="utf-8")
    (out / CHECKSUMS).write_text("".join(_checksums(out)), encoding="utf-8")
    return counts


def _checksums(folder: Path) -> Iterator[str]:
    """Lines for ``sha256sum --check``."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            yield f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.relative_to(folder)}\n"


def _described(shows: Mapping[str, str]) -> Cells:
    if not shows:
        return {}
    identity, look = drawn_of(shows)
    questions = [list(pair) for pair in text.questions(identity, look)]
    return {"attributes": dict(shows), "description": text.description(identity, look), "questions": questions}
