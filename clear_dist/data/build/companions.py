"""What belongs to a text besides its questions: paraphrased and wrong answers, and questions about the real world.

They come from a directory in TOFU's schema (``forget10_perturbed.json`` and so on), row by row of the text they are
companions of; a row that has none is left without, and counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from clear_dist.data.build.person import Row
from clear_dist.data.tofu import PERTURBED, TofuFiles, perturbed_answers
from clear_dist.types import UserError

REAL: Final = ("real_authors", "real_authors_perturbed", "world_facts", "world_facts_perturbed")
Line = dict[str, Any]


@dataclass(frozen=True)
class Companions:
    """of: (question, answer) -> the row of a ``*_perturbed`` file; retained: those that a text's retained people are
    asked; real: file name -> rows, taken over as they are."""

    of: Mapping[tuple[str, str], Line]
    retained: frozenset[tuple[str, str]]
    real: Mapping[str, Sequence[Line]]


NONE: Final = Companions({}, frozenset(), {})


def companions_beside(text: Path) -> Path | None:
    """The text's own directory, where it has companions."""
    folder = text.resolve().parent
    return folder if any((folder / f"{name}.json").is_file() for name in PERTURBED) else None


def read_companions(directory: Path) -> Companions:
    """Raises UserError naming file and row; and where there is nothing of the kind."""
    if not directory.is_dir():
        raise UserError(f"--companions {directory}: no such directory; expected TOFU's files, or none.")
    files = TofuFiles(directory)
    there = [name for name in PERTURBED if files.has(name)]
    if not there:
        raise UserError(
            f"--companions {directory}: no {', '.join(f'{name}.json' for name in PERTURBED)} there; expected at least "
            "one of them, or --companions none."
        )
    perturbed_answers(files, there)  # for its checks
    of = {key_of(record): dict(record) for name in there for record in files.records(name)}
    kept = (
        frozenset(key_of(r) for r in files.records("retain_perturbed"))
        if files.has("retain_perturbed")
        else frozenset()
    )
    return Companions(of, kept, {name: files.records(name) for name in REAL if files.has(name)})


def key_of(record: Mapping[str, Any] | Row) -> tuple[str, str]:
    """Question and answer, spaces apart."""
    both = (record.question, record.answer) if isinstance(record, Row) else (record["question"], record["answer"])
    question, answer = (" ".join(str(one).split()) for one in both)
    return question, answer


def tofu_files(
    splits: Mapping[str, Sequence[Row]],
    retained: Sequence[Row],
    companions: Companions,
    names: Mapping[int, str] | None,
) -> dict[str, list[Line]]:
    """File name without suffix -> rows, in TOFU's schema.

    Args:
        splits: ``full``, ``forgetXX``, ``retainXX`` -> the text's rows.
        retained: rows of people whom no split forgets.
        names: line -> person, where rows have to say it (people with unequal numbers of rows); None: they need not.
    """

    def plain(row: Row) -> Line:
        line: Line = {"question": row.question, "answer": row.answer}
        return line if names is None else {**line, "name": names[row.line]}

    out = {split: [plain(row) for row in rows] for split, rows in splits.items()}
    for split, rows in splits.items():
        if split.startswith("forget"):
            found = [{**companions.of[key_of(row)], **plain(row)} for row in rows if key_of(row) in companions.of]
            if found:
                out[f"{split}_perturbed"] = found
    kept = [{**companions.of[key_of(row)], **plain(row)} for row in retained if key_of(row) in companions.retained]
    if kept:
        out["retain_perturbed"] = kept
    return out | {name: [dict(row) for row in rows] for name, rows in companions.real.items()}
