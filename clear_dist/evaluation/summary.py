"""``summary.json``: averages with intervals, per model, set and modality. Computed from records alone.

    {"v":1, "models":{MODEL:{"sets":{SET:{"all"|"text"|"visual":{METRIC:{"value","ci","n"[,"note"]}|null}}},
                             "forget_quality":{"p","ln_p","ks","n","detectable","power"}|null,
                             "model_utility":{..}|null, "real_metric":{..}|null,
                             "membership":{ATTACK:{"auc":{..},"privleak":x|null}}|null,
                             "aftermath":{MEASURE:{..}|null}|null,
                             "robustness":{ATTACK:{SET:{GROUP:{METRIC:{..}|null}}}}|null}},
     "seconds":{...}}

METRIC is one of METRICS. What was not measured is null, never 0. ``detectable`` is the smallest KS distance that can
reach p < .05 with so many rows (null: none can), ``power`` the chance that the test tells the original from gold with
so many, the same for every model. Under ``robustness`` stand the variants of a model (``MODEL/ATTACK``) with the sets
that were asked.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clear_dist.evaluation.aftermath import aftermath
from clear_dist.evaluation.control import is_control
from clear_dist.evaluation.membership import membership
from clear_dist.metrics.forget_quality import forget_quality, power, smallest_detectable
from clear_dist.metrics.interval import DRAWS, Estimate, mean_interval, percentile_interval, resample
from clear_dist.metrics.record import VERSION, Record, is_paper_row, variant
from clear_dist.metrics.same_data import refuse_mixed
from clear_dist.metrics.truth_ratio import Mean, record_ratio, truth_score
from clear_dist.metrics.utility import harmonic_means
from clear_dist.types import SETS, Example, SetName, UserError

GROUPS = ("all", "text", "visual")
METRICS = (
    "rouge_1",
    "rouge_l",
    "probability",
    "truth_ratio",
    "metric",
    "fact_accuracy",
    "name_accuracy",
    "name_accuracy_seen",
    "name_probability",
    "attribute_accuracy",
    "exact_memorisation",
    "extraction_strength",
)
NOT_UTILITY = ("forget", "holdout")  # to be forgotten, and never learned: no model is meant to know them
SEEN_ONLY = "no unseen pictures: measured on pictures seen in training"
Pick = Callable[[Record], float | None]


def _values(records: Iterable[Record], pick: Pick) -> list[float]:
    return [v for r in records if (v := pick(r)) is not None]


def _complete(table: NDArray[np.float64]) -> bool:
    """Whether every column of a [N, 3] table has a value."""
    return bool(table.size) and not bool(np.isnan(table).all(axis=0).any())


class _Averager:
    """The averages of one model, with one seed and one reading of the truth ratio."""

    def __init__(self, mean: Mean, seed: int, draws: int) -> None:
        self.mean: Mean = mean
        self.seed, self.draws = seed, draws

    def estimate(self, values: Sequence[float], note: str | None = None) -> dict[str, object] | None:
        if not values:
            return None
        return mean_interval(values, seed=self.seed, draws=self.draws, note=note).as_dict()

    def picks(self) -> tuple[Pick, Pick, Pick]:
        def truth(record: Record) -> float | None:
            ratio = record_ratio(record, self.mean)
            return None if ratio is None else truth_score(ratio, record.set)

        return (lambda r: r.score("rouge_l")), (lambda r: r.score("probability")), truth

    def table(self, records: Sequence[Record]) -> NDArray[np.float64]:
        """[N, 3]: ROUGE, probability, truth-ratio score of the paper's rows; NaN where absent."""
        rows = [[pick(r) for pick in self.picks()] for r in records if is_paper_row(r)]
        return np.array(rows, dtype=np.float64).reshape(-1, 3)

    def harmonic(
        self, tables: Sequence[NDArray[np.float64]], combine: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    ) -> dict[str, object] | None:
        """An estimate of ``combine`` ([..., 3 * len(tables)] -> [...]); None if any of its entries is absent."""
        if not tables or not all(_complete(table) for table in tables):
            return None
        point = np.concatenate([np.nanmean(t, axis=0) for t in tables])
        # Sets are resampled independently of each other, metrics of one set together.
        draws = np.concatenate([resample(t, self.draws, self.seed + i) for i, t in enumerate(tables)], axis=1)
        low, high = percentile_interval(combine(draws))
        return Estimate(float(combine(point)), low, high, sum(len(t) for t in tables)).as_dict()

    def group(self, records: Sequence[Record]) -> dict[str, dict[str, object] | None]:
        """All METRICS of one set and modality."""
        paper = [r for r in records if is_paper_row(r)]
        rouge, probability, truth = self.picks()
        naming = [r for r in records if r.kind in ("name", "choice") and r.score("name") is not None]
        unseen = [r for r in naming if not r.seen]
        seen = [r for r in naming if r.seen]
        note = None if unseen else SEEN_ONLY
        facts = [r for r in records if r.kind in ("qa", "choice")]
        return {
            "rouge_1": self.estimate(_values(paper, lambda r: r.score("rouge_1"))),
            "rouge_l": self.estimate(_values(paper, rouge)),
            "probability": self.estimate(_values(paper, probability)),
            "truth_ratio": self.estimate(_values(paper, truth)),
            "metric": self.harmonic([self.table(records)], harmonic_means),
            "fact_accuracy": self.estimate(_values(facts, lambda r: r.score("fact"))),
            "name_accuracy": self.estimate(_values(unseen or seen, lambda r: r.score("name")), note),
            "name_accuracy_seen": self.estimate(_values(seen, lambda r: r.score("name"))),
            "name_probability": self.estimate(
                _values((r for r in unseen or seen if r.kind == "name"), probability), note
            ),
            "attribute_accuracy": self.estimate(
                _values((r for r in records if r.kind == "attribute"), lambda r: r.score("fact"))
            ),
            "exact_memorisation": self.estimate(_values(paper, lambda r: r.score("exact_memorisation"))),
            "extraction_strength": self.estimate(_values(paper, lambda r: r.score("extraction_strength"))),
        }

    def groups(self, records: Sequence[Record]) -> dict[str, dict[str, dict[str, object] | None]]:
        """GROUP -> METRIC -> estimate, of one set."""
        return {g: self.group([r for r in records if g in ("all", r.modality)]) for g in GROUPS}


def _ratios(records: Sequence[Record], mean: Mean) -> dict[str, float]:
    """Id -> truth ratio R of the forget rows that have one."""
    rows = ((r.id, record_ratio(r, mean)) for r in records if r.set == "forget" and is_paper_row(r))
    return {key: ratio for key, ratio in rows if ratio is not None}


def _paired(model: Sequence[Record], gold: Sequence[Record], mean: Mean) -> tuple[list[float], list[float]] | None:
    """Truth ratios of a model and of gold, row by row. None where no row has one."""
    a, b = _ratios(model, mean), _ratios(gold, mean)
    if not a and not b:
        return None
    if a.keys() != b.keys():
        name, only = model[0].model, sorted(a.keys() ^ b.keys())[0]
        raise UserError(
            f"forget quality of model {name!r}: it and the gold model {gold[0].model!r} have truth ratios on different "
            f"forget rows (for example {only!r} has one in one of them only); evaluate both on the same data"
        )
    return list(a.values()), [b[key] for key in a]


def _quality(
    model: Sequence[Record], gold: Sequence[Record], mean: Mean, test_power: float | None
) -> dict[str, object] | None:
    """Forget quality over all forget rows with a truth ratio, and what the test can see on so many."""
    pair = _paired(model, gold, mean)
    if pair is None:
        return None
    quality = forget_quality(*pair)
    least = smallest_detectable(quality.n)
    return {**asdict(quality), "detectable": least if least <= 1 else None, "power": test_power}


def summarise(
    records: Iterable[Record],
    *,
    forget: Sequence[Example] = (),
    gold: str = "gold",
    original: str = "original",
    truth_ratio: Mean = "geometric",
    seconds: Mapping[str, float] | None = None,
    seed: int = 0,
    draws: int = DRAWS,
) -> dict[str, Any]:
    """Records of one or several models -> the content of summary.json.

    Args:
        records: of any number of models, in any order.
        forget: the forget set's examples, which know what is to be seen on a picture; without them ``aftermath`` is
            null.
        gold: the model forget quality and membership are measured against; where it is absent, forget quality and
            PrivLeak are null.
        original: the model before unlearning: whether the test tells it from gold is the test's power.
        truth_ratio: how wrong answers are averaged; geometric reproduces TOFU's published logs.
        seconds: what took how long, passed through.
        seed, draws: of the bootstrap.

    Raises UserError if two models (variants and the shuffled-pictures control apart) were evaluated on different rows
    of a set, or on the same ids of different data; and if a variant has no model.
    """
    by_model: dict[str, list[Record]] = {}
    for record in records:
        by_model.setdefault(record.model, []).append(record)
    refuse_mixed(by_model)
    averager = _Averager(truth_ratio, seed, draws)
    robust = _robustness(averager, by_model)
    golden = by_model.get(gold)
    test_power = None
    if golden and original in by_model and (pair := _paired(by_model[original], golden, truth_ratio)):
        test_power = power(*pair, draws=draws, seed=seed)
    models = {}
    for model, rows in by_model.items():
        if variant(model):
            continue
        sets: dict[SetName, list[Record]] = {name: [r for r in rows if r.set == name] for name in SETS}
        tables: dict[SetName, NDArray[np.float64]] = {name: averager.table(part) for name, part in sets.items()}
        control = is_control(model)
        compared = golden if model != gold and not control else None
        models[model] = {
            "sets": {name: averager.groups(part) for name, part in sets.items()},
            "forget_quality": _quality(rows, compared, truth_ratio, test_power) if compared else None,
            "membership": None if control else membership(rows, compared),
            "aftermath": None if control else aftermath(rows, forget, seed=seed, draws=draws),
            "robustness": robust.get(model),
            "model_utility": _utility(averager, tables),
            "real_metric": averager.harmonic(
                [tables["real_faces"], tables["real_world"]],
                lambda v: (harmonic_means(v[..., :3]) + harmonic_means(v[..., 3:])) / 2,
            ),
        }
    return {"v": VERSION, "models": models, "seconds": dict(seconds or {})}


def _robustness(averager: _Averager, by_model: Mapping[str, Sequence[Record]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Model -> attack -> set -> group -> metric -> estimate, of the variants; UserError on one without a model."""
    out: dict[str, dict[str, dict[str, Any]]] = {}
    for name, rows in by_model.items():
        if not (parts := variant(name)):
            continue
        model, attack = parts
        if model not in by_model:
            raise UserError(
                f"records of {name!r} are there, but none of the model {model!r} itself: an attack is read beside the "
                "model without it; evaluate the model too, or delete these records"
            )
        sets = {s: [r for r in rows if r.set == s] for s in SETS}
        out.setdefault(model, {})[attack] = {s: averager.groups(part) for s, part in sets.items() if part}
    return out


def _utility(averager: _Averager, tables: Mapping[SetName, NDArray[np.float64]]) -> dict[str, object] | None:
    """Harmonic mean over the three metrics of every set but NOT_UTILITY; says which of the others were not there."""
    kept: list[SetName] = [name for name in SETS if name not in NOT_UTILITY]
    there: list[SetName] = [name for name in kept if _complete(tables[name])]
    utility = averager.harmonic([tables[name] for name in there], harmonic_means)
    missing = [name for name in kept if name not in there]
    if utility is not None and missing:
        utility["note"] = "without " + ", ".join(missing)
    return utility


def write_summary(path: Path, summary: Mapping[str, Any]) -> None:
    """Writes summary.json by a rename. Raises UserError on a value that is not finite."""
    try:
        text = json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise UserError(f"{path}: a value of the summary is not a finite number") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(text + "\n", encoding="utf-8")
    os.replace(temporary, path)
