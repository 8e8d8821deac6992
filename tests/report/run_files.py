"""Small run directories for tests: figures chosen by hand, a record or two, no pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clear_dist.evaluation.records import write_records
from clear_dist.metrics.record import LogProbs, Record


def figure(value: float, n: int = 40, note: str | None = None) -> dict[str, Any]:
    out: dict[str, Any] = {"value": value, "ci": [max(0.0, value - 0.1), min(1.0, value + 0.1)], "n": n}
    return out if note is None else {**out, "note": note}


def block(
    forget: float = 0.4,
    retain: float = 0.8,
    *,
    names: float = 0.1,
    facts: float = 0.2,
    ks: float | None = None,
    **more: Any,
) -> dict[str, Any]:
    """A model's part of a summary: Forget and Retain metric, name and fact accuracy on forget."""
    known = {"name_accuracy": figure(names), "fact_accuracy": figure(facts)}
    sets = {
        "forget": {"all": {"metric": figure(forget), **known}, "text": {"fact_accuracy": figure(facts)},
                   "visual": {"name_accuracy": figure(names)}},
        "retain": {"all": {"metric": figure(retain), "name_accuracy": figure(retain), "fact_accuracy": figure(retain)},
                   "text": {"fact_accuracy": figure(retain)}, "visual": {"name_accuracy": figure(retain)}},
    }  # fmt: skip
    quality = None if ks is None else {"p": 0.01, "ln_p": -4.6, "ks": ks, "n": 36}
    return {"sets": sets, "forget_quality": quality, "real_metric": figure(0.5), "model_utility": None, **more}


ORIGINAL = block(0.3, 0.9, names=0.9, facts=1.0)
GOLD = block(0.35, 0.9, names=0.0, facts=0.1)


def records(model: str = "unlearned", ids: Sequence[str] = ("a", "b"), answer: str = "Ada") -> list[Record]:
    logp = LogProbs((-0.5, -0.1), (-1.0,), ((-2.0,), (-3.0, -1.0)))
    return [
        Record(model, "forget", "text", "qa", i, "Who?", answer, person="Ada", generated="Bo", logp=logp) for i in ids
    ]


def write(
    folder: Path,
    models: Mapping[str, Any] | None = None,
    *,
    config: Mapping[str, Any] | None = None,
    digest: str | None = "d",
    rows: Sequence[Record] | None = None,
    seconds: float = 12.0,
) -> Path:
    """A run directory: original, unlearned and gold unless ``models`` says otherwise."""
    folder.mkdir(parents=True)
    models = {"original": ORIGINAL, "unlearned": block(), "gold": GOLD} if models is None else models
    summary = {"v": 1, "models": models, "seconds": {"unlearn": seconds}}
    (folder / "summary.json").write_text(json.dumps(summary))
    run: dict[str, Any] = {"v": 1, "config": {"method": folder.name, "modality": "both", "seed": 0, **(config or {})}}
    (folder / "run.json").write_text(json.dumps(run if digest is None else {**run, "data_digest": digest}))
    if rows is None:
        rows = [r for model in models for r in records(model)]
    if rows:
        write_records(folder / "records.jsonl", rows)
    return folder
