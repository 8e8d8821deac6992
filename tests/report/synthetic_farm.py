"""A made-up attack on a farm, as its files: ten rows whose logits are normal, d standard deviations from never seen."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

NORMAL = NormalDist()
HALF = 0.045  # half the width of an interval
COLUMNS = (
    "method", "id", "identity", "enrolled", "n_forgotten", "n_never", "mean_forgotten", "sd_forgotten", "mean_never",
    "sd_never", "u_lira", "u_mia",
)  # fmt: skip


@dataclass(frozen=True)
class Known:
    """A row. d: distance of forgotten from never seen; shift: of its forget logits from the original's, in logits."""

    name: str
    d: float
    forget: float
    retain: float
    shift: float = 0.0
    traced: bool = True


ROWS = (
    Known("original", 4.5, 1.0, 1.0, traced=False),
    Known("gold", 0.0, 0.16, 0.97, -1.6, traced=False),
    Known("retain_ft", 3.2, 0.99, 1.0, -0.2),
    Known("scrub", 2.6, 0.97, 0.99, -0.3),
    Known("llmu", 1.9, 0.84, 0.88, -0.5),
    Known("rmu", 1.5, 0.62, 0.99, -2.4),
    Known("dpo", 1.1, 0.47, 0.74, -1.2),
    Known("scrub_bio", 0.4, 0.38, 0.98, -1.3),
    Known("twins", 0.1, 0.18, 0.99, -1.6),
    Known("sparsity", 0.9, 0.6, 0.82, -0.9, traced=False),
)


def share(value: float, half: float = HALF) -> dict[str, Any]:
    """A figure with its interval, kept within [0, 1]."""
    value = min(max(value, 0.0), 1.0)
    return {"value": value, "ci": [max(0.0, value - half), min(1.0, value + half)], "n": 64}


def accuracy(d: float) -> float:
    """The best accuracy on two normal distributions of one variance, d apart."""
    return NORMAL.cdf(d / 2)


def _attack(d: float, **more: Any) -> dict[str, Any]:
    rates = {f"{r:g}": share(NORMAL.cdf(d + NORMAL.inv_cdf(r))) for r in (0.01, 0.05)}
    return {"accuracy": share(accuracy(d)), "auc": share(NORMAL.cdf(d / 2**0.5)),
            "tpr_at_fpr": {"0.001": None, **rates}, **more}  # fmt: skip


def _row(known: Known) -> dict[str, Any]:
    estimators = {e: share(accuracy(known.d * f)) for e, f in
                  (("mad", 0.8), ("std", 1.0), ("pooled", 1.05), ("global", 1.02))}  # fmt: skip
    return {
        "forget_acc": share(known.forget, 0.03),
        "holdout_acc": share(0.17, 0.02),
        "retain_acc": share(known.retain, 0.01),
        "u_lira": _attack(known.d, variance="std", estimators=estimators),
        "u_mia": _attack(0.7 * known.d),
    }


def _roc(d: float) -> list[list[float]]:
    rates = np.geomspace(1e-4, 1, 80)[:-1]
    return [[0.0, 0.0], *([float(r), NORMAL.cdf(d + NORMAL.inv_cdf(float(r)))] for r in rates), [1.0, 1.0]]


def _density(edges: np.ndarray, mean: float, sd: float) -> list[float]:
    below = np.array([NormalDist(mean, sd).cdf(float(e)) for e in edges])
    return [float(v) for v in np.diff(below) / np.diff(edges)]


def _distributions(known: Known, edges: np.ndarray) -> dict[str, Any]:
    spread = 0.35 if known.name == "rmu" else 0.6
    return {
        "bins": edges.tolist(),
        "forget": _density(edges, 2.0 + known.shift, spread),
        "holdout": _density(edges, 0.4 if known.name != "rmu" else 0.2, 0.6),
        "never": _density(edges, 0.4, 0.6),
    }


def _epochs(known: Known, epochs: int) -> list[dict[str, Any]]:
    out = []
    for epoch in range(epochs + 1):
        done = 1 - np.exp(-1.2 * epoch)
        out.append({
            "epoch": float(epoch),
            "forget_acc": share(float(1 + (known.forget - 1) * done), 0.04),
            "holdout_acc": share(float(0.18 - 0.02 * done), 0.02),
            "retain_acc": share(float(1 + (known.retain - 1) * done), 0.02),
            "u_lira": share(accuracy(float(4.5 + (known.d - 4.5) * done))),
        })  # fmt: skip
    return out


def _examples(path: Path, people: Sequence[str], rows: Sequence[Known], pictures: int) -> None:
    rng = np.random.default_rng(0)
    ease = rng.normal(0, 0.5, (len(people), pictures)) + rng.normal(0, 0.4, (len(people), 1))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for known in rows:
            for i, person in enumerate(people):
                for j in range(pictures):
                    enrolled = j == 0
                    right = round(32 * accuracy(max(0.0, known.d + ease[i, j]) if known.d else 0.0)) / 32
                    shown = ["", ""] if enrolled else [f"{right:.6f}", f"{0.5 + 0.7 * (right - 0.5):.6f}"]
                    writer.writerow([known.name, f"{person}/{j:02d}.png", person, int(enrolled), 64, 64,
                                     f"{2 + known.shift:.3f}", "0.600", "0.400", "0.600", *shown])  # fmt: skip


def make_farm(
    folder: Path,
    rows: Sequence[Known] = ROWS,
    people: Sequence[str] = tuple(f"identity_{i:03d}" for i in range(20)),
    pictures: int = 6,
    command: str = "clear-dist attack --farm runs/farm --out runs/attack",
) -> Path:
    """Writes attack.json, curves.json, examples.csv and run.json and returns the folder."""
    folder.mkdir(parents=True)
    edges = np.linspace(-4, 5, 61)
    curves = {
        "v": 1,
        "roc": {k.name: {"u_lira": _roc(k.d), "u_mia": _roc(0.7 * k.d)} for k in rows},
        "distributions": {k.name: _distributions(k, edges) for k in rows},
        "epochs": {k.name: _epochs(k, 5 if i % 2 else 4) for i, k in enumerate(rows) if k.traced},
    }
    run = {
        "v": 1, "recipe": "attack", "command": command,
        "config": {"farm": "runs/farm", "out": "runs/attack", "enrolment": "held_out", "variance": "std", "folds": 5,
                   "draws": 1000, "seed": 0},
        "finished": True, "farm_digest": "ab" * 32, "enrolment": "held_out", "pictures": 100, "skipped": {},
        "settings": {"images": "data/faces.zip", "size": 64, "models": 128, "forget": 20, "holdout": 20,
                     "design": "fixed_block", "enrol": 5, "network": {"size": "18", "stem": "standard"}},
        "models": {k.name: {"forgotten": 64 - (k.name == "sparsity"), "never": 64} for k in rows},
        "incomplete": ["unlearn/sparsity/063"],
    }  # fmt: skip
    (folder / "attack.json").write_text(json.dumps({"v": 1, **{k.name: _row(k) for k in rows}}))
    (folder / "curves.json").write_text(json.dumps(curves))
    (folder / "run.json").write_text(json.dumps(run))
    _examples(folder / "examples.csv", people, rows, pictures)
    return folder
