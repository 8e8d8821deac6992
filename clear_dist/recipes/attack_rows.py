"""From a farm's results to what an attack looks at: which pictures count, which models, and the curves of its figures.

Legend: E pictures, I identities, M shadow models, A pictures under attack (of identities to be forgotten). A *row* is a
line of the tables: original, gold, or a method.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from clear_dist.attacks.bootstrap import lira_accuracy
from clear_dist.attacks.logits import Logits, cut
from clear_dist.attacks.u_lira import Variance
from clear_dist.metrics.enrolment import accuracy
from clear_dist.metrics.interval import Estimate, mean_interval
from clear_dist.types import UserError

if TYPE_CHECKING:
    from clear_dist.shadow.results import FarmResults

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Group = Literal["forget", "holdout", "retain"]
GROUPS: tuple[Group, ...] = ("forget", "holdout", "retain")
BINS = 60
TRACE_DRAWS = 200  # at most: a figure of epochs has a hundred intervals


def check_results(results: FarmResults) -> None:
    """Raises UserError on a logit that is not finite, naming model and picture."""
    read = [(row, m, values) for row, models in results.logits.items() for m, values in models.items()]
    read += [(row, m, moment) for row, ts in results.traces.items() for m, t in ts.items() for moment in t.logits]
    for row, m, values in read:
        if values.shape != results.identity.shape:
            raise UserError(
                f"{row}/{m:03d}: {values.size} logits for {len(results.ids)} pictures; remove this task's result from "
                "the farm and run it again"
            )
        if not np.isfinite(values).all():
            at = int(np.flatnonzero(~np.isfinite(values))[0])
            raise UserError(
                f"{row}/{m:03d}: the logit of {results.ids[at]!r} is {values[at]}: the model diverged; make a farm "
                "with a lower learning rate"
            )


def of_group(results: FarmResults, *groups: str) -> Bools:
    """[I] whether an identity is in one of the groups."""
    return np.isin(np.array(results.group), groups)


def attacked(results: FarmResults, counted: Bools) -> Ints:
    """[A] the pictures under attack: those of identities to be forgotten that count."""
    return np.flatnonzero(of_group(results, "forget")[results.identity] & counted)


def candidates(results: FarmResults, row: str) -> list[int]:
    """Models of a row whose shadow model learned identities to be forgotten."""
    saw = results.trained[:, of_group(results, "forget")].sum(axis=1) > 0
    return [m for m in sorted(results.logits.get(row, {})) if saw[m]]


def blocks(results: FarmResults) -> Ints:
    """[M] what is drawn together: a pair of models where each is the complement of the next, otherwise one model.

    A pair has one model that saw and one that did not for every identity, so that draws and folds leave every picture
    as many of the ones as of the others.
    """
    trained = results.trained
    number = np.arange(len(trained))
    paired = len(trained) % 2 == 0 and bool(np.logical_xor(trained[0::2], trained[1::2]).all())
    return number // 2 if paired else number


def logits_of(
    results: FarmResults,
    row: str,
    pictures: Ints,
    *,
    folds: int,
    seed: int,
    values: Mapping[int, Floats] | None = None,
) -> Logits:
    """What is attacked in a row: its models' logits where they had learned a picture's person, against those of shadow
    models, as trained, that had not.

    Args:
        pictures: [A].
        values: model -> [E] instead of the row's own (a moment of a trace).

    Raises UserError if there are too few models.
    """
    values = results.logits.get(row, {}) if values is None else values
    never = results.logits.get("original", {})
    learned = results.trained[:, results.identity[pictures]]  # [M, A]
    on_f = [m for m in sorted(values) if learned[m].any()]
    on_n = [m for m in sorted(never) if not learned[m].all()]
    block = blocks(results)

    def side(models: Sequence[int], source: Mapping[int, Floats], wanted: bool) -> Floats:
        rows = [np.where(learned[m] == wanted, source[m][pictures], np.nan) for m in models]
        return np.stack(rows) if rows else np.empty((0, len(pictures)))

    return cut(side(on_f, values, True), side(on_n, never, False), block[on_f], block[on_n], folds=folds, seed=seed)


def group_mask(results: FarmResults, group: Group, model: int) -> Bools:
    """[E] pictures of forget identities the shadow model had learned, of holdout ones it had not, or of those not to be
    forgotten that it had (retain): before any unlearning, so that all rows of a model are asked about the same."""
    learned = results.trained[model][results.identity]
    if group == "retain":
        return learned & ~of_group(results, "forget")[results.identity]
    return (learned == (group == "forget")) & of_group(results, group)[results.identity]


def identification(
    results: FarmResults, predicted: Mapping[int, Ints], models: Sequence[int], group: Group, *, seed: int, draws: int
) -> Estimate | None:
    """Mean over models of the share of a group's pictures taken for their own person, its interval over models.

    Enrolment pictures never count: they are part of the vector they would be compared with. None where no model has a
    picture of the group.
    """
    found = [
        share
        for m in models
        if (share := accuracy(predicted[m], results.identity, group_mask(results, group, m) & ~results.enrolled))
        is not None
    ]
    return mean_interval(found, seed=seed, draws=draws) if found else None


def distributions(results: FarmResults, rows: Sequence[str], counted: Bools) -> dict[str, dict[str, Any]]:
    """Row -> {"bins": [BINS + 1] edges, the same for all, "forget", "holdout", "never": [BINS] densities}: logits of
    pictures that were forgotten, of people neither learned nor to be forgotten, and of pictures to be forgotten under
    shadow models that never saw them. Absent is what has no logits."""
    pictures = attacked(results, counted)
    never = [
        values[pictures][~results.trained[m, results.identity[pictures]]]
        for m, values in results.logits["original"].items()
    ]
    sides: dict[str, dict[str, Floats]] = {}
    for row in rows:
        models = candidates(results, row)
        found = {"never": never} | {
            group: [results.logits[row][m][group_mask(results, group, m) & counted] for m in models]
            for group in ("forget", "holdout")
        }
        joined = {name: np.concatenate(parts) for name, parts in found.items() if parts}
        sides[row] = {name: values for name, values in joined.items() if values.size}
    whole = np.concatenate([values for found in sides.values() for values in found.values()])
    low, high = float(whole.min()), float(whole.max())
    edges = np.linspace(low, high, BINS + 1) if high - low > 1e-6 else np.linspace(low - 0.5, high + 0.5, BINS + 1)
    return {
        row: {"bins": edges.tolist()}
        | {name: np.histogram(values, edges, density=True)[0].tolist() for name, values in found.items()}
        for row, found in sides.items()
    }


def epochs(
    results: FarmResults, row: str, pictures: Ints, *, variance: Variance, folds: int, draws: int, seed: int
) -> list[dict[str, Any]]:
    """[{"epoch", "forget_acc", "holdout_acc", "retain_acc", "u_lira"}] of a watched method, at every moment that all
    its watched models have; u_lira is None where they are too few. Intervals from at most TRACE_DRAWS draws."""
    traces = {m: t for m, t in results.traces.get(row, {}).items() if m in set(candidates(results, row))}
    if not traces:
        return []
    moments = sorted(set.intersection(*(set(t.progress.tolist()) for t in traces.values())))
    count = min(draws, TRACE_DRAWS)
    out: list[dict[str, Any]] = []
    for moment in moments:
        at = {m: int(np.flatnonzero(t.progress == moment)[0]) for m, t in traces.items()}
        predicted = {m: t.predicted[at[m]] for m, t in traces.items()}
        found = {
            f"{group}_acc": identification(results, predicted, sorted(traces), group, seed=seed, draws=count)
            for group in GROUPS
        }
        try:
            values = {m: t.logits[at[m]] for m, t in traces.items()}
            logits = logits_of(results, row, pictures, folds=folds, seed=seed, values=values)
            found["u_lira"] = lira_accuracy(logits, variance=variance, count=count, seed=seed)
        except UserError:  # too few watched models for an attack; accuracies need only one
            found["u_lira"] = None
        out.append({"epoch": moment} | {n: None if e is None else e.as_dict() for n, e in found.items()})
    return out
