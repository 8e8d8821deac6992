"""Can it be told from a model's scores that the forgotten people were in its training data? Computed from records.

Members are the forget set's questions and captions the original was trained on (pictures seen in training), non-members
those of the holdout set: people no model ever saw. Names, descriptions and attributes are left out: their answers are a
few words, and shared between people.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from clear_dist.metrics.membership import (
    ATTACKS,
    auc_interval,
    loss_score,
    min_k,
    privleak,
    reference_score,
    zlib_score,
)
from clear_dist.metrics.record import Record
from clear_dist.types import UserError

KINDS = ("qa", "caption")
UNEQUAL = 0.1  # difference of the shares of pictures from which it is said

Score = Callable[[Record], float | None]


def sides(records: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    """(members, non-members): rows of the KINDS that both sets have; a kind that only one has would tell them apart.

    Pictures marked as unseen are left out of both, so that the mix is the same (where all of the holdout set's are so
    marked, they count).
    """
    members: list[Record] = []
    others: list[Record] = []
    for kind in KINDS:
        inside = [r for r in records if r.set == "forget" and r.kind == kind and r.seen]
        outside = [r for r in records if r.set == "holdout" and r.kind == kind]
        if inside and outside:
            members += inside
            others += [r for r in outside if r.seen] or outside
    return members, others


def _scores(gold: Mapping[tuple[str, str], Record]) -> dict[str, Score]:
    """Attack -> the score of a record; None where it cannot be computed. gold: its records by set and id."""

    def reference(record: Record) -> float | None:
        twin = gold.get((record.set, record.id))
        if record.logp.answer is None or twin is None or twin.logp.answer is None:
            return None
        return reference_score(record.logp.answer, twin.logp.answer)

    return {
        "loss": lambda r: None if r.logp.answer is None else loss_score(r.logp.answer),
        "zlib": lambda r: None if r.logp.answer is None else zlib_score(r.logp.answer, r.answer),
        "min_k": lambda r: None if r.logp.answer is None else min_k(r.logp.answer),
        "min_k_plus": lambda r: r.score("min_k_plus"),
        "reference": reference,
    }


def _values(rows: Sequence[Record], score: Score) -> list[float] | None:
    """A score of every row; None where a row has none (half a set would be another set) or there is no row."""
    values = []
    for record in rows:
        try:
            value = score(record)
        except UserError as error:
            raise UserError(f"model {record.model!r}, set {record.set}, example {record.id!r}: {error}") from error
        if value is None:
            return None
        values.append(value)
    return values or None


def membership(records: Sequence[Record], gold: Sequence[Record] | None) -> dict[str, dict[str, object]] | None:
    """{attack: {"auc": {"value", "ci", "n"}, "privleak": percent | None}} of one model; None without holdout rows.

    An attack whose score is missing on a row is left out. ``privleak`` compares with gold's AUC: None for gold itself
    and without gold; None also for ``reference``, which is calibrated by gold already and absent for gold.

    Args:
        gold: gold's records of the same rows; None where there are none, or where ``records`` are gold's own.
    """
    members, others = sides(records)
    if not members or not others:
        return None
    twins = sides(gold) if gold is not None else None
    scores = _scores({(r.set, r.id): r for r in gold or ()})
    shares = [sum(r.modality == "visual" for r in rows) / len(rows) for rows in (members, others)]
    uneven = abs(shares[0] - shares[1]) > UNEQUAL
    note = f"pictures are {shares[0]:.0%} of the members and {shares[1]:.0%} of the others" if uneven else None
    out: dict[str, dict[str, object]] = {}
    for attack in ATTACKS:
        inside, outside = _values(members, scores[attack]), _values(others, scores[attack])
        if inside is None or outside is None:
            continue
        estimate = auc_interval(inside, outside)
        leak = None
        if twins is not None and attack != "reference":
            theirs = [_values(rows, scores[attack]) for rows in twins]
            if theirs[0] is not None and theirs[1] is not None:
                leak = privleak(estimate.value, auc_interval(theirs[0], theirs[1]).value)
        out[attack] = {"auc": estimate.as_dict() | ({} if note is None else {"note": note}), "privleak": leak}
    return out or None
