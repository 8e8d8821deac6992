"""``summary.json``: averages with intervals, per model, set and modality. Computed from records alone.

    {"v":1, "models":{MODEL:{"sets":{SET:{"all"|"text"|"visual":{METRIC:{"value","ci","n"[,"note"]}|null}}},
                             "forget_quality":{"p","ln_p","ks","n"}|null, "model_utility":{..}|null,
                             "real_metric":{..}|null, "aftermath":{MEASURE:{..}|null}|null}},
     "seconds":{...}}

METRIC is one of METRICS. What was not measured is null, never 0.
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
from clear_dist.evaluation.predict import ratio_of
from clear_dist.metrics.forget_quality import forget_quality
from clear_dist.metrics.interval import DRAWS, Estimate, mean_interval, percentile_interval, resample
from clear_dist.metrics.record import VERSION, Record
from clear_dist.metrics.truth_ratio import Mean, truth_score
from clear_dist.metrics.utility import harmonic_means
from clear_dist.types import SETS, Example, SetName, UserError

GROUPS = ("all", "text", "visual")
METRICS = (
    "rouge_l",
    "probability",
    "truth_ratio",
    "metric",
    "fact_accuracy",
    "name_accuracy",
    "name_accuracy_seen",
    "name_probability",
    "attribute_accuracy",
)
SEEN_ONLY = "no unseen pictures: measured on pictures seen in training"
Pick = Callable[[Record], float | None]


def is_paper_row(record: Record) -> bool:
    """Rows behind ROUGE, probability and truth ratio: questions and captions, and multiple choice.

    CLEAR has no others; CLEAR-mini's bare name, description and attribute questions have accuracies of their own.
    """
    return record.kind in ("qa", "caption", "choice") or bool(record.logp.options)


def _ratio(record: Record, mean: Mean) -> float | None:
    """R from the stored log-probabilities; the stored score stands in where there are none (imported logs)."""
    ratio = ratio_of(record.logp, mean)
    return record.score("truth_ratio") if ratio is None and mean == "geometric" else ratio


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
            ratio = _ratio(record, self.mean)
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
        }


def _quality(model: Sequence[Record], gold: Sequence[Record], mean: Mean) -> dict[str, object] | None:
    """Forget quality over all forget rows with a truth ratio. None where no row has one."""

    def ratios(records: Sequence[Record]) -> dict[str, float]:
        rows = ((r.id, _ratio(r, mean)) for r in records if r.set == "forget" and is_paper_row(r))
        return {key: ratio for key, ratio in rows if ratio is not None}

    a, b = ratios(model), ratios(gold)
    if not a and not b:
        return None
    if a.keys() != b.keys():
        name, only = model[0].model, sorted(a.keys() ^ b.keys())[0]
        raise UserError(
            f"forget quality of model {name!r}: it and the gold model {gold[0].model!r} were evaluated on different "
            f"forget rows (for example {only!r} is in one of them only); evaluate both on the same data"
        )
    return asdict(forget_quality(list(a.values()), [b[key] for key in a]))


def summarise(
    records: Iterable[Record],
    *,
    forget: Sequence[Example] = (),
    gold: str = "gold",
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
        gold: the model forget quality is measured against; where it is absent, forget quality is null.
        truth_ratio: how wrong answers are averaged; geometric reproduces TOFU's published logs.
        seconds: what took how long, passed through.
        seed, draws: of the bootstrap.

    Raises UserError if a model was evaluated on other forget rows than the gold model.
    """
    by_model: dict[str, list[Record]] = {}
    for record in records:
        by_model.setdefault(record.model, []).append(record)
    averager = _Averager(truth_ratio, seed, draws)
    models = {}
    for model, rows in by_model.items():
        sets: dict[SetName, list[Record]] = {name: [r for r in rows if r.set == name] for name in SETS}
        tables: dict[SetName, NDArray[np.float64]] = {name: averager.table(part) for name, part in sets.items()}
        comparable = gold in by_model and model != gold and not is_control(model)
        quality = _quality(rows, by_model[gold], truth_ratio) if comparable else None
        models[model] = {
            "sets": {
                name: {g: averager.group([r for r in part if g in ("all", r.modality)]) for g in GROUPS}
                for name, part in sets.items()
            },
            "forget_quality": quality,
            "aftermath": None if is_control(model) else aftermath(rows, forget, seed=seed, draws=draws),
            "model_utility": _utility(averager, tables),
            "real_metric": averager.harmonic(
                [tables["real_faces"], tables["real_world"]],
                lambda v: (harmonic_means(v[..., :3]) + harmonic_means(v[..., 3:])) / 2,
            ),
        }
    return {"v": VERSION, "models": models, "seconds": dict(seconds or {})}


def _utility(averager: _Averager, tables: Mapping[SetName, NDArray[np.float64]]) -> dict[str, object] | None:
    """Harmonic mean over the three metrics of every set but the forget set; says which sets were not there."""
    kept: list[SetName] = [name for name in SETS if name != "forget"]
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
