"""What other commands add to a run: labels of answers, attacks, a judge. Made up, in the form of summary.json."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from clear_dist.metrics.interval import mean_interval
from clear_dist.metrics.record import Record, is_control

LABELS = ("leaked", "degenerate", "refused", "hallucinated", "informative", "vague")
ATTACKS = ("int8", "int4", "paraphrase", "prefix_worst", *(f"relearn_forget@{s}" for s in (1, 5, 20)))
STEPS = tuple(f"relearn_retain@{s}" for s in (1, 5, 20))


def figure(value: float, n: int = 60, half: float = 0.06) -> dict[str, Any]:
    return {"value": value, "ci": [max(0.0, value - half), min(1.0, value + half)], "n": n}


def labelled(records: Iterable[Record]) -> list[Record]:
    """Labels on answers about forget pictures: leaked where the name is in them, others in turn."""
    out = []
    for i, record in enumerate(records):
        r = record
        asked = r.set == "forget" and r.modality == "visual" and r.kind in ("name", "caption", "describe")
        if asked and not is_control(r.model):
            named = r.person is not None and r.person in (r.generated or "")
            r = replace(r, label="leaked" if named else LABELS[1 + (i * 7) % 5] if i % 3 else "informative")
        out.append(r)
    return out


def _labels(records: list[Record], model: str) -> dict[str, Any] | None:
    found = [r.label for r in records if r.model == model and r.label is not None]
    return {label: mean_interval([float(x == label) for x in found]).as_dict() for label in LABELS} if found else None


def _accuracy(block: Mapping[str, Any], set_name: str, metric: str) -> float | None:
    found = block["sets"][set_name]["all"].get(metric)
    return None if found is None else found["value"]


def enriched(summary: dict[str, Any], records: list[Record]) -> dict[str, Any]:
    """The summary with every block that its form knows."""
    models = summary["models"]
    for model, block in models.items():
        if is_control(model):
            continue
        rng = random.Random(model)
        still = _accuracy(block, "forget", "fact_accuracy") or 0.0
        block["aftermath"] = {
            "named": figure(still),
            "named_anyone": figure(min(1.0, still + 0.05)),
            "attribute_recall": figure(0.4 + 0.3 * rng.random()),
            "attribute_precision": figure(0.8),
            "attribute_f1": figure(0.6),
            "clip_score": None,
            "labels": _labels(records, model),
        }
        top = 0.97
        block["robustness"] = {}
        for attack in (*ATTACKS, *STEPS):
            step = int(attack.partition("@")[2] or 0)
            gain = (0.1 + 0.75 * still if model != "gold" else 0.02) * min(1.0, step / 12) + 0.02 * (not step)
            if "retain" in attack:
                gain *= 0.3
            value = min(top, still + gain)
            block["robustness"][attack] = {
                "forget": {"all": {"name_accuracy": figure(value), "fact_accuracy": figure(value * 0.9),
                                   "rouge_l": figure(0.5 + value / 3)}, "text": {}, "visual": {}},
            }  # fmt: skip
        auc = 0.5 + 0.45 * still
        block["membership"] = {
            attack: {"auc": figure(auc), "privleak": None if model == "gold" else round(100 * (auc - 0.51) / 0.49, 2)}
            for attack in ("loss", "zlib", "min_k", "min_k_plus", "reference")
        }
        if model == "gold":
            block["membership"]["reference"] = None
        block["judge"] = {
            "privacy": {"value": 4.2, "ci": [3.9, 4.5], "n": 40},
            "informativeness": {"value": 2.5, "ci": [2.1, 2.9], "n": 40},
            "hallucination": {"value": 1.5, "ci": [1.2, 1.9], "n": 40},
            "invalid": 2,
            "judge_model": "a judge",
            "prompt_version": 1,
        }
        for name, part in block["sets"].items():
            whole = part["all"]
            if any(whole.values()):
                whole["exact_memorisation"] = figure(0.9 if name != "forget" else still)
                whole["extraction_strength"] = figure(0.8 if name != "forget" else still / 2)
    return summary
