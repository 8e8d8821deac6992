"""What an attack writes: attack.json, examples.csv, curves.json; and its table in the terminal."""

from __future__ import annotations

import csv
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from clear_dist.attacks.bootstrap import Attacked, Found
from clear_dist.attacks.logits import Logits
from clear_dist.attacks.membership_curve import example_accuracy
from clear_dist.attacks.u_lira import Variance
from clear_dist.metrics.interval import Estimate
from clear_dist.services.flat import csv_cell

from .attack_rows import Floats, Ints

if TYPE_CHECKING:
    from clear_dist.shadow.results import FarmResults

COLUMNS = (
    "method", "id", "identity", "enrolled", "n_forgotten", "n_never",
    "mean_forgotten", "sd_forgotten", "mean_never", "sd_never", "u_lira", "u_mia",
)  # fmt: skip


def write_text(path: Path, text: str) -> None:
    """Replaced in one step, so that a reader never sees half a file."""
    part = path.with_name(f"{path.name}.part")
    with part.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def estimate(value: Estimate | None) -> dict[str, object] | None:
    return None if value is None else value.as_dict()


def attack_row(accuracies: Mapping[str, Estimate | None], found: Attacked, variance: Variance) -> dict[str, Any]:
    """A row of attack.json."""
    more = {"variance": variance, "estimators": {v: e.as_dict() for v, e in found.estimators.items()}}
    return {
        **{name: estimate(value) for name, value in accuracies.items()},
        "u_lira": _found(found.u_lira) | more,
        "u_mia": _found(found.u_mia),
    }


def _found(found: Found) -> dict[str, Any]:
    return {
        "accuracy": found.accuracy.as_dict(),
        "auc": found.auc.as_dict(),
        "tpr_at_fpr": {f"{fpr:g}": estimate(value) for fpr, value in found.tpr.items()},
    }


def example_rows(
    results: FarmResults, row: str, pictures: Ints, logits: Logits, found: Attacked
) -> list[dict[str, object]]:
    """Lines of examples.csv: per picture under attack how many models there are on either side, mean and standard
    deviation (n - 1) of their logits, and the balanced accuracy of each attack."""
    sides = {"forgotten": logits.forgotten, "never": logits.never}
    n = {side: (~np.isnan(values)).sum(axis=0) for side, values in sides.items()}
    moments = {side: _moments(values) for side, values in sides.items()}
    right = {"u_lira": example_accuracy(found.u_lira.scores), "u_mia": example_accuracy(found.u_mia.scores)}
    out: list[dict[str, object]] = []
    for place, picture in enumerate(pictures.tolist()):
        line: dict[str, object] = {
            "method": row,
            "id": results.ids[picture],
            "identity": results.names[int(results.identity[picture])],
            "enrolled": bool(results.enrolled[picture]),
        }
        for side, (mean, sd) in moments.items():
            line |= {
                f"n_{side}": int(n[side][place]),
                f"mean_{side}": float(mean[place]),
                f"sd_{side}": float(sd[place]),
            }
        out.append(line | {attack: float(values[place]) for attack, values in right.items()})
    return out


def _moments(values: Floats) -> tuple[Floats, Floats]:
    with warnings.catch_warnings():  # an example without two models on a side is refused before
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanmean(values, axis=0), np.nanstd(values, axis=0, ddof=1)


def write_examples(path: Path, lines: Sequence[Mapping[str, object]]) -> None:
    part = path.with_name(f"{path.name}.part")
    with part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for line in lines:
            writer.writerow([csv_cell(line[name]) for name in COLUMNS])
    part.replace(path)


def terminal_table(rows: Mapping[str, Mapping[str, Any]]) -> Table:
    """Method, accuracies in percent, both attacks; each with its interval."""
    table = Table(title="identified, %, and told from people never seen (.5: chance); 95% intervals", pad_edge=False)
    for name in ("method", "forget", "holdout", "retain", "U-LIRA", "U-MIA"):
        table.add_column(name, justify="left" if name == "method" else "right", no_wrap=True)
    for name, row in rows.items():
        shares = [_cell(row[f"{group}_acc"], 100, 0) for group in ("forget", "holdout", "retain")]
        table.add_row(escape(name), *shares, *(_cell(row[a]["accuracy"], 1, 2) for a in ("u_lira", "u_mia")))
    return table


def _cell(value: Mapping[str, Any] | None, scale: int, digits: int) -> str:
    if value is None:
        return "-"
    low, high = value["ci"]
    return escape(f"{scale * value['value']:.{digits}f} [{scale * low:.{digits}f}, {scale * high:.{digits}f}]")
