"""open-unlearning's evaluation log ``TOFU_EVAL.json`` (github.com/locuslab/open-unlearning, src/evals).

Metric -> {"agg_value": average, "value_by_index": {row: {...}|null}}. Of each set (forget, retain, ra = real authors,
wf = world facts) are read

    SET_Q_A_Prob, SET_Q_A_PARA_Prob   {"prob", "avg_loss"}: mean loss per token (nats), EOS included
    SET_Q_A_PERT_Prob                 the same, a list over wrong answers
    SET_Q_A_ROUGE                     {"rouge1_recall", "rougeL_recall", "input", "ground_truth", "generation"}
    exact_memorization, extraction_strength (forget), and retain_... of both: {"score"}

Everything else is left alone: truth ratios, normalised probabilities and utility are computed again from the losses,
and the membership attacks need tokens the log does not hold. Their averages are kept as ``stated``.

open-unlearning adds 1e-10 to denominators, which we do not; its extraction strength gives 1/length where not even the
last token is right, and that is taken as it stands.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from clear_dist.services.log_rows import Log, LogRow, loss, losses, same_keys, share
from clear_dist.types import SetName, UserError

EVAL_FILE = "TOFU_EVAL.json"
PREFIXES: dict[str, SetName] = {"forget": "forget", "retain": "retain", "ra": "real_faces", "wf": "real_world"}
# What is read of a row -> (metric after the set's prefix, key in the row, check).
_Check = Callable[[str, object], Any]
FIELDS: dict[str, tuple[str, str, _Check]] = {
    "paraphrase": ("Q_A_PARA_Prob", "avg_loss", loss),
    "wrong": ("Q_A_PERT_Prob", "avg_loss", losses),
    "rouge_1": ("Q_A_ROUGE", "rouge1_recall", share),
    "rouge_l": ("Q_A_ROUGE", "rougeL_recall", share),
    "exact_memorisation": ("exact_memorization", "score", share),
    "extraction_strength": ("extraction_strength", "score", share),
}
TEXTS = {"prompt": "input", "answer": "ground_truth", "generated": "generation"}
TOKENWISE = ("exact_memorization", "extraction_strength")  # of the forget set without a prefix


def is_open_unlearning(content: Mapping[str, Any]) -> bool:
    """Whether a JSON object has the form of such a log."""
    return any(isinstance(v, dict) and "value_by_index" in v for v in content.values())


def read_open_unlearning(source: Path, content: Mapping[str, Any]) -> Log:
    """The log's sets, as far as they are there; the forget set's probabilities must be.

    Raises UserError naming file, metric and row.
    """
    if "forget_Q_A_Prob" not in content:
        raise UserError(f"{source}: no forget_Q_A_Prob; without the forget set there is nothing to compare")
    sets: dict[SetName, list[LogRow]] = {
        s: _rows(source, p, content) for p, s in PREFIXES.items() if f"{p}_Q_A_Prob" in content
    }
    read = {_metric(p, f) for p in PREFIXES for f in ("Q_A_Prob", *(name for name, _, _ in FIELDS.values()))}
    absent = [name for prefix, name in PREFIXES.items() if f"{prefix}_Q_A_Prob" not in content]
    notes = [f"{source}: no {name}: such rows are not imported" for name in absent]
    if others := [name for name in content if name not in read]:
        notes.append(f"{source}: left alone: {', '.join(others)}")
    stated = {k: float(v["agg_value"]) for k, v in content.items() if _finite(v)}
    return Log(source, "open-unlearning", sets, stated=stated, notes=tuple(notes))


def _finite(metric: object) -> bool:
    value = metric.get("agg_value") if isinstance(metric, dict) else None
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _metric(prefix: str, name: str) -> str:
    return name if prefix == "forget" and name in TOKENWISE else f"{prefix}_{name}"


def _by_index(source: Path, metric: str, content: Mapping[str, Any]) -> dict[str, Any] | None:
    """Rows of one metric; None where the log does not have it."""
    if metric not in content:
        return None
    entry = content[metric]
    rows = entry.get("value_by_index") if isinstance(entry, dict) else None
    if not isinstance(rows, dict):
        raise UserError(f'{source}: metric {metric}: expected {{"agg_value", "value_by_index": {{row: ...}}}}')
    if not rows:
        raise UserError(f"{source}: metric {metric}: no rows")
    return rows


def _rows(source: Path, prefix: str, content: Mapping[str, Any]) -> list[LogRow]:
    own = _metric(prefix, "Q_A_Prob")
    losses_of = _by_index(source, own, content) or {}
    others: dict[str, dict[str, Any]] = {}
    for metric in dict.fromkeys(_metric(prefix, name) for name, _, _ in FIELDS.values()):
        rows = _by_index(source, metric, content)
        if rows is not None:
            same_keys(f"{source}: set {PREFIXES[prefix]}", metric, rows, losses_of)
            others[metric] = rows
    out = []
    for key in losses_of:
        values: dict[str, Any] = {}
        for field, (name, inside, check) in FIELDS.items():
            metric = _metric(prefix, name)
            value = _value(source, metric, others.get(metric), key, inside)
            if value is not None:
                values[field] = check(f"{source}: metric {metric}, row {key!r}, {inside}", value)
        texts = (others.get(_metric(prefix, "Q_A_ROUGE")) or {}).get(key) or {}
        for field, inside in TEXTS.items():
            if isinstance(text := texts.get(inside), str):
                values[field] = text.strip()
        value = _value(source, own, losses_of, key, "avg_loss")
        where = f"{source}: metric {own}, row {key!r}, avg_loss"
        out.append(LogRow(key, None if value is None else loss(where, value), **values))
    return out


def _value(source: Path, metric: str, rows: Mapping[str, Any] | None, key: str, inside: str) -> object:
    """One value of one row; None where the log leaves it out (null), or has no such metric."""
    row = None if rows is None else rows[key]
    if row is None:
        return None
    if not isinstance(row, dict) or inside not in row:
        raise UserError(f"{source}: metric {metric}, row {key!r}: no {inside}; expected an object that has it, or null")
    return row[inside]
