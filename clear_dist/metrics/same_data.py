"""Figures side by side must be of the same rows: models of one file were asked the same questions, or are not compared.

An average over 32 people beside one over 30 others looks like any other pair of numbers, so the difference is refused
before anything is averaged. Variants and the shuffled-pictures control may hold fewer rows, and other prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from clear_dist.metrics.record import Record, is_control, variant
from clear_dist.types import SETS, UserError

_ADVICE = "figures of different data must not stand side by side: evaluate both on the same data"


def refuse_mixed(by_model: Mapping[str, Sequence[Record]]) -> None:
    """Raises UserError, naming model, set and an example, where records of one model name an example twice, and where
    two models were evaluated on different ids of a set that both have, or an id has another question, answer or
    picture in each.

    Args:
        by_model: model's name -> all its records. A set that a model has no record of is not compared.
    """
    first: dict[str, tuple[str, dict[str, Record]]] = {}  # set -> the first model that has it, its rows by id
    for model, records in by_model.items():
        for name in SETS:
            rows: dict[str, Record] = {}
            for record in records:
                if record.set == name and rows.setdefault(record.id, record) is not record:
                    raise UserError(
                        f"model {model!r}, set {name}: example {record.id!r} is there twice, it would count twice"
                    )
            if not rows or is_control(model) or variant(model):
                continue
            other, others = first.setdefault(name, (model, rows))
            if only := sorted(rows.keys() ^ others.keys()):
                has = model if only[0] in rows else other
                raise UserError(
                    f"models {other!r} and {model!r} were evaluated on different {name} rows (for example {only[0]!r} "
                    f"is among those of {has!r} only); {_ADVICE}"
                )
            for key, record in rows.items():
                if field := _difference(record, others[key]):
                    raise UserError(
                        f"models {other!r} and {model!r}, set {name}: example {key!r} has another {field} in each; "
                        + _ADVICE
                    )


def _difference(a: Record, b: Record) -> str | None:
    """The first thing in which two records of one example differ; None where they are of the same data."""
    if a.prompt != b.prompt:
        return "question"
    if a.answer != b.answer:
        return "answer"
    return "picture" if a.picture != b.picture else None
